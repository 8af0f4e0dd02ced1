"""Stopping in an orderly way: Ctrl-C, SIGTERM, a batch system's SIGUSR1, or the end of the parent."""

from __future__ import annotations

import os
import select
import signal
import threading
from types import FrameType

_OFTEN = (signal.SIGUSR1, signal.SIGUSR2)
"""Of a batch system, which may send them to several processes, each of which passes them on."""


class Stop:
    """Whether training has been asked to stop. The loop looks between steps, so that it can leave a checkpoint.

    Until `defer` is called a signal ends the process at once (KeyboardInterrupt), and so does the end of the process
    that started this one: while a model is being built or compiled there is nothing to save. A second Ctrl-C always
    ends it at once. SIGUSR1, by which batch systems say that time is up, is one wish however often it comes; so is
    SIGUSR2. `with_parent`: stdin is a pipe from the process that started this one, and is closed when that
    ends.
    """

    def __init__(self, *, with_parent: bool = False) -> None:
        self._with_parent = with_parent
        self._parent_gone = threading.Event()
        self._deferred = False
        self._signals: list[int] = []

    def install(self) -> None:
        """Take the signals, and watch the parent."""
        for number in (signal.SIGINT, signal.SIGTERM, *_OFTEN):
            signal.signal(number, self._on_signal)
        if self._with_parent:
            threading.Thread(target=self._watch_parent, name="parent", daemon=True).start()

    def defer(self) -> None:
        """From now on a signal only sets `requested`."""
        self._deferred = True

    @property
    def requested(self) -> str | None:
        """Why to stop, or None."""
        if self._parent_gone.is_set():
            return "the process that started this one has ended"
        return signal.Signals(self._signals[0]).name if self._signals else None

    @property
    def signal(self) -> int | None:
        """The signal that asks to stop, if one does."""
        return self._signals[0] if self._signals else None

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        # Where all processes are sent SIGTERM, SIGINT comes after it, from the runner: that is one wish, not two.
        if not self._deferred or (number in self._signals and number not in _OFTEN):
            raise KeyboardInterrupt
        self._signals.append(number)

    def _watch_parent(self) -> None:
        poll = select.poll()
        poll.register(0, 0)  # no event is asked for: that the other end is gone is told anyway
        poll.poll()
        self._parent_gone.set()
        if not self._deferred:
            # Nobody waits for this any more, and compilers do not listen. They are of this process's group, which is
            # its own where somebody has started it so.
            if os.getpgrp() == os.getpid():
                os.killpg(0, signal.SIGKILL)
            os._exit(130)
