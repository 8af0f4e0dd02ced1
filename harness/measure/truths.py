"""What has to be true of an experiment whose processes were struck: against one that was left in peace.

Everything here returns what is wrong, a line each; nothing is wrong where it returns nothing.
"""

from __future__ import annotations

import csv
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from gpt2.base.errors import UserError
from gpt2.run.checkpoint import verified
from gpt2.run.records import Json, read_metrics
from harness.configure.plan import Plan, PlannedRun
from harness.evidence.comparison import comparison_row
from harness.evidence.parting import TIMES, compare_metrics, compare_runs, compare_values
from harness.evidence.runs import RunRecord, load_run
from harness.evidence.stats import compare
from harness.evidence.store import Experiment, load_experiment
from harness.report.tables import loss_table

SUMMARY = (
    *("status", "error", "iters", "tokens", "val_loss", "val_bpb", "train_loss", "params", "config_hash", "compile"),
    *("flops_per_token", "overflows", "gates"),
)
"""What summary.json says apart from times, memory and events."""

LOSSES = ("val_loss", "val_bpb")


def what_is_false(plan: Plan, peaceful: Plan, look: Callable[[Plan], object]) -> list[str]:
    """Where files that somebody may read after a kill say what is not so, or cannot be read. `look`: make status."""
    wrong = []
    if any(run.path.is_dir() for run in plan.runs):
        wrong += _raised("load_experiment", lambda: load_experiment(plan.directory))
    wrong += _raised("make status", lambda: look(plan))
    for run, reference in zip(plan.runs, peaceful.runs, strict=True):
        wrong += [f"{run.name}: {what}" for what in _false_in(run, reference)]
    return wrong


def what_differs(plan: Plan, peaceful: Plan) -> list[str]:
    """Where finished runs, or what the report makes of them, are not what they are when they are left in peace."""
    wrong = []
    for run, reference in zip(plan.runs, peaceful.runs, strict=True):
        if is_done(run):
            wrong += [f"{run.name}: {what}" for what in _differs(run, reference)]
    if all(map(is_done, plan.runs)):
        tables = [_tables(load_experiment(of.directory)) for of in (plan, peaceful)]
        if parting := compare_values(*tables):
            wrong.append(f"report: {parting}")
    return wrong


def newest_steps(plan: Plan) -> dict[str, int]:
    """Run -> step of its newest whole checkpoint, 0 without one."""
    return {
        run.name: max((_step(path) for path in _checkpoints(run) if verified(path)), default=0) for run in plan.runs
    }


def steps_logged(plan: Plan) -> int:
    """How far all runs have come, by their logs. One that cannot be read counts as none: `what_is_false` tells."""
    steps = 0
    for run in plan.runs:
        with suppress(UserError):
            trained = [line["step"] for line in read_metrics(run.path / "metrics.jsonl") if line["kind"] == "train"]
            steps += max(trained, default=0)
    return steps


def is_done(run: PlannedRun) -> bool:
    """Whether a run has finished, and says so legibly."""
    with suppress(UserError):
        return run.is_done
    return False


def _raised(what: str, call: Callable[[], object]) -> list[str]:
    try:
        call()
    except Exception as error:
        return [f"{what}: {type(error).__name__}: {error}"]
    return []


def _false_in(run: PlannedRun, reference: PlannedRun) -> list[str]:
    wrong = [f"{path.name}: is not what its checksum says" for path in _checkpoints(run) if not verified(path)]
    try:
        ours, theirs = (load_run(of.path, of.step, of.seed) for of in (run, reference))
        lines, whole = _lines(ours), _lines(theirs)
        if odd := next((key for key in lines if lines[key] != whole.get(key)), None):
            wrong.append(f"metrics.jsonl: {odd}: {lines[odd]} / {whole.get(odd)}")
        if ours.status == "done":
            wrong += _differs(run, reference)
        elif ours.status == "interrupted":
            wrong += _interrupted(ours)
        elif ours.status not in ("pending", "unfinished"):
            wrong.append(f"is {ours.status}: {ours.damage or (ours.summary or {}).get('error')}")
    except Exception as error:
        wrong.append(f"{type(error).__name__}: {error}")
    return wrong


def _interrupted(run: RunRecord) -> list[str]:
    """A run that was stopped says what its log said last."""
    assert run.summary is not None
    said = {"val_loss": _last(run, "eval", "val_loss"), "train_loss": _last(run, "train", "loss")}
    parting = compare_values({key: run.summary[key] for key in said}, said)
    return [f"summary.json / metrics.jsonl: {parting}"] if parting else []


def _last(run: RunRecord, kind: str, key: str) -> Any:
    assert run.summary is not None
    return next(
        (x[key] for x in reversed(run.metrics) if x["kind"] == kind and x["step"] <= run.summary["iters"]), None
    )


def _differs(run: PlannedRun, reference: PlannedRun) -> list[str]:
    wrong = [
        f"{what}: {parting}" for what, parting in compare_runs(run.name, run.path, reference.path).partings.items()
    ]
    ours, theirs = (load_run(of.path, of.step, of.seed) for of in (run, reference))
    for a, b in ((ours, theirs), (theirs, ours)):  # neither has a line or a key that the other lacks
        if parting := compare_metrics(*([x for x in of.metrics if x["kind"] != "event"] for of in (a, b))):
            wrong.append(f"metrics.jsonl: {parting}")
    summaries = [{key: (of.summary or {}).get(key, "absent") for key in SUMMARY} for of in (ours, theirs)]
    if parting := compare_values(*summaries):
        wrong.append(f"summary.json: {parting}")
    return wrong


def _lines(run: RunRecord) -> dict[tuple[str, int], Json]:
    counting = (line for line in run.metrics if line["kind"] != "event")
    return {(x["kind"], x["step"]): {k: v for k, v in x.items() if k not in TIMES} for x in counting}


def _tables(experiment: Experiment) -> dict[str, Any]:
    """What summary.csv, comparison.csv and the report say of losses."""
    comparisons = compare(experiment)
    losses = [comparison for comparison in comparisons if comparison.metric.name in LOSSES]
    said: dict[str, Any] = {f"{c.step}, {c.metric.name}": comparison_row(c) for c in losses}
    with (experiment.path / "summary.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            said[f"{row['step']}/seed-{row['seed']}"] = {key: row[key] for key in row if key in SUMMARY}
    table = loss_table(experiment, [c for c in losses if c.metric.name == "val_loss"])
    return said | {"loss table": table.rows}


def _checkpoints(run: PlannedRun) -> list[Path]:
    return sorted((run.path / "checkpoints").glob("step-*.pt"))


def _step(path: Path) -> int:
    return int(path.stem.removeprefix("step-"))
