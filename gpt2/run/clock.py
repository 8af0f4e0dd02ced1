"""Where a run's time goes, and how long the process has been there."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from gpt2.machine.device import synchronize


class StepClock:
    """Runs while steps of one kind do: those of training, say, and not while there is evaluation or a checkpoint."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._started: float | None = None
        self.total_s = 0.0
        self.last_lap_s = 0.0
        """`total_s` at the last log line."""

    def start(self) -> None:
        self._started = time.perf_counter()

    def stop(self) -> None:
        """Waits for the device first: steps that are queued are not done."""
        assert self._started is not None
        synchronize(self._device)
        self.total_s += time.perf_counter() - self._started
        self._started = None

    @contextmanager
    def running(self) -> Iterator[None]:
        """Let it run for a block."""
        self.start()
        yield
        self.stop()


_IMPORTED = time.monotonic()


def process_age_s() -> float:
    """Seconds since this process was started or forked.

    Linux knows to a hundredth: proc(5), /proc/pid/stat, field 22, in clock ticks since boot. Elsewhere it is seconds
    since this module was imported.
    """
    try:
        # The second field is the program's name in brackets, and may hold blanks and brackets.
        fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return time.monotonic() - _IMPORTED
    started = int(fields[22 - 3]) / os.sysconf("SC_CLK_TCK")
    return time.clock_gettime(time.CLOCK_BOOTTIME) - started
