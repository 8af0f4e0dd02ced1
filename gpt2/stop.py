"""Stopping in an orderly way: Ctrl-C, SIGTERM, or the end of the process that started this one."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable
from types import FrameType


class Stop:
    """Whether training has been asked to stop. The loop looks between steps, so that it can leave a checkpoint.

    Until `defer` is called a signal ends the process at once (KeyboardInterrupt): while a model is being built or
    compiled there is nothing to save. A second Ctrl-C always ends it at once.
    """

    def __init__(self, *, with_parent: bool = False) -> None:
        self._orphaned = _orphaned() if with_parent else lambda: False
        self._deferred = False
        self._signal: str | None = None

    def install(self) -> None:
        """Take SIGINT and SIGTERM."""
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._on_signal)

    def defer(self) -> None:
        """From now on a signal only sets `requested`."""
        self._deferred = True

    @property
    def requested(self) -> str | None:
        """Why to stop, or None."""
        if self._orphaned():
            return "the process that started this one has ended"
        return self._signal

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if not self._deferred or self._signal is not None:
            raise KeyboardInterrupt
        self._signal = signal.Signals(number).name


def _orphaned() -> Callable[[], bool]:
    """What tells whether the process that started this one has ended."""
    starter = multiprocessing.parent_process()
    if starter is not None:  # this one was forked for it by another, which goes on for as long as this one does
        return lambda: not starter.is_alive()
    parent = os.getppid()
    return lambda: os.getppid() != parent
