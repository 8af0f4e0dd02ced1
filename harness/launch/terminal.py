"""What `make` shows while runs are trained: something live on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from types import TracebackType
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from gpt2.base import terminal
from gpt2.base.text import showable, shown
from gpt2.run.records import NONFINITE

PLAIN_EVERY_S = 10.0
"""Where the output is no terminal, a line of progress at most this often."""

GO_ON = "`make continue` goes on"

LINE = 1000
"""Characters of what a run says: a reason for failing, an event."""


@dataclass
class _Course:
    """How far a run has come, as it is shown."""

    number: int
    iters: int
    left: int
    """Steps."""
    slot: str = ""
    is_active: bool = False
    phase: str = ""
    train: dict[str, Any] = field(default_factory=dict)
    """The newest line of its kind."""
    val_loss: float | None = None
    started: float | None = None
    """By time.monotonic(); None of a run that was never seen to begin, as of a job that ended in its queue."""
    first: tuple[int, float] | None = None
    """Step and time of the first line."""
    seconds_per_step: float | None = None
    """Of the wall clock, evaluations and checkpoints included."""
    last_plain: float = 0.0


class LiveView:
    """The course of an ablation: for each run that is trained step, loss, tokens/s, and when it and all will be done.

    `runs`: name and number of steps of each, in order; `slots` are trained side by side. What is finished is a line
    that stays.
    """

    def __init__(self, runs: Sequence[tuple[str, int]], console: Console | None = None, *, slots: int = 1) -> None:
        self._console = console or terminal.console()
        self._slots = slots
        self._runs = {name: _Course(k, iters, iters) for k, (name, iters) in enumerate(runs, 1)}
        self._pace: dict[str, float] = {}
        """Seconds per step of the newest run, by step."""
        self._live = Live(get_renderable=self._render, console=self._console, refresh_per_second=4, transient=True)

    def __enter__(self) -> LiveView:
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._live.stop()

    def say(self, message: str) -> None:
        """A line that stays."""
        self._console.print(Text(showable(message)))

    def skipped(self, name: str) -> None:
        """A run is done already."""
        self._runs[name].left = 0
        self._line(name, "done", "earlier", "dim")

    def elsewhere(self, name: str, why: str) -> None:
        """Another process sees to a run."""
        self._line(name, "elsewhere", f"{why}; looked at again at the end", "dim")

    def refused(self, name: str, why: str) -> None:
        """Another run is where this one would be."""
        self._runs[name].left = 0
        self._line(name, "FAILED", why, "bold red")

    def note(self, name: str, what: str, why: str, style: str = "dim") -> None:
        """Something that is to be known of a run."""
        self._line(name, what, why, style)

    def started(self, name: str, slot: str = "") -> None:
        """A run begins: it gets ready to train in a slot."""
        run = self._runs[name]
        run.slot, run.is_active, run.phase, run.train, run.val_loss = slot, True, "starting", {}, None
        run.started, run.first = time.monotonic(), None
        if not self._console.is_terminal:
            self._line(name, "started", f"on {slot}" if slot else "")

    def update(self, name: str, line: dict[str, Any]) -> None:
        """A run has written a line of metrics.jsonl."""
        run, now = self._runs[name], time.monotonic()
        if line["kind"] == "event":
            run.phase = line["message"]
            if line["event"] in ("compile_fallback", "resume", "damaged", "memory", *NONFINITE):
                self._line(name, "note", line["message"], "yellow")
        elif line["kind"] == "eval":
            run.val_loss = line["val_loss"]
        elif line["kind"] == "train":
            run.phase, run.train = "", line
            run.left = run.iters - line["step"]
            if run.first is None:
                run.first = (line["step"], now)
            elif line["step"] > run.first[0]:
                run.seconds_per_step = (now - run.first[1]) / (line["step"] - run.first[0])
                self._pace[_step(name)] = run.seconds_per_step
            if not self._console.is_terminal and now - run.last_plain >= PLAIN_EVERY_S:
                run.last_plain = now
                self._line(name, "running", self._numbers(run, name))

    def ended(self, name: str, status: str, reason: str) -> None:
        """A run has ended: done, failed or interrupted."""
        run = self._runs[name]
        run.left, run.is_active = 0, False
        took = None if run.started is None else _duration(time.monotonic() - run.started)
        if status == "done":
            self._line(name, "done", f"{_losses(run)}, {took}" if took else _losses(run), "green")
        elif status == "failed":
            self._line(name, "FAILED", f"after {took}: {reason}" if took else reason, "bold red")
        else:
            self._line(name, status, f"after {took}; {GO_ON}" if took else GO_ON, "yellow")

    def _line(self, name: str, what: str, rest: str, style: str = "") -> None:
        of = f"[{self._runs[name].number}/{len(self._runs)}]"
        said = f" {shown(rest, LINE)}" if rest else ""
        self._console.print(Text.assemble(showable(f"{of} {name}: "), (what, style or "none"), said))

    def _numbers(self, run: _Course, name: str) -> str:
        step, speed = run.train["step"], run.train["tokens_per_s"]
        eta = f"{_duration(self._eta(name))} left, {_duration(self._eta_all())} in all"
        return f"step {step}/{run.iters}, {_losses(run)}, {speed:,.0f} tokens/s, {eta}"

    def _eta(self, name: str) -> float | None:
        """Seconds that a run still takes, from its own pace, else from that of the same step, else of any."""
        run = self._runs[name]
        pace = run.seconds_per_step or self._pace.get(_step(name)) or next(reversed(self._pace.values()), None)
        return None if pace is None else pace * run.left

    def _eta_all(self) -> float | None:
        """Seconds that all still take, in slots that are never empty, and none of them before its longest run."""
        each = [self._eta(name) for name, run in self._runs.items() if run.left]
        known = [seconds for seconds in each if seconds is not None]
        return None if len(known) < len(each) else max([sum(known) / self._slots, *known], default=0.0)

    def _render(self) -> RenderableType:
        active = {name: run for name, run in self._runs.items() if run.is_active}
        if not active:
            return Text("")
        grid = Table.grid(padding=(0, 2))
        for name, run in active.items():
            step = run.train.get("step", 0)
            detail = shown(run.phase, LINE) or f"{_losses(run)}, {run.train['tokens_per_s']:,.0f} tokens/s"
            grid.add_row(
                Text(showable(f"[{run.number}/{len(self._runs)}] {name}"), style="bold"),
                ProgressBar(total=run.iters, completed=step, width=20),
                Text(f"{step}/{run.iters}"),
                Text(f"{_duration(self._eta(name))} left"),
                Text(f"{run.slot}: {detail}" if run.slot else detail, style="dim", no_wrap=True, overflow="ellipsis"),
            )
        done = sum(not (run.left or run.is_active) for run in self._runs.values())
        whole = f"  {done} of {len(self._runs)} runs over; {_duration(self._eta_all())} for all"
        return Group(grid, Text(whole, style="dim"))


def _step(name: str) -> str:
    """The step of a run's name: runs that differ in their seed alone are equally fast."""
    return name.split("/")[0]


def _losses(run: _Course) -> str:
    loss = run.train.get("loss")
    parts = [] if run.val_loss is None else [f"val_loss {run.val_loss:.4f}"]
    parts += [] if loss is None else [f"loss {loss:.4f}"]
    return ", ".join(parts) or "no loss yet"


def _duration(seconds: float | None) -> str:
    return "?" if seconds is None else str(timedelta(seconds=round(seconds)))
