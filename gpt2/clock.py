"""The time that training steps take, and nothing else."""

from __future__ import annotations

import time

import torch

from gpt2.device import synchronize


class StepClock:
    """Runs while training steps do. Stopped for evaluation, checkpoints and compilation."""

    def __init__(self, device: torch.device, total_s: float = 0.0) -> None:
        self._device = device
        self._started: float | None = None
        self.total_s = total_s
        self.last_lap_s = total_s
        """`total_s` at the last log line."""

    def start(self) -> None:
        self._started = time.perf_counter()

    def stop(self) -> None:
        """Waits for the device first: steps that are queued are not done."""
        assert self._started is not None
        synchronize(self._device)
        self.total_s += time.perf_counter() - self._started
        self._started = None
