"""How a command prints: on a terminal as wide as that is, and live; into a pipe or a file line by line."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager

import rich.progress
from rich.console import Console
from rich.progress import BarColumn, TaskProgressColumn, TextColumn, TimeElapsedColumn

from gpt2.base.progress import Progress

_NO_WIDTH = 100_000


def console(*, stderr: bool = False) -> Console:
    """Where to print. A pipe or a file has no width, and what is printed there is not wrapped: greps rely on lines."""
    it = Console(highlight=False, stderr=stderr)
    if not it.is_terminal:
        it.width = _NO_WIDTH
    return it


def heading(title: str, command: str) -> None:
    """Announce a part of several, and the command that does this part alone."""
    console().print(f"\n[bold]{title}[/] [dim]({command})[/]")


@contextmanager
def progress_bar(title: str, *, stderr: bool = False) -> Iterator[Progress]:
    """A bar on a terminal; elsewhere a line for each tenth of the work. `stderr`: where stdout is for what is found.

    It is drawn by whoever reports, ten times a second at most, and by no thread, which would be timed too.
    """
    out = console(stderr=stderr)
    if out.is_terminal:
        columns = TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeElapsedColumn()
        line = TextColumn("{task.fields[line]}")
        with rich.progress.Progress(*columns, line, console=out, auto_refresh=False) as progress:
            task = progress.add_task(title, total=1.0, line="")
            drawn = -math.inf

            def draw(share: float, line: str) -> None:
                nonlocal drawn
                is_due = time.monotonic() - drawn > 0.1
                progress.update(task, completed=share, line=line, refresh=is_due)
                drawn = time.monotonic() if is_due else drawn

            yield draw
        return

    tenths = -1

    def print_tenths(share: float, line: str) -> None:
        nonlocal tenths
        if int(share * 10) > tenths:
            tenths = int(share * 10)
            print(f"{title}: {int(share * 100)}%, {line}", file=out.file, flush=True)

    yield print_tenths
