"""Files of a run that are damaged, or somebody else's: one line each, and the other runs are as they were."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from gpt2.base.errors import UserError
from gpt2.run.records import read_metrics, read_provenance, read_summary
from harness.configure.plan import make_plan
from harness.evidence.runs import RunRecord, load_run
from harness.evidence.store import load_experiment
from harness.launch.runner import run_plan
from harness.launch.status import print_status
from harness.report.report import print_report, write_report
from scripts import plots
from tests.harness.synthetic_runs import write_run
from tests.tiny import tiny

# What can be wrong with any file: it is written anew, or something else stands in its place.


def content(data: bytes) -> Callable[[Path], None]:
    return lambda path: void(path.write_bytes(data))


def void(_: object) -> None:
    pass


def replaced(make: Callable[[Path], object]) -> Callable[[Path], None]:
    def damage(path: Path) -> None:
        path.unlink()
        make(path)

    return damage


def cut_in_half(path: Path) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2 - 3] + b"\n")


def huge(path: Path) -> None:
    with path.open("r+b") as file:
        file.truncate(1 << 42)


ANY_FILE: dict[str, Callable[[Path], None]] = {
    "not UTF-8": content(b'{"status": "\xff\xfe"}\n{"\xff": 1}\n'),
    "binary": content(bytes(range(256)) * 9),
    "an HTML page": content(b"<!DOCTYPE html>\n<html><body>404</body></html>\n"),
    "an LFS pointer": content(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"),
    "cut in half": cut_in_half,
    "huge": huge,
    "a directory": replaced(lambda path: path.mkdir()),
    "a pipe": replaced(os.mkfifo),
    "a device": replaced(lambda path: path.symlink_to("/dev/zero")),
    "a link to nowhere": replaced(lambda path: path.symlink_to("nowhere")),
    "a link to itself": replaced(lambda path: path.symlink_to(path.name)),
    "a name too long": replaced(lambda path: path.symlink_to("n" * 300)),
}

JSON_FILE: dict[str, Callable[[Path], None]] = {
    "empty": content(b""),
    "null": content(b"null"),
    "a list": content(b"[1]"),
    "a number": content(b"1"),
    "an empty object": content(b"{}"),
    "deep": content(b'{"a":' * 100_000),
    "a number of 5000 digits": content(b'{"status": ' + b"9" * 5000 + b"}"),
    "NaN": content(b'{"status": "done", "val_loss": NaN}'),
}

METRICS_FILE: dict[str, Callable[[Path], None]] = {
    "a list": content(b"[1]\n"),
    "an empty line": content(b"\n\n"),
    "deep": content(b'{"kind":' + b"[" * 100_000 + b"\n"),
    "UTF-16": content('{"kind": "train", "step": 1}\n'.encode("utf-16") + b"\n"),
}

CONFIG_FILE: dict[str, Callable[[Path], None]] = {
    "a value without quotes": content(b"CONFIG_STEP_TITLE=a b\n"),
    "control characters": content(b'CONFIG_STEP_TITLE="\x1b[2J"\n'),
}

# What can be wrong with a value.

ILL_TYPED: list[Any] = [None, True, 7, -1, 1.5, 1e300, 10**400, "12", "x" * 100_000, [], [[1]], {}, {"a": 1}]

KEYS: dict[str, dict[str, tuple[Any, ...]]] = {
    "summary.json": {
        "status": (),
        "error": (None, "12", "text"),
        "val_loss": (None, 7, -1, 1.5),
        "train_loss": (None, 7, -1, 1.5),
        "ms_per_step": (None, 7, 1.5),
        "peak_mem_gib": (None, 7, 1.5),
        "iters": (None, 7),
        "tokens": (None, 7),
        "flops_per_token": (None, 7),
        "compile": (),
        "compile.ran": ("12",),
        "compile.mode": (None, "12"),
        "events": ([],),
        "config_hash": (),
    },
    "provenance.json": {
        "identity": ({}, {"a": 1}),
        "identity.N_LAYER": (None, True, 7, -1, 1.5, "12"),
        "identity.RA_V5_GATE_INIT": (None, 7, -1, 1.5),
        "code": (),
        "code.commit": (None, "12"),
        "code.dirty": (None, True),
        "versions": (),
        "versions.torch": (None, "12"),
        "versions.\x1b[2J": (None, "12"),
        "hardware": (),
        "hardware.device_name": ("12",),
        "hardware.cores": (None, 7),
        "data": (),
        "data.hash": ("12",),
        "data.tokenizer": (None, "12"),
        "data.train_tokens": (7,),
        "started": ("12",),
        "config_hash": (),
        "resumed": ([],),
    },
}
"""File and key -> those of ILL_TYPED that it may have. A hash that is not the other file's is no right one either."""

OPTIONAL = {"error", "val_loss", "train_loss", "ms_per_step", "peak_mem_gib", "iters", "tokens", "compile", "events"}
OPTIONAL |= {"compile.mode", "identity.N_LAYER", "identity.RA_V5_GATE_INIT", "versions.\x1b[2J", "resumed"}
OPTIONAL |= {"config_hash of summary.json", "flops_per_token"}


def set_key(key: str, value: Any) -> Callable[[Path], None]:
    def damage(path: Path) -> None:
        whole = json.loads(path.read_text())
        *parents, last = key.split(".")
        inner = whole
        for parent in parents:
            inner = inner[parent]
        if value is KeyError:
            inner.pop(last, None)
        else:
            inner[last] = value
        path.write_text(json.dumps(whole))

    return damage


def metrics_line(**line: Any) -> Callable[[Path], None]:
    return lambda path: void(path.write_text(json.dumps(line) + "\n" + path.read_text()))


LINES = {
    "kind is a list": metrics_line(kind=["train"], step=1),
    "kind is long": metrics_line(kind="k" * 100_000, step=1),
    "step is text": metrics_line(kind="train", step="1"),
    "step is true": metrics_line(kind="train", step=True),
    "step is negative": metrics_line(kind="train", step=-1),
    "step is a fraction": metrics_line(kind="train", step=1.5),
    "an event without message": metrics_line(kind="event", step=1, event="resume"),
    "an event's message is a list": metrics_line(kind="event", step=1, event="resume", message=["a"]),
    "gates is null": metrics_line(kind="gates", step=1, gates=None),
    "gates is missing": metrics_line(kind="gates", step=1),
    "gates is a list": metrics_line(kind="gates", step=1, gates=[1]),
    "gates without layers": metrics_line(kind="gates", step=1, gates={"w": 1.0}),
    "gates ragged": metrics_line(kind="gates", step=1, gates={"w_rec": [[1.0], [1.0, 2.0]]}),
    "gates of text": metrics_line(kind="gates", step=1, gates={"w_rec": [["a"]]}),
    "gates of another name": metrics_line(kind="gates", step=1, gates={"w": [[1.0]]}),
    "gates empty": metrics_line(kind="gates", step=1, gates={"w_rec": []}),
}


def table() -> dict[str, tuple[str, Callable[[Path], None]]]:
    """Name of each damage -> the file, and what does it."""
    cases = {}
    for name in ("summary.json", "provenance.json", "metrics.jsonl", "config"):
        own = {"metrics.jsonl": METRICS_FILE | LINES, "config": CONFIG_FILE}.get(name, JSON_FILE)
        cases |= {f"{name}: {what}": (name, damage) for what, damage in (ANY_FILE | own).items()}
    for name, keys in KEYS.items():
        for key, right in keys.items():
            for value in ILL_TYPED:
                if not any(value == r and type(value) is type(r) for r in right):
                    cases[f"{name}: {key} is {json.dumps(value)[:20]}"] = (name, set_key(key, value))
            if key not in OPTIONAL and f"{key} of {name}" not in OPTIONAL:
                cases[f"{name}: {key} is missing"] = (name, set_key(key, KeyError))
    return cases


TABLE = table()


def one_run(folder: Path, seed: int = 1) -> Path:
    return write_run(folder, "ra-v5-eager", seed, title="RA v5", gates=("w_std", "w_rec"))


def damaged(folder: Path, case: str, seed: int = 1) -> RunRecord:
    run = one_run(folder, seed)
    name, damage = TABLE[case]
    damage(run / name)
    return load_run(run, "ra-v5-eager", seed)


@pytest.mark.parametrize("case", TABLE)
def test_a_damaged_file_is_one_line_that_names_it(tmp_path: Path, case: str) -> None:
    record = damaged(tmp_path, case)
    name, _ = TABLE[case]
    assert record.status == "damaged"
    assert record.damage is not None and name in record.damage
    assert len(record.damage) < 400 and record.damage.isprintable()
    key = case.removeprefix(f"{name}: ").partition(" is ")[0]
    if key in KEYS.get(name, {}):
        assert repr(key)[1:-1] in record.damage
    assert (record.summary, record.provenance, record.metrics, record.settings) == (None, None, [], {})
    reader: Any = {"summary.json": read_summary, "provenance.json": read_provenance, "metrics.jsonl": read_metrics}
    if name in reader and "config_hash" not in case:
        with pytest.raises(UserError):
            reader[name](record.path / name)


@pytest.fixture(scope="module")
def wreck(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An experiment with three good pairs and a run of every damage there is."""
    path = tmp_path_factory.mktemp("results") / "wreck"
    for seed in (1, 2, 3):
        write_run(path, "baseline", seed, title="Baseline", reference="")
        one_run(path, seed)
    for seed, case in enumerate(TABLE, start=100):
        damaged(path, case, seed)
    (path / "ra-v5-eager" / "seed-4").write_text("a file where a run's directory should be")
    return path


def test_other_runs_are_still_reported(
    wreck: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    experiment = load_experiment(wreck)
    assert sum(run.status == "damaged" for run in experiment.runs) == len(TABLE) + 1
    assert [run.seed for run in experiment.arms[1].done] == [1, 2, 3]
    written = write_report(experiment)
    print_report(written.report)
    printed = capsys.readouterr().out
    for seed in (4, *range(100, 100 + len(TABLE))):
        assert f"ra-v5-eager/seed-{seed} is damaged, and left out: " in printed
        assert sum(w.startswith(f"ra-v5-eager/seed-{seed} is damaged") for w in written.report.warnings) == 1
    assert "6 runs done" in written.report.partial and "(damaged)" in written.report.partial
    assert "\x1b" not in printed
    monkeypatch.setattr("sys.argv", ["plots", str(wreck)])
    monkeypatch.setattr(plots, "draw_figures", lambda *_: [])  # they are drawn, by the report
    plots.main()
    rows = (wreck / "summary.csv").read_text().splitlines()
    assert sum(",done," in row for row in rows) == 6 and sum(",damaged," in row for row in rows) == len(TABLE) + 1
    good = tuple(written.report.tables[-1].rows[3])
    assert good[:2] == ("ra-v5-eager/seed-1", "done")


def test_a_run_of_another_model_is_left_out(tmp_path: Path) -> None:
    for seed in (1, 2):
        one_run(tmp_path, seed)
    lines = (tmp_path / "ra-v5-eager/seed-2/metrics.jsonl").read_text().splitlines()
    other = [json.loads(line) for line in lines]
    for line in other:
        if line["kind"] == "gates":
            line["gates"] = {"w_rec": [[0.5]]}
    (tmp_path / "ra-v5-eager/seed-2/metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in other))
    assert [run.status for run in load_experiment(tmp_path).runs] == ["done", "damaged"]


def test_where_no_run_can_be_read_the_first_reason_is_the_error(tmp_path: Path) -> None:
    damaged(tmp_path, "summary.json: empty")
    with pytest.raises(UserError, match=r"seed-1/summary\.json: is not JSON: .*\(of 1 runs none can be read\)"):
        load_experiment(tmp_path)


@pytest.mark.parametrize("case", ["summary.json: cut in half", "provenance.json: a pipe", "metrics.jsonl: binary",
                                  "config: a directory", "summary.json: status is 7"])  # fmt: skip
def test_status_shows_it_and_make_leaves_it_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], case: str
) -> None:
    monkeypatch.chdir(tmp_path)
    settings = {"RA_MLA_ABLATION_MODE": "y", "RA_MLA_ABLATION_STEPS": "1,2", "ABLATION_SEEDS": "1"}
    plan = make_plan(tiny(tmp_path, **settings))
    record = damaged(plan.directory, case)
    print_status(plan, Console(width=200))
    printed = capsys.readouterr().out.splitlines()
    assert any(line.split()[:2] == ["baseline/seed-1", "pending"] for line in printed)
    assert any(line.split()[:2] == ["ra-v5-eager/seed-1", "damaged"] for line in printed)
    assert printed[-1].startswith("ra-v5-eager/seed-1 is damaged: ")
    before = {path: path.lstat().st_mtime_ns for path in record.path.iterdir()}
    with pytest.raises(UserError, match=f"{TABLE[case][0]}.*Restore the file, or move .*seed-1 away"):
        run_plan(plan)
    assert before == {path: path.lstat().st_mtime_ns for path in record.path.iterdir()}
    assert not plan.runs[0].path.exists()


@pytest.mark.parametrize("to", ["baseline/seed-3", "ra-v5-eager/seed-1", "baseline@LEARNING_RATE=1e-3/seed-1"])
def test_a_run_under_a_name_that_is_not_its_own_is_no_run(tmp_path: Path, to: str) -> None:
    for seed in (1, 2):
        run = write_run(tmp_path, "baseline", seed)
        with (run / "config").open("a") as file:
            file.write(
                'CONFIG_ATTENTION_BASELINE=y\n# CONFIG_ATTENTION_RA_V5 is not set\nCONFIG_LEARNING_RATE="6e-4"\n'
            )
    assert all(run.damage is None for run in load_experiment(tmp_path).runs)
    shutil.rmtree(tmp_path / to, ignore_errors=True)
    shutil.copytree(tmp_path / "baseline" / "seed-1", tmp_path / to)
    (copy,) = (run for run in load_experiment(tmp_path).runs if run.path == tmp_path / to)
    assert copy.status == "damaged"
    assert "by the directory's name" in str(copy.damage)
