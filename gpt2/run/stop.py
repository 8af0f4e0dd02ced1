"""Stopping in an orderly way: Ctrl-C, SIGTERM, or the end of the process that started this one."""

from __future__ import annotations

import select
import signal
from types import FrameType


class Stop:
    """Whether training has been asked to stop. The loop looks between steps, so that it can leave a checkpoint.

    Until `defer` is called a signal ends the process at once (KeyboardInterrupt): while a model is being built or
    compiled there is nothing to save. A second Ctrl-C always ends it at once. `with_parent`: stdin is a pipe from the
    process that started this one, and is closed when that ends.
    """

    def __init__(self, *, with_parent: bool = False) -> None:
        self._parent = select.poll() if with_parent else None
        if self._parent is not None:
            self._parent.register(0, 0)  # no event is asked for: that the other end is gone is told anyway
        self._deferred = False
        self._signals: list[int] = []

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
        if self._parent is not None and self._parent.poll(0):
            return "the process that started this one has ended"
        return signal.Signals(self._signals[0]).name if self._signals else None

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        # Where all processes are sent SIGTERM, SIGINT comes after it, from the runner: that is one wish, not two.
        if not self._deferred or number in self._signals:
            raise KeyboardInterrupt
        self._signals.append(number)
