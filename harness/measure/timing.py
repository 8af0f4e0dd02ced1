"""Measuring time: the host's clock and the device's, medians and their spread.

    a, b = round_robin({"a": lambda: wall_ms(f, 10, device), "b": lambda: wall_ms(g, 10, device)}, 20).values()
    print(Times.of(a).median / Times.of(b).median)

- `wall_ms` is what a user waits for: Python, kernel launches and kernels, until the device has finished.
- `replay_ms` replays a CUDA graph between two events: the kernels alone, whatever the host does.
- `Stopwatch` takes the time of the phases of a longer piece of work without making the host wait.
"""

from __future__ import annotations

import gc
import itertools
import random
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any, TypeVar

import torch

from gpt2.base.progress import Progress, silent
from gpt2.machine.device import hardware, synchronize, versions
from gpt2.run.record import code_state, command_line

K = TypeVar("K")
S = TypeVar("S")

_WARM_UP_CALLS = 3


@dataclass(frozen=True, kw_only=True)
class Times:
    """Repeated measurements of one thing, in ms."""

    n: int
    """Measurements."""

    median: float
    q1: float
    """Lower quartile."""

    q3: float
    """Upper quartile."""

    @classmethod
    def of(cls, samples: Sequence[float]) -> Times:
        """Of two measurements at least."""
        q1, median, q3 = statistics.quantiles(samples, n=4, method="inclusive")
        return cls(n=len(samples), median=median, q1=q1, q3=q3)

    @property
    def spread(self) -> float:
        """Interquartile range as a share of the median."""
        return (self.q3 - self.q1) / self.median

    def __str__(self) -> str:
        return f"{self.median:#.4g} ±{self.spread / 2:.1%}"


def round_robin(measures: Mapping[K, Callable[[], S]], repeats: int, report: Progress = silent) -> dict[K, list[S]]:
    """`repeats` measurements of each, taken in turns: what changes over time, such as the clock, changes for all.

    Each turn has another order, always the same ones: what comes before a measurement leaves its heat behind. Python
    collects no garbage meanwhile.
    """
    samples: dict[K, list[S]] = {key: [] for key in measures}
    order = list(measures)
    shuffle = random.Random(0).shuffle
    gc.collect()
    gc.disable()
    try:
        for turn in range(1, repeats + 1):
            shuffle(order)
            for key in order:
                samples[key].append(measures[key]())
            report(turn / repeats, f"turn {turn} of {repeats}")
    finally:
        gc.enable()
    return samples


def wall_ms(call: Callable[[], object], calls: int, device: torch.device) -> float:
    """Time of a call by the host's clock, as the mean over `calls` in a row that the device is then waited for."""
    synchronize(device)
    start = time.perf_counter()
    for _ in range(calls):
        call()
    synchronize(device)
    return 1000 * (time.perf_counter() - start) / calls


def calls_lasting(ms: float, call: Callable[[], object], device: torch.device) -> int:
    """How many calls in a row take about `ms`. Warms up: compiles, loads and allocates whatever the call needs."""
    wall_ms(call, _WARM_UP_CALLS, device)
    return max(1, round(ms / wall_ms(call, _WARM_UP_CALLS, device)))


def capture(call: Callable[[], object]) -> torch.cuda.CUDAGraph:
    """A CUDA graph of what `call` launches. It works on the tensors that `call` works on, which have to live on."""
    # On a stream of its own, as capturing asks for; the first calls may still compile and allocate.
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(_WARM_UP_CALLS):
            call()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        call()
    return graph


def replay_ms(graph: torch.cuda.CUDAGraph, replays: int) -> float:
    """Device time of a replay, as the mean over `replays` of them in a row."""
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    for _ in range(replays):
        graph.replay()
    end.record()
    end.synchronize()
    return start.elapsed_time(end) / replays


class Stopwatch:
    """Takes the time of phases: CUDA events on a GPU, so that the host need not wait, and the host's clock elsewhere.

    A lap is `start()` and then `mark(phase)` at the end of each phase; `laps()` are those since it was last asked.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._laps: list[list[tuple[str, Any]]] = []

    def start(self) -> None:
        """Begin a lap."""
        self._laps.append([("", self._now())])

    def mark(self, phase: str) -> None:
        """`phase` ends here. It began with the mark before."""
        self._laps[-1].append((phase, self._now()))

    def laps(self) -> list[dict[str, float]]:
        """Phase -> ms of each lap, and "total"; waits for the device."""
        synchronize(self._device)
        laps = []
        for marks in self._laps:
            pairs = itertools.pairwise(marks)
            lap = {phase: self._between(before, now) for (_, before), (phase, now) in pairs}
            laps.append(lap | {"total": self._between(marks[0][1], marks[-1][1])})
        self._laps.clear()
        return laps

    def _now(self) -> Any:
        if self._device.type == "cuda":
            event = torch.cuda.Event(enable_timing=True)
            event.record()
            return event
        synchronize(self._device)
        return time.perf_counter()

    def _between(self, start: Any, end: Any) -> float:
        return float(start.elapsed_time(end)) if self._device.type == "cuda" else 1000 * (end - start)


def measured_on(device: torch.device) -> dict[str, Any]:
    """Where numbers come from, for the head of a JSON file: command, time, code, versions, hardware.

    To be asked before anything is measured: what is edited meanwhile is not what was measured.
    """
    return {
        "command": command_line(),
        "started": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "code": code_state(),
        "versions": versions(),
        "hardware": hardware(device),
    }
