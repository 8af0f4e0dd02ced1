"""The lock on a run's directory."""

from __future__ import annotations

import fcntl
import os
import threading
from pathlib import Path

from gpt2.run import lease
from gpt2.run.lease import HeldElsewhere

__all__ = ["HeldElsewhere", "RunLock"]


class RunLock:
    """Holds a run's directory; the system lets go of it when all that share the lock have ended, however they end.

    A runner takes the lock, and shares it with the trainer it starts: that inherits `fd`, and takes it over with
    `RunLock(directory, fd)`. HeldElsewhere if somebody else holds it: here, as the system knows, or on another host, by
    its lease (gpt2/run/lease.py).
    """

    def __init__(self, directory: Path, fd: int | None = None) -> None:
        is_shared = fd is not None
        self._directory = directory
        self._released = threading.Event()
        self.fd = os.open(directory / ".lock", os.O_RDWR | os.O_CREAT, 0o666) if fd is None else fd
        os.set_inheritable(self.fd, False)
        try:
            fcntl.flock(self.fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            owner = f"process {os.pread(self.fd, 20, 0).decode(errors='replace').strip() or 'unknown'}"
            os.close(self.fd)
            # Where locks hold across hosts, it is the lease that knows whose it is.
            its = lease.read_lease(directory)
            owner = its.describe() if its and not its.is_of_this_host else owner
            raise HeldElsewhere(f"{directory}: is being trained by {owner}") from None
        try:
            self.took_over = lease.claim(directory, is_shared=is_shared).took_over
            """Whose it was before, where that one never let go of it."""
        except BaseException:
            os.close(self.fd)
            raise
        os.ftruncate(self.fd, 0)
        os.pwrite(self.fd, str(os.getpid()).encode(), 0)

    def keep(self) -> None:
        """Renew the lease from now on, as whoever trains has to."""
        lease.keep(self._directory, self._released)

    def release(self) -> None:
        """Let go of it, as far as this process is concerned."""
        self._released.set()
        lease.give_back(self._directory)
        os.close(self.fd)

    @staticmethod
    def is_held(directory: Path) -> bool:
        """Whether a process is training in `directory` now."""
        try:
            with (directory / ".lock").open() as file:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except FileNotFoundError:
            return False
        except OSError:
            return True
        return lease.holder_elsewhere(directory) is not None
