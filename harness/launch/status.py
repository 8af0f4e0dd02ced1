"""`make status`: the table of planned runs and how far each has come."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from gpt2.base import terminal
from gpt2.base.text import showable, shown
from gpt2.run.lock import RunLock
from gpt2.run.records import differences, identity_beside
from harness.configure.plan import Plan, PlannedRun
from harness.evidence.store import RunRecord, load_run
from harness.launch import slurm_queue

STYLES = {
    "done": "green",
    "failed": "bold red",
    "damaged": "bold red",
    "another run": "bold red",
    "running": "cyan",
    "interrupted": "yellow",
    "unfinished": "yellow",
}


def print_status(plan: Plan, console: Console | None = None) -> None:
    """Print a line per planned run: status, steps, losses, speed."""
    console = console or terminal.console()
    console.print(Text(showable(str(plan.directory)), style="bold"))
    table = Table(box=None, pad_edge=False)
    # On a narrow terminal it is the run's name that is folded, and never a number that is cut.
    table.add_column("run", overflow="fold")
    for column in ("status", "step", "val_loss", "ms/step", "tokens/s", "GiB"):
        table.add_column(column, justify="left" if column == "status" else "right", no_wrap=True)
    records = [load_run(run.path, run.step, run.seed) for run in plan.runs]
    others = [_differences(run, record) for run, record in zip(plan.runs, records, strict=True)]
    jobs, no_answer = _jobs([record for record in records if record.status != "done"])
    for run, record, differ in zip(plan.runs, records, others, strict=True):
        table.add_row(*_row(run, record, "another run" if differ else jobs.get(record.path)))
    console.print(table)
    if no_answer:
        console.print(Text(no_answer), soft_wrap=True)
    for run, differ in zip(plan.runs, others, strict=True):
        if differ:
            console.print(Text(f"{run.name} holds another run: {shown('; '.join(differ), 400)}"), soft_wrap=True)
    for record in records:
        if record.damage is not None:
            console.print(Text(f"{record.name} is damaged: {shown(record.damage, 400)}"), soft_wrap=True)


def _differences(run: PlannedRun, record: RunRecord) -> list[str]:
    """What makes the run that a directory holds another one than is planned, as far as settings tell."""
    if record.provenance is None:
        return []
    recorded = record.provenance["identity"]
    return differences(recorded, identity_beside(run.config, recorded))


def _jobs(records: Sequence[RunRecord]) -> tuple[dict[Path, str], str]:
    """What Slurm says of the runs that have a job, and why it says nothing."""
    try:
        live = slurm_queue.live_jobs([record.path for record in records])
    except slurm_queue.NoAnswer as error:
        return {}, f"Slurm does not say how its jobs are: {shown(error, 400)}"
    return {path: state.describe(job) for path, (job, state) in live.items()}, ""


def _row(run: PlannedRun, record: RunRecord, other: str | None) -> list[Text | str]:
    status = other or ("running" if RunLock.is_held(run.path) else record.status)
    step = _last(record, "train", "step") or 0
    val_loss = record.value("val_loss") or _last(record, "eval", "val_loss")
    return [
        Text(showable(run.name)),
        Text(status, style=STYLES.get(status.partition(" (")[0], "dim")),
        f"{step:.0f}/{run.config.train.max_iters}",
        _number(val_loss, ".4f"),
        _number(record.value("ms_per_step") or _last(record, "train", "ms_per_step"), ".1f"),
        _number(record.value("tokens_per_s") or _last(record, "train", "tokens_per_s"), ",.0f"),
        _number(record.value("peak_mem_gib"), ".2f"),
    ]


def _last(record: RunRecord, kind: str, key: str) -> float | None:
    _, values = record.series(kind, "step", key)
    return values[-1] if values else None


def _number(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)
