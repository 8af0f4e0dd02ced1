"""Stopping in an orderly way: Ctrl-C, SIGTERM, or the end of the process that started this one."""

from __future__ import annotations

import os
import signal
from types import FrameType


class Stop:
    """Whether training has been asked to stop. The loop looks between steps, so that it can leave a checkpoint.

    Until `defer` is called a signal ends the process at once (KeyboardInterrupt): while a model is being built or
    compiled there is nothing to save. A second Ctrl-C always ends it at once.
    """

    def __init__(self, *, with_parent: bool = False) -> None:
        self._parent = os.getppid() if with_parent else None
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
        if self._parent is not None and os.getppid() != self._parent:
            return "the process that started this one has ended"
        return self._signal

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if not self._deferred or self._signal is not None:
            raise KeyboardInterrupt
        self._signal = signal.Signals(number).name
