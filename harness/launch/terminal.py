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

PLAIN_EVERY_S = 10.0
"""Where the output is no terminal, a line of progress at most this often."""

LINE = 1000
"""Characters of what a run says: a reason for failing, an event."""


@dataclass
class _Shown:
    """What is known of a run that goes on."""

    phase: str = "starting"
    train: dict[str, Any] = field(default_factory=dict)
    val_loss: float | None = None
    started: float = field(default_factory=time.monotonic)
    first: tuple[int, float] | None = None

    def losses(self) -> str:
        loss = self.train.get("loss")
        parts = [] if self.val_loss is None else [f"val_loss {self.val_loss:.4f}"]
        parts += [] if loss is None else [f"loss {loss:.4f}"]
        return ", ".join(parts) or "no loss yet"


class LiveView:
    """The course of an ablation: run k of n, step, loss, tokens/s, and when the run and the whole will be done.

    `runs`: name and number of steps of each, in order. What is finished is a line that stays.
    """

    def __init__(self, runs: Sequence[tuple[str, int]], console: Console | None = None) -> None:
        self._console = console or terminal.console()
        self._iters = dict(runs)
        self._left = dict(runs)
        self._number = {name: k for k, (name, _) in enumerate(runs, 1)}
        self._seconds_per_step: dict[str, float] = {}
        self._name = ""
        """The run that has moved last."""
        self._shown: dict[str, _Shown] = {}
        self._last_plain = 0.0
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
        self._left[name] = 0
        self._line(name, "done", "earlier", "dim")

    def elsewhere(self, name: str, why: str) -> None:
        """Another process sees to a run."""
        self._line(name, "elsewhere", f"{why}; looked at again at the end", "dim")

    def refused(self, name: str, why: str) -> None:
        """Another run is where this one would be."""
        self._left[name] = 0
        self._line(name, "FAILED", why, "bold red")

    def note(self, name: str, what: str, why: str, style: str = "dim") -> None:
        """Something that is to be known of a run."""
        self._line(name, what, why, style)

    def started(self, name: str) -> None:
        """A run begins."""
        self._name, self._shown[name] = name, _Shown()
        if not self._console.is_terminal:
            self._line(name, "started", "")

    def update(self, name: str, line: dict[str, Any]) -> None:
        """A run has written a line of metrics.jsonl."""
        now = time.monotonic()
        self._name, it = name, self._shown.setdefault(name, _Shown())
        if line["kind"] == "event":
            it.phase = line["message"]
            if line["event"] in ("compile_fallback", "resume", "damaged", "nonfinite"):
                self._line(name, "note", line["message"], "yellow")
        elif line["kind"] == "eval":
            it.val_loss = line["val_loss"]
        elif line["kind"] == "train":
            it.phase, it.train = "", line
            self._left[name] = self._iters[name] - line["step"]
            if it.first is None:
                it.first = (line["step"], now)
            elif line["step"] > it.first[0]:
                # Of the wall clock, evaluations and checkpoints included.
                self._seconds_per_step[name] = (now - it.first[1]) / (line["step"] - it.first[0])
            if not self._console.is_terminal and now - self._last_plain >= PLAIN_EVERY_S:
                self._last_plain = now
                self._line(name, "running", self._numbers(name))

    def ended(self, name: str, status: str, reason: str) -> None:
        """A run has ended: done, failed or interrupted."""
        self._left[name] = 0
        self._name = "" if self._name == name else self._name
        it = self._shown.pop(name, _Shown())
        took = _duration(time.monotonic() - it.started)
        if status == "done":
            self._line(name, "done", f"{it.losses()}, {took}", "green")
        elif status == "failed":
            self._line(name, "FAILED", f"after {took}: {reason}", "bold red")
        else:
            self._line(name, status, f"after {took}; `make continue` goes on", "yellow")

    def _line(self, name: str, what: str, rest: str, style: str = "") -> None:
        of = f"[{self._number[name]}/{len(self._number)}]"
        said = f" {shown(rest, LINE)}" if rest else ""
        self._console.print(Text.assemble(showable(f"{of} {name}: "), (what, style or "none"), said))

    def _numbers(self, name: str) -> str:
        it = self._shown[name]
        eta = f"{_duration(self._eta(name))} left, {_duration(self._eta_all())} in all"
        step, speed = it.train["step"], it.train["tokens_per_s"]
        return f"step {step}/{self._iters[name]}, {it.losses()}, {speed:,.0f} tokens/s, {eta}"

    def _eta(self, name: str) -> float | None:
        """Seconds that a run still takes, from its own pace, else from that of the same step, else of any."""
        paces = self._seconds_per_step
        same_step = [pace for other, pace in paces.items() if other.split("/")[0] == name.split("/")[0]]
        known = [paces[name]] if name in paces else same_step or list(paces.values())
        return known[-1] * self._left[name] if known else None

    def _eta_all(self) -> float | None:
        each = [self._eta(name) for name, left in self._left.items() if left]
        return None if None in each else sum(seconds for seconds in each if seconds is not None)

    def _render(self) -> RenderableType:
        if not self._name:
            return Text("")
        it, iters = self._shown[self._name], self._iters[self._name]
        step = it.train.get("step", 0)
        grid = Table.grid(padding=(0, 2))
        grid.add_row(
            Text(showable(f"[{self._number[self._name]}/{len(self._number)}] {self._name}"), style="bold"),
            ProgressBar(total=iters, completed=step, width=20),
            Text(f"{step}/{iters}"),
            Text(f"{_duration(self._eta(self._name))} left"),
        )
        detail = shown(it.phase, LINE) or f"{it.losses()}, {it.train['tokens_per_s']:,.0f} tokens/s"
        return Group(grid, Text(f"  {detail}; {_duration(self._eta_all())} for all runs", style="dim"))


def _duration(seconds: float | None) -> str:
    return "?" if seconds is None else str(timedelta(seconds=round(seconds)))
