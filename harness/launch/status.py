"""`make status`: the table of planned runs and how far each has come."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from rich.cells import cell_len, chop_cells
from rich.console import Console, ConsoleOptions
from rich.segment import Segment
from rich.style import Style
from rich.text import Text

from gpt2.base import terminal
from gpt2.base.text import showable, shown
from gpt2.run.lock import RunLock
from gpt2.run.records import differences, identity_beside, read_provenance
from harness.configure.plan import Plan, PlannedRun
from harness.evidence.digests import Digest, Digests
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

COLUMNS = ("run", "status", "step", "val_loss", "ms/step", "tokens/s", "GiB")


def print_status(plan: Plan, console: Console | None = None) -> None:
    """Print a line per planned run: status, steps, losses, speed. What tunes the arms has a table of its own."""
    for stage in plan.stages:
        _print_stage(stage, console or terminal.console())


def _print_stage(plan: Plan, console: Console) -> None:
    console.print(Text(showable(str(plan.directory)), style="bold"))
    known = Digests(plan.directory)
    digests = [known.of(run.path, run.step, run.seed) for run in plan.runs]
    known.keep()
    others = dict(_others(plan.runs, digests))
    ended = zip(plan.runs, digests, strict=True)
    jobs, no_answer = _jobs([run.path for run, digest in ended if digest.status != "done"])
    rows = [
        _row(run, digest, "another run" if run.name in others else jobs.get(run.path))
        for run, digest in zip(plan.runs, digests, strict=True)
    ]
    console.print(_Table(rows), end="")
    if no_answer:
        console.print(Text(no_answer), soft_wrap=True)
    for name, differ in others.items():
        console.print(Text(f"{name} holds another run: {shown('; '.join(differ), 400)}"), soft_wrap=True)
    for run, digest in zip(plan.runs, digests, strict=True):
        if digest.damage is not None:
            console.print(Text(f"{run.name} is damaged: {shown(digest.damage, 400)}"), soft_wrap=True)


def _jobs(runs: Sequence[Path]) -> tuple[dict[Path, str], str]:
    """What Slurm says of the runs that have a job, and why it says nothing."""
    try:
        live = slurm_queue.live_jobs(runs)
    except slurm_queue.NoAnswer as error:
        return {}, f"Slurm does not say how its jobs are: {shown(error, 400)}"
    return {path: state.describe(job) for path, (job, state) in live.items()}, ""


def _others(runs: Sequence[PlannedRun], digests: Sequence[Digest]) -> Iterator[tuple[str, list[str]]]:
    """Name of each run whose directory holds another one than is planned, as far as settings tell, and what differs.

    Runs of an arm differ in their seed alone, planned or recorded, so that those who recorded the same are compared
    once.
    """
    same: set[tuple[str, str]] = set()
    for run, digest in zip(runs, digests, strict=True):
        if digest.identity is None or (run.step, digest.identity) in same:
            continue
        recorded = read_provenance(run.path / "provenance.json")["identity"]
        if differ := differences(recorded, identity_beside(run.config, recorded)):
            yield run.name, differ
        else:
            same.add((run.step, digest.identity))


def _row(run: PlannedRun, digest: Digest, other: str | None) -> list[str]:
    status = digest.status
    if status != "done" and os.path.lexists(run.path) and RunLock.is_held(run.path):
        status = "running"
    return [
        showable(run.name),
        other or status,
        f"{digest.step}/{run.config.train.max_iters}",
        _number(digest.val_loss, ".4f"),
        _number(digest.ms_per_step, ".1f"),
        _number(digest.tokens_per_s, ",.0f"),
        _number(digest.peak_mem_gib, ".2f"),
    ]


def _number(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)


class _Table:
    """Columns of a row a run, which may be ten thousand: rich's own table takes a thousand times as long.

    On a narrow terminal it is the run's name that is folded, and never a number that is cut.
    """

    def __init__(self, rows: Sequence[Sequence[str]]) -> None:
        self._rows = rows

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Segment]:
        columns = list(zip(COLUMNS, *self._rows, strict=True))
        widths = [max(map(cell_len, column)) for column in columns]
        widths[0] = max(1, min(widths[0], options.max_width - sum(widths[1:]) - 2 * len(widths) + 2))
        yield from _line(COLUMNS, widths, Style(bold=True), Style(bold=True))
        styles = {status: console.get_style(style) for status, style in STYLES.items()}
        dim = console.get_style("dim")
        for row in self._rows:
            yield from _line(row, widths, None, styles.get(row[1].partition(" (")[0], dim))


def _line(cells: Sequence[str], widths: Sequence[int], style: Style | None, of_status: Style | None) -> list[Segment]:
    """A row, of several lines where its first cell is wider than its column."""
    name, status, *numbers = cells
    first, *rest = chop_cells(name, widths[0]) if cell_len(name) > widths[0] else [name]
    line = [
        Segment(first + " " * (widths[0] - cell_len(first) + 2), style),
        Segment(f"{status:{widths[1]}}", of_status),
        Segment("".join(f"  {n:>{w}}" for n, w in zip(numbers, widths[2:], strict=True)) + "\n", style),
    ]
    return line + [Segment(f"{part}\n", style) for part in rest]
