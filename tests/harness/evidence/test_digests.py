"""Digests of runs: they spare reading, and never say what reading would not."""

from __future__ import annotations

import io
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from gpt2.assignments import Assignment
from gpt2.dotconfig import resolve
from harness.configure.plan import Plan, make_plan
from harness.evidence import digests
from harness.evidence.digests import FILES, Digest, Digests, SummaryTable, digest_of
from harness.evidence.runs import load_run
from harness.evidence.store import load_experiment
from harness.evidence.summary_table import write_summary_csv
from harness.launch.status import print_status
from harness.measure.planning import write_as_done
from tests.harness.evidence.test_damage import ANY_FILE, one_run
from tests.harness.synthetic_runs import write_ablation, write_run

STEP = "ra-v5-eager"


@pytest.fixture
def settled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files count as old as soon as they are written. Those of a test never change within a tick of being read."""
    monkeypatch.setattr(digests, "SETTLED_NS", -(10**12))


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The directories of the runs whose records are read."""
    directories: list[Path] = []

    def reading(directory: Path, step: str, seed: int) -> object:
        directories.append(directory)
        return load_run(directory, step, seed)

    monkeypatch.setattr(digests, "load_run", reading)
    return directories


def of(run: Path) -> Digest:
    """As a command has it that begins now."""
    return Digests(run.parents[1]).of(run, run.parent.name, int(run.name.removeprefix("seed-")))


def kept(run: Path) -> Digest:
    known = Digests(run.parents[1])
    digest = known.of(run, run.parent.name, int(run.name.removeprefix("seed-")))
    known.keep()
    return digest


def read(run: Path) -> Digest:
    return digest_of(load_run(run, run.parent.name, int(run.name.removeprefix("seed-"))))


@pytest.mark.usefixtures("settled")
@pytest.mark.parametrize("status", ["done", "failed", "interrupted"])
def test_a_run_that_has_ended_is_read_once(tmp_path: Path, reads: list[Path], status: str) -> None:
    run = write_run(tmp_path, STEP, 1, gates=("w_rec",), status=status)
    first = kept(run)
    assert reads == [run]
    assert of(run) == first == read(run)
    assert reads == [run]


@pytest.mark.usefixtures("settled")
def test_what_has_not_ended_is_read_each_time(tmp_path: Path, reads: list[Path]) -> None:
    run = write_run(tmp_path, STEP, 1, status=None)
    assert (kept(run).status, of(run).status, len(reads)) == ("unfinished", "unfinished", 2)
    absent = tmp_path / STEP / "seed-2"
    assert kept(absent) == read(absent) and kept(absent).status == "pending"


@pytest.mark.usefixtures("settled")
@pytest.mark.parametrize("what", ANY_FILE)
@pytest.mark.parametrize("name", FILES)
def test_a_file_that_is_damaged_after_it_was_read_is_seen(tmp_path: Path, name: str, what: str) -> None:
    run = one_run(tmp_path)
    assert kept(run).status == "done"
    ANY_FILE[what](run / name)
    assert of(run) == read(run)
    assert of(run).status == "damaged"


def same_size_and_times(path: Path) -> None:
    before = path.stat()
    path.write_bytes(path.read_bytes().replace(b"0", b"1"))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


CHANGES: dict[str, Callable[[Path], object]] = {
    "another digit, its size and times as before": same_size_and_times,
    "removed": lambda path: path.unlink(),
    "another in its place": lambda path: shutil.move(shutil.copy2(path, path.with_name("copy")), path),
}


@pytest.mark.usefixtures("settled")
@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("name", FILES)
def test_a_file_that_is_changed_is_read_again(tmp_path: Path, reads: list[Path], name: str, change: str) -> None:
    run = one_run(tmp_path)
    kept(run)
    CHANGES[change](run / name)
    assert of(run) == read(run)
    assert len(reads) == 2


def test_files_that_were_just_written_are_not_kept(tmp_path: Path, reads: list[Path]) -> None:
    """They might be written again within a tick of the clock, with the same size."""
    run = one_run(tmp_path)
    assert kept(run) == of(run)
    assert len(reads) == 2


@pytest.mark.usefixtures("settled")
def test_a_copied_experiment_is_read_for_itself(tmp_path: Path, reads: list[Path]) -> None:
    run = one_run(tmp_path / "a")
    kept(run)
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    copy = tmp_path / "b" / STEP / "seed-1"
    assert of(copy) == read(copy)
    assert reads == [run, copy]


@given(at=st.integers(0, 2000), byte=st.integers(1, 255), cut=st.booleans())
def test_a_cache_that_is_damaged_anywhere_says_nothing(
    tmp_path_factory: pytest.TempPathFactory, at: int, byte: int, cut: bool
) -> None:
    folder = tmp_path_factory.mktemp("e")
    runs = [one_run(folder, seed) for seed in (1, 2)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(digests, "SETTLED_NS", -(10**12))
        for run in runs:
            kept(run)
        cache = folder / ".digests"
        data = bytearray(cache.read_bytes())
        at %= len(data)
        data[at] ^= byte
        cache.write_bytes(bytes(data[:at] if cut else data))
        assert [kept(run) for run in runs] == [read(run) for run in runs]
        assert [of(run) for run in runs] == [read(run) for run in runs]


@pytest.mark.usefixtures("settled")
def test_entries_of_other_code_are_not_believed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reads: list[Path]
) -> None:
    run = one_run(tmp_path)
    kept(run)
    monkeypatch.setattr(digests, "_key", lambda: b"another")
    assert of(run) == read(run)
    assert len(reads) == 2


@pytest.mark.usefixtures("settled")
def test_a_cache_of_what_there_is_no_more_is_written_anew(tmp_path: Path) -> None:
    for _ in range(120):
        run = write_run(tmp_path, STEP, 1)
        kept(run)
    assert (tmp_path / ".digests").read_bytes().count(b"\n") < 220
    assert of(run) == read(run)


@pytest.mark.usefixtures("settled")
def test_where_nothing_can_be_kept_nothing_is(tmp_path: Path) -> None:
    (tmp_path / ".digests").mkdir()
    run = one_run(tmp_path)
    assert kept(run) == of(run) == read(run)
    Digests(tmp_path / "absent").keep()
    assert not (tmp_path / "absent").exists()


def test_summary_csv_is_what_the_records_say(tmp_path: Path) -> None:
    write_ablation(tmp_path)
    other = write_run(tmp_path, "ra-v5-eager", 7, gates=("w_rec",))  # without w_std: another model
    (write_run(tmp_path, "mla", 1) / "summary.json").write_text("{")
    write_run(tmp_path, "mla", 2, status=None)
    expected = write_summary_csv(load_experiment(tmp_path)).read_bytes()
    assert b"ra-v5-eager,7,damaged" in expected
    (tmp_path / "summary.csv").unlink()
    table = SummaryTable(tmp_path)
    for _ in range(2):
        table.write()
        assert (tmp_path / "summary.csv").read_bytes() == expected
    shutil.rmtree(other)
    table.write()
    assert (tmp_path / "summary.csv").read_bytes() == write_summary_csv(load_experiment(tmp_path)).read_bytes()


def test_a_table_sees_what_another_process_has_trained(tmp_path: Path) -> None:
    write_run(tmp_path, "baseline", 1)
    with SummaryTable(tmp_path) as table:
        table.run_ended()
        assert (tmp_path / "summary.csv").read_text().count(",done,") == 1
        write_run(tmp_path, "baseline", 2)
        write_run(tmp_path, "baseline", 1, status="failed")
        table.run_ended()
        text = (tmp_path / "summary.csv").read_text()
        assert (text.count(",done,"), text.count(",failed,")) == (1, 1)


@pytest.mark.usefixtures("settled")
@pytest.mark.parametrize("runs", [50, 220])
def test_what_a_run_costs_does_not_grow_with_their_number(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reads: list[Path], runs: int
) -> None:
    rows: list[int] = []
    write = digests.write_csv
    monkeypatch.setattr(digests, "write_csv", lambda path, c, r: (rows.append(len(r)), write(path, c, r)))
    source = write_run(tmp_path, "baseline", 0)
    for seed in range(1, runs):
        shutil.copytree(source, tmp_path / "baseline" / f"seed-{seed}")
        config = tmp_path / "baseline" / f"seed-{seed}" / "provenance.json"
        config.write_text(config.read_text().replace('"SEED": 0', f'"SEED": {seed}'))
    with SummaryTable(tmp_path) as table:
        for _ in range(runs):
            table.run_ended()
    assert sum(rows) <= 101 * runs
    assert len(reads) == runs
    assert (tmp_path / "summary.csv").read_text().count(",done,") == runs


def planned(folder: Path, seeds: int) -> Plan:
    settings = {"RA_MLA_ABLATION_MODE": "y", "RA_MLA_ABLATION_STEPS": "1,2", "ABLATION_SEEDS": f"1-{seeds}"}
    settings |= {"RESULTS_DIR": str(folder), "MAX_ITERS": "20"}
    return make_plan(resolve([Assignment(*setting, "test") for setting in settings.items()]))


@pytest.mark.usefixtures("settled")
def test_status_of_twice_as_many_runs_costs_twice_as_much(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reads: list[Path]
) -> None:
    calls: list[str] = []

    def counted(name: str) -> Callable[..., object]:
        real = getattr(os, name)
        return lambda *args, **kwargs: (calls.append(name), real(*args, **kwargs))[1]

    for name in ("stat", "lstat", "open"):
        monkeypatch.setattr(os, name, counted(name))
    counts = []
    for seeds in (10, 20):
        plan = planned(tmp_path / str(seeds), seeds)
        for state in ("pending", "read", "known"):
            if state == "read":
                write_as_done(plan)
            reads.clear()
            calls.clear()
            out = io.StringIO()
            print_status(plan, Console(file=out, width=100))
            assert out.getvalue().count("pending" if state == "pending" else "done") == 2 * seeds
            assert "another run" not in out.getvalue() and "damaged" not in out.getvalue()
            assert len(reads) == (0 if state == "known" else 2 * seeds)
            counts.append(len(calls))
    for few, many in zip(counts[:3], counts[3:], strict=True):
        assert many <= 2 * few
    assert counts[2] <= 10 * 20 + 20, "of a run that is known only the state of its files is asked for"


@pytest.mark.usefixtures("settled")
def test_another_run_is_named_whether_it_is_read_or_known(tmp_path: Path) -> None:
    plan = planned(tmp_path, 3)
    write_as_done(plan)
    path = plan.runs[2].path / "provenance.json"
    recorded = json.loads(path.read_text())
    recorded["identity"]["MAX_ITERS"] = 30
    path.write_text(json.dumps(recorded))
    for _ in range(2):
        out = io.StringIO()
        print_status(plan, Console(file=out, width=200))
        assert f"{plan.runs[2].name} holds another run: CONFIG_MAX_ITERS is 30 there and 20 here" in out.getvalue()
        assert out.getvalue().count("another run") == 2
