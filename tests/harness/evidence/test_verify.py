"""What make verify finds: nothing in an experiment as it was left, and whatever has been changed in it since."""

from __future__ import annotations

import csv
import json
import math
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from gpt2.run.checkpoint import save_checkpoint
from gpt2.run.run import Run
from gpt2.run.stop import Stop
from gpt2.train_ra_mla import train
from harness.configure.plan import Plan, make_plan
from harness.evidence.again import choose, compare_again
from harness.evidence.findings import FAIL, NOTE, OK, Finding, Fine, Note, Wrong
from harness.evidence.recount import line_errors, summary_errors
from harness.evidence.store import load_experiment
from harness.evidence.summary_table import write_summary_csv
from harness.evidence.verify import repeatable, verify
from scripts import verify as command
from tests.tiny import tiny

CHECKS = ["records", "config", "data", "checkpoints", "metrics", "summary"]
FIRST, SECOND = "ra-v5-eager/seed-1", "ra-v5-eager/seed-2"

# Nothing divides anything: lines of the log, evaluations and checkpoints fall everywhere.
SETTINGS = {
    "MAX_ITERS": "17",
    "LOG_INTERVAL": "3",
    "EVAL_INTERVAL": "5",
    "CHECKPOINT_INTERVAL": "4",
    "EMA_DECAY": "0.9",
    "EVAL_TAIL": "2",
    "ABLATION_SEEDS": "1",
}

Tamper = Callable[[Path], object]


class Looked(Stop):
    """Asks to stop when it has been looked at so many times."""

    def __init__(self, looks: int) -> None:
        super().__init__()
        self.looks = looks

    @property
    def requested(self) -> str | None:
        self.looks -= 1
        return "test" if self.looks < 0 else None


def run(plan: Plan, stops: tuple[int, ...] = ()) -> Path:
    """Train a plan in this process, interrupted after so many looks at whether to stop."""
    for planned in plan.runs:
        planned.path.mkdir(parents=True)
        planned.resolved.write(planned.path / "config")
        for stop in (*map(Looked, stops), Stop()):
            status = train(Run(planned.config, planned.path), stop)
        assert status == "done"
    write_summary_csv(load_experiment(plan.directory))
    return plan.directory


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory) -> Plan:
    steps = {"RA_MLA_ABLATION_MODE": "y", "RA_MLA_ABLATION_STEPS": "2", "ABLATION_SEEDS": "1,2"}
    folder = tmp_path_factory.mktemp("verify")
    np.random.default_rng(1).integers(97, 123, size=200).astype("<u2").tofile(folder / "val.bin")
    return make_plan(tiny(folder, **SETTINGS | steps, EVAL_DATASETS=f"letters={folder}"))


@pytest.fixture(scope="module")
def original(plan: Plan) -> Path:
    """An experiment of two runs of RA v5."""
    return run(plan)


@pytest.fixture
def experiment(original: Path, tmp_path: Path) -> Path:
    """A copy to be changed."""
    return shutil.copytree(original, tmp_path / original.name)


def found(experiment: Path, outcome: str = FAIL) -> list[Finding]:
    return [finding for finding in verify(experiment) if finding.outcome == outcome]


def edit(path: Path, *keys: str, to: object) -> None:
    """Set a value in a JSON file."""
    content = json.loads(path.read_text())
    *way, last = keys
    inner = content
    for key in way:
        inner = inner[key]
    inner[last] = to
    path.write_text(json.dumps(content))


def lines_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def rewrite(path: Path, lines: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


def checkpoint(run: Path, change: Callable[[dict[str, Any]], object], name: str = "step-00000017.pt") -> None:
    """Change what a checkpoint holds, checksum and all."""
    path = run / "checkpoints" / name
    state = torch.load(path, weights_only=True)
    change(state)
    kept = {other: other.read_bytes() for other in path.parent.iterdir() if not other.name.startswith(name)}
    save_checkpoint(path.parent, int(name[5:13]), state)
    for other, content in kept.items():
        other.write_bytes(content)


def flip(path: Path, at: int = -1) -> None:
    """Change a byte of a file and keep its times."""
    times = path.stat()
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))


def text(name: str, old: str, new: str) -> Tamper:
    def tamper(run: Path) -> None:
        before = (run / name).read_text()
        assert old in before
        (run / name).write_text(before.replace(old, new))

    return tamper


@pytest.mark.parametrize("within", ["tuning", "noise"])
def test_trials_and_runs_on_noise_are_looked_at_as_runs_are(original: Path, experiment: Path, within: str) -> None:
    shutil.copytree(original, experiment / within)
    assert not found(experiment)
    flip(experiment / within / FIRST / "checkpoints" / "step-00000017.pt")
    edit(experiment / within / SECOND / "summary.json", "ms_per_step", to=1.0)
    (experiment / within / "summary.csv").unlink()
    assert {(f.run, f.check) for f in found(experiment)} == {
        (f"{within}/{FIRST}", "checkpoints"),
        (f"{within}/{SECOND}", "summary"),
    }


@pytest.mark.parametrize("name", ["val_bytes_per_token", "eval_bytes"])
def test_bytes_that_could_not_be_counted_there_are_no_fault(experiment: Path, name: str) -> None:
    edit(experiment / FIRST / "provenance.json", "data", name, to=None)
    assert "data" not in {finding.check for finding in found(experiment)}


def test_trials_are_looked_at_before_there_is_more(original: Path, tmp_path: Path) -> None:
    shutil.copytree(original, tmp_path / "mine" / "tuning")
    flip(tmp_path / "mine" / "tuning" / FIRST / "checkpoints" / "step-00000017.pt")
    note, *rest = verify(tmp_path / "mine")
    assert (note.run, note.outcome) == ("mine", NOTE)
    assert {f.run for f in rest if f.outcome == FAIL} == {f"tuning/{FIRST}"}


@pytest.mark.parametrize("within", ["tuning", "noise"])
def test_what_was_stopped_before_its_first_run_is_nothing_to_look_at(experiment: Path, within: str) -> None:
    (experiment / within).mkdir()
    (experiment / within / "summary.csv").touch()
    assert not found(experiment)


def test_an_experiment_left_alone_is_ok(original: Path) -> None:
    findings = list(verify(original))
    assert [(f.run, f.check) for f in findings] == [
        *((run, check) for run in (FIRST, SECOND) for check in CHECKS),
        ("summary.csv", "rows"),
    ]
    assert {(f.outcome, f.text) for f in findings} == {(OK, "")}


@pytest.mark.parametrize("stops", [(9,), (0, 22, 1)])
def test_so_is_one_that_was_stopped_and_gone_on_with(tmp_path: Path, stops: tuple[int, ...]) -> None:
    assert not found(run(make_plan(tiny(tmp_path, **SETTINGS)), stops))


@pytest.mark.parametrize("looks", [0, 1, 9, 20])
def test_a_run_that_is_not_done_is_no_fault(tmp_path: Path, looks: int) -> None:
    plan = make_plan(tiny(tmp_path, DROPOUT="0.1", **SETTINGS))
    (planned,) = plan.runs
    planned.path.mkdir(parents=True)
    planned.resolved.write(planned.path / "config")
    assert not found(plan.directory)
    assert train(Run(planned.config, planned.path), Looked(looks)) == "interrupted"
    assert not found(plan.directory)
    assert any(f.check == "records" and f.text.startswith("interrupted") for f in found(plan.directory, NOTE))
    (planned.path / "summary.json").unlink()
    assert not found(plan.directory)


TAMPERINGS: dict[str, tuple[Tamper, str, str]] = {
    "provenance is no JSON": (lambda r: (r / "provenance.json").write_text("{"), "records", r"provenance\.json: "),
    "provenance is a list": (lambda r: (r / "provenance.json").write_text("[]"), "records", r"provenance\.json: "),
    "provenance is empty": (lambda r: (r / "provenance.json").write_text("{}"), "records", "seed-1.*identity"),
    "no provenance": (lambda r: (r / "provenance.json").unlink(), "records", r"provenance\.json: is missing"),
    "an identity edited": (
        lambda r: edit(r / "provenance.json", "identity", "LEARNING_RATE", to=1e-4),
        "records",
        r"provenance\.json: config_hash is \w{12}, and \w{12} by identity",
    ),
    "a hash edited": (
        lambda r: edit(r / "provenance.json", "config_hash", to="0" * 64),
        "records",
        r"provenance\.json: config_hash is 000000000000",
    ),
    "another hash of data": (
        lambda r: edit(r / "provenance.json", "data", "hash", to="0" * 64),
        "data",
        r"its tokens hash to \w{12}, and the run's were 000000000000",
    ),
    "tokens counted otherwise": (
        lambda r: edit(r / "provenance.json", "data", "train_tokens", to=5),
        "data",
        r"provenance\.json: train_tokens is 5",
    ),
    "bytes counted otherwise": (
        lambda r: edit(r / "provenance.json", "data", "val_bytes_per_token", to=1.5),
        "data",
        r"provenance\.json: val_bytes_per_token is 1\.5",
    ),
    "fewer targets": (
        lambda r: edit(r / "provenance.json", "data", "eval_targets", to=5),
        "data",
        r"provenance\.json: eval_targets is 5",
    ),
    "fewer bytes of them": (
        lambda r: edit(r / "provenance.json", "data", "eval_bytes", to=5),
        "metrics",
        r"metrics\.jsonl: eval at step 0: val_bpb is",
    ),
    "a summary of another run": (
        lambda r: edit(r / "summary.json", "config_hash", to="0" * 64),
        "records",
        r"summary\.json: config_hash is 000000000000",
    ),
    "summary is no JSON": (lambda r: (r / "summary.json").write_text("x"), "records", r"summary\.json: "),
    "metrics are no JSON": (text("metrics.jsonl", '"kind"', "kind"), "records", r"metrics\.jsonl:1: "),
    "no metrics": (lambda r: (r / "metrics.jsonl").unlink(), "metrics", r"metrics\.jsonl: is missing"),
    "no config": (lambda r: (r / "config").unlink(), "config", "config: is missing"),
    "config is none": (lambda r: (r / "config").write_text("hello"), "records", "config:1: "),
    "config with a symbol there is not": (
        lambda r: (r / "config").write_text((r / "config").read_text() + "CONFIG_NOT_THERE=y\n"),
        "config",
        "config:.*no such symbol",
    ),
    "config of a longer run": (
        text("config", "CONFIG_MAX_ITERS=17", "CONFIG_MAX_ITERS=18"),
        "config",
        r"config: CONFIG_MAX_ITERS is 18, and 17 by provenance\.json",
    ),
    "config of another rate": (text("config", '"1e-3"', '"2e-3"'), "config", "config: CONFIG_LEARNING_RATE is 0.002"),
    "config of another pace": (text("config", "LOG_INTERVAL=3", "LOG_INTERVAL=4"), "metrics", "train line of step 4"),
    "config of another arm": (
        lambda r: [
            text("config", "# CONFIG_ATTENTION_BASELINE is not set", "CONFIG_ATTENTION_BASELINE=y")(r),
            text("config", "CONFIG_ATTENTION_RA_V5=y", "# CONFIG_ATTENTION_RA_V5 is not set")(r),
        ],
        "config",
        "CONFIG_ATTENTION is baseline, and ra_v5",
    ),
    "another arm's directory": (
        lambda r: r.parent.rename(r.parents[1] / "mla"),
        "config",
        "ra_v5, and mla in step mla",
    ),
    "a value that was not swept": (
        lambda r: r.parent.rename(r.parents[1] / "ra-v5-eager@RA_V5_R=8"),
        "config",
        "CONFIG_RA_V5_R is 4, and 8 by the directory's name",
    ),
    "another seed's directory": (
        lambda r: r.rename(r.parent / "seed-5"),
        "records",
        r"provenance\.json: SEED is 1, and 5 by the directory's name",
    ),
    "a checkpoint's byte": (
        lambda r: flip(r / "checkpoints" / "step-00000016.pt", at=-3000),
        "checkpoints",
        r"step-00000016\.pt: its SHA-256",
    ),
    "no checksum": (
        lambda r: (r / "checkpoints" / "step-00000017.pt.sha256").unlink(),
        "checkpoints",
        r"step-00000017\.pt: its SHA-256",
    ),
    "a checkpoint cut short": (
        lambda r: os.truncate(r / "checkpoints" / "step-00000017.pt", 1000),
        "checkpoints",
        r"step-00000017\.pt: cannot be read",
    ),
    "checkpoints of another seed": (
        lambda r: shutil.copytree(r.parent / "seed-2" / "checkpoints", r / "checkpoints", dirs_exist_ok=True),
        "checkpoints",
        r"step-00000017\.pt: config_hash is \w{12}, that of another run",
    ),
    "a checkpoint of another step": (
        lambda r: checkpoint(r, lambda state: state.update(step=12)),
        "checkpoints",
        r"step-00000017\.pt: holds step 12",
    ),
    "no step": (
        lambda r: checkpoint(r, lambda state: state.update(step=None), "step-00000016.pt"),
        "checkpoints",
        r"step-00000016\.pt: holds step None",
    ),
    "the last checkpoint removed": (
        lambda r: (r / "checkpoints" / "step-00000017.pt").unlink(),
        "checkpoints",
        r"summary\.json: iters is 17, and should be 16 by .*step-00000016\.pt",
    ),
    "a weight that is no number": (
        lambda r: checkpoint(r, lambda state: state["model"]["transformer.wpe.weight"][3].fill_(math.nan)),
        "checkpoints",
        r"step-00000017\.pt: transformer\.wpe\.weight holds numbers that are not finite",
    ),
    "a weight of another shape": (
        lambda r: checkpoint(r, lambda state: state["model"].update({"transformer.ln_f.bias": torch.zeros(3)})),
        "checkpoints",
        r"step-00000017\.pt: transformer\.ln_f\.bias is",
    ),
    "other gates": (
        lambda r: checkpoint(r, lambda state: state["model"]["transformer.h.0.attn.w_rec"].add_(0.5)),
        "checkpoints",
        r"summary\.json: gates is .*, and should be .*step-00000017\.pt",
    ),
    "another number of operations": (
        lambda r: edit(r / "summary.json", "flops_per_token", to=12),
        "checkpoints",
        r"summary\.json: flops_per_token is 12, and should be \d+ by .*step-00000017\.pt",
    ),
    "another number of parameters": (
        lambda r: edit(r / "summary.json", "params", to=1000),
        "checkpoints",
        r"summary\.json: params is 1000, and should be \d+ by .*step-00000017\.pt",
    ),
    "another loss": (
        lambda r: edit(r / "summary.json", "val_loss", to=1.5),
        "summary",
        r"summary\.json: val_loss is 1\.5, and should be",
    ),
    "a loss of another evaluation": (
        lambda r: rewrite(
            r / "metrics.jsonl",
            [line | ({"val_loss": 1.5} if line["step"] == 5 else {}) for line in lines_of(r / "metrics.jsonl")],
        ),
        "metrics",
        r"metrics\.jsonl: eval at step 5: val_bpb is",
    ),
    "a loss of another set": (
        lambda r: edit(r / "summary.json", "val_losses", "letters", to=1.5),
        "summary",
        r"summary\.json: val_losses is .*1\.5.*, and should be",
    ),
    "no loss of a set": (
        lambda r: rewrite(
            r / "metrics.jsonl",
            [line | ({"val_losses": {}} if line["step"] == 5 else {}) for line in lines_of(r / "metrics.jsonl")],
        ),
        "metrics",
        r"metrics\.jsonl: eval at step 5: what val_losses are of is \[\]",
    ),
    "a set of other tokens": (
        lambda r: edit(r / "provenance.json", "data", "eval_datasets", "letters", "hash", to="0" * 64),
        "data",
        r"letters is .*, and .*0000.* by .*provenance\.json",
    ),
    "gates of another run": (
        lambda r: edit(r / "summary.json", "gates", "w_rec", to=[[0.5, 0.5], [0.5, 0.5]]),
        "summary",
        r"summary\.json: gates is",
    ),
    "an overflow that was not": (
        lambda r: edit(r / "summary.json", "overflows", to=1),
        "summary",
        r"summary\.json: overflows is 1, and metrics\.jsonl has 0",
    ),
}


@pytest.mark.parametrize("what", TAMPERINGS)
def test_what_was_changed_is_found_and_named_and_hides_nothing(experiment: Path, what: str) -> None:
    tamper, check, pattern = TAMPERINGS[what]
    tamper(experiment / FIRST)
    failures = found(experiment)
    assert [f for f in failures if f.check == check and re.search(pattern, f.text)], failures
    # Only directories of arms are renamed with the other run in them.
    if (experiment / SECOND).exists():
        assert not [f for f in failures if f.run == SECOND]
    assert all("\n" not in f.text for f in failures)


COUNTED = ["iters", "tokens", "val_loss", "val_bpb", "train_loss", "ms_per_step", "ms_per_step_iqr", "tokens_per_s"]
COUNTED += ["train_time_s", "overflows", "ema_val_loss", "ema_val_bpb", "val_loss_tail"]
NUMBERS = [
    *COUNTED,
    "params",
    "flops_per_token",
    "peak_mem_gib",
    "eval_time_s",
    "checkpoint_time_s",
    "wall_time_s",
    "startup_s",
]
NUMBERS += ["waited_s"]


class Records:
    """Of a finished run, to be changed."""

    def __init__(self, run: Path) -> None:
        self.summary = json.loads((run / "summary.json").read_text())
        self.provenance = json.loads((run / "provenance.json").read_text())
        self.lines = lines_of(run / "metrics.jsonl")

    def errors(self) -> list[str]:
        lines = sorted(self.lines, key=lambda line: line["step"])
        return [
            *line_errors(lines, self.provenance, done=True, log_interval=3),
            *summary_errors(self.summary, lines, self.provenance),
        ]

    def line(self, kind: str, step: int) -> dict[str, Any]:
        return next(line for line in self.lines if line["kind"] == kind and line["step"] == step)


@pytest.fixture
def records(original: Path) -> Records:
    return Records(original / FIRST)


def test_these_are_all_the_numbers_of_a_summary(records: Records) -> None:
    assert {k for k, v in records.summary.items() if isinstance(v, int | float)} == set(NUMBERS)
    assert not records.errors()


@pytest.mark.parametrize("name", COUNTED)
def test_a_number_of_a_summary_that_is_another_is_found(records: Records, name: str) -> None:
    value = records.summary[name]
    for other in (0, -value, value + 1 if isinstance(value, int) else value * 1.01 + 0.01):
        records.summary[name] = other
        assert other == value or [text for text in records.errors() if text.startswith(f"{name} is ")]


@pytest.mark.parametrize("name", NUMBERS)
@pytest.mark.parametrize("value", [None, math.nan, math.inf, -math.inf, "1.0", [1.0], {}])
def test_a_number_of_a_finished_run_that_is_none_is_found(records: Records, name: str, value: object) -> None:
    records.summary[name] = value
    assert [text for text in records.errors() if name in text]


@pytest.mark.parametrize("name", COUNTED)
def test_a_number_that_is_gone_is_found(records: Records, name: str) -> None:
    del records.summary[name]
    assert [text for text in records.errors() if text.startswith(f"{name} is null")]


@pytest.mark.parametrize("gates", [None, {}, {"w_rec": [[0.0, 0.0]] * 2}, {"w_std": [[1.0]], "w_rec": [[0.0]]}])
def test_gates_that_are_others_are_found(records: Records, gates: object) -> None:
    records.summary["gates"] = gates
    assert [text for text in records.errors() if text.startswith("gates is ")]


def changes() -> list[tuple[str, int, str]]:
    """Kind, step and key of the numbers of metrics.jsonl that others are made of."""
    found = [("eval", step, key) for step in (0, 5, 10, 15, 17) for key in ("tokens", "val_loss", "val_bpb")]
    steps = (3, 6, 9, 12, 15, 17)
    found += [("train", step, key) for step in steps for key in ("tokens", "tokens_per_s", "ms_per_step")]
    return [*found, ("train", 17, "loss"), ("train", 17, "time_s"), ("gates", 17, "gates")]


@pytest.mark.parametrize(("kind", "step", "key"), changes())
def test_a_digit_of_the_metrics_is_found(records: Records, kind: str, step: int, key: str) -> None:
    line = records.line(kind, step)
    line[key] = {"w_std": [[1.0, 1.0]] * 2, "w_rec": [[0.0, 0.0]] * 2} if key == "gates" else line[key] * 1.01 + 1
    assert records.errors()


@pytest.mark.parametrize("kind", ["train", "eval", "gates"])
def test_a_line_of_the_metrics_that_is_gone_or_one_too_many_is_found(records: Records, kind: str) -> None:
    lines = records.lines
    for gone in [line for line in lines if line["kind"] == kind and (line["step"] > 0 or kind == "eval")]:
        records.lines = [line for line in lines if line is not gone]
        assert f"the {kind} line of step {gone['step']} is missing" in records.errors()
    records.lines = [*lines, {**records.line(kind, 15), "step": 7}]
    assert f"there is a {kind} line of step 7, where none is due" in records.errors()


@pytest.mark.parametrize("split", ["train.bin", "val.bin"])
@pytest.mark.parametrize("how", ["a byte, with its time", "a byte", "a token less", "gone"])
def test_tokens_that_have_changed_are_found(plan: Plan, experiment: Path, split: str, how: str) -> None:
    (prepared,) = {path.parent for path in Path(plan.runs[0].config.data.data_dir).glob("*/meta.json")}
    path = prepared / split
    times, content = path.stat(), path.read_bytes()
    try:
        if how.startswith("a byte"):
            flip(path, at=100)
        elif how == "a token less":
            path.write_bytes(content[:-2])
        else:
            path.unlink()
        if how == "a byte":
            os.utime(path)
        failures = found(experiment)
    finally:
        path.write_bytes(content)
        os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert {(f.run, f.check) for f in failures} >= {(FIRST, "data"), (SECOND, "data")}
    assert all(str(prepared) in f.text for f in failures if f.check == "data")


def test_data_and_checkpoints_that_are_not_here_are_said_and_no_fault(plan: Plan, experiment: Path) -> None:
    shutil.rmtree(experiment / FIRST / "checkpoints")
    data = Path(plan.runs[0].config.data.data_dir)
    away = data.rename(data.with_name("away"))
    try:
        findings = list(verify(experiment))
    finally:
        shutil.rmtree(data, ignore_errors=True)
        away.rename(data)
    assert not [f for f in findings if f.outcome == FAIL]
    said = {(f.run, f.check): f.text for f in findings if f.outcome == NOTE}
    assert said == {
        (FIRST, "data"): "not here, and not looked at",
        (SECOND, "data"): "not here, and not looked at",
        (FIRST, "checkpoints"): "none here",
    }


@pytest.mark.parametrize("column", ["status", "val_loss", "iters", "params", "config_hash", "device_name"])
def test_a_cell_of_the_table_that_is_another_is_found(experiment: Path, column: str) -> None:
    path = experiment / "summary.csv"
    rows = list(csv.DictReader(path.open(newline="")))
    rows[0][column] += "1"
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    (failure,) = found(experiment)
    assert (failure.run, failure.check) == ("summary.csv", "rows")
    assert f"{FIRST}: {column} is '{rows[0][column]}'" in failure.text


def test_a_row_of_the_table_that_is_gone_or_one_too_many_is_found(experiment: Path) -> None:
    path = experiment / "summary.csv"
    header, first, second = path.read_text().splitlines()
    path.write_text(f"{header}\n{second}\n")
    assert [f.text for f in found(experiment)] == [f"{path}: has no row for {FIRST}; `make plots` writes it anew"]
    path.write_text("\n".join([header, first, second, first.replace(",1,", ",3,", 1)]) + "\n")
    assert [f.text for f in found(experiment)] == [f"{path}: has a row for ra-v5-eager/seed-3, which is not there"]


def test_a_run_again_shows_what_no_other_number_does(original: Path, experiment: Path) -> None:
    """What was changed is not to be seen in the files; `original` is the repetition."""
    run = experiment / FIRST
    same = compare_again(run, original / FIRST)
    assert (type(same.said), same.loss, same.weight) == (Fine, 0, 0)
    lines = lines_of(run / "metrics.jsonl")
    next(line for line in lines if line["kind"] == "train" and line["step"] == 9)["loss"] += 0.25
    rewrite(run / "metrics.jsonl", lines)
    checkpoint(run, lambda state: state["model"]["transformer.wpe.weight"][3, 4].add_(0.5))
    assert not found(experiment)
    again = compare_again(run, original / FIRST)
    assert (type(again.said), round(again.loss, 6), round(again.weight or 0, 6)) == (Wrong, 0.25, 0.5)
    assert "train at step 9, loss: " in str(again)
    assert "transformer.wpe.weight[3, 4]: " in str(again)
    for key, value in {"threads": 64, "cpu": "another"}.items():
        edit(run / "provenance.json", "hardware", key, to=value)
    elsewhere = compare_again(run, original / FIRST)
    assert isinstance(elsewhere.said, Note)
    assert "threads was 64 and is " in str(elsewhere)
    assert "by up to 0.25 nats in a loss, by 0.5 in a weight" in str(elsewhere)


@pytest.mark.parametrize(
    ("hardware", "compiled", "may_differ"),
    [
        ({}, "none", False),
        ({"threads": 8}, "none", False),
        ({"threads": 1}, "model", False),
        ({"threads": 8}, "model", True),
        ({"device": "cuda"}, "none", True),
    ],
)
def test_some_code_need_not_repeat_itself(
    experiment: Path, hardware: dict[str, object], compiled: str, may_differ: bool
) -> None:
    for run in (FIRST, SECOND):  # two seeds, which differ
        for key, value in hardware.items():
            edit(experiment / run / "provenance.json", "hardware", key, to=value)
        edit(experiment / run / "provenance.json", "identity", "COMPILE", to=compiled)
    assert isinstance(compare_again(experiment / FIRST, experiment / SECOND).said, Note if may_differ else Wrong)


def test_the_lot_falls_on_short_runs_alone_and_the_same_with_the_same_seed() -> None:
    runs = {Path(name): {"train_time_s": seconds} for name, seconds in {"a": 5.0, "b": 50.0, "c": 500.0}.items()}
    drawn = [choose(runs, seed=seed, most_s=60) for seed in range(20)]
    assert {str(run) for run in drawn} == {"a", "b"}
    assert drawn == [choose(runs, seed=seed, most_s=60) for seed in range(20)]
    assert choose(runs, seed=1, most_s=1) is None


def test_only_what_can_be_is_trained_again(plan: Plan, experiment: Path) -> None:
    assert set(repeatable(experiment)) == {experiment / FIRST, experiment / SECOND}
    edit(experiment / FIRST / "summary.json", "status", to="failed")
    text("config", "CONFIG_MAX_ITERS=17", "CONFIG_MAXIMAL_ITERS=17")(experiment / SECOND)
    assert not repeatable(experiment)
    text("config", "CONFIG_MAXIMAL_ITERS=17", "CONFIG_MAX_ITERS=17")(experiment / SECOND)
    assert set(repeatable(experiment)) == {experiment / SECOND}
    data = Path(plan.runs[0].config.data.data_dir)
    away = data.rename(data.with_name("away"))
    try:
        assert not repeatable(experiment)
    finally:
        away.rename(data)


def test_the_command_trains_a_run_again(
    experiment: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["verify", str(experiment), "--run", SECOND])
    assert command.main() == 0
    output = capsys.readouterr().out
    assert f"{SECOND} is trained again; it took " in output
    assert output.splitlines()[-2].endswith("and the weights: equal to the bit")
    assert output.splitlines()[-1] == "14 ok, 0 note, 0 FAIL"
    edit(experiment / FIRST / "summary.json", "val_loss", to=1.0)
    monkeypatch.setattr("sys.argv", ["verify", str(experiment), "--no-train"])
    assert command.main() == 1
    assert "FAIL" in capsys.readouterr().out
