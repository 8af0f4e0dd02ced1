"""`make status`: the table of planned runs and how far each has come."""

from __future__ import annotations

from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from gpt2.base import terminal
from gpt2.run.lock import RunLock
from harness.configure.plan import Plan, PlannedRun
from harness.evidence.store import RunRecord, load_run

STYLES = {"done": "green", "failed": "bold red", "running": "cyan", "interrupted": "yellow", "unfinished": "yellow"}


def print_status(plan: Plan, console: Console | None = None) -> None:
    """Print a line per planned run: status, steps, losses, speed."""
    console = console or terminal.console()
    console.print(f"[bold]{escape(str(plan.directory))}[/]")
    table = Table(box=None, pad_edge=False)
    # On a narrow terminal it is the run's name that is folded, and never a number that is cut.
    table.add_column("run", overflow="fold")
    for column in ("status", "step", "val_loss", "ms/step", "tokens/s", "GiB"):
        table.add_column(column, justify="left" if column == "status" else "right", no_wrap=True)
    for run in plan.runs:
        table.add_row(*_row(run))
    console.print(table)


def _row(run: PlannedRun) -> list[Text | str]:
    record = load_run(run.path, run.step, run.seed)
    status = "running" if RunLock.is_held(run.path) else record.status
    step = _last(record, "train", "step") or 0
    val_loss = record.value("val_loss") or _last(record, "eval", "val_loss")
    return [
        run.name,
        Text(status, style=STYLES.get(status, "dim")),
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
