"""The lock on a run's directory."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from gpt2.base.errors import UserError


class HeldElsewhere(UserError):
    """Another process trains in the directory."""


class RunLock:
    """Holds a run's directory; the system lets go of it when all that share the lock have ended, however they end.

    A runner takes the lock, and shares it with the trainer it starts: that inherits `fd`, and takes it over with
    `RunLock(directory, fd)`. HeldElsewhere if somebody else holds it.
    """

    def __init__(self, directory: Path, fd: int | None = None) -> None:
        self.fd = os.open(directory / ".lock", os.O_RDWR | os.O_CREAT, 0o666) if fd is None else fd
        os.set_inheritable(self.fd, False)
        try:
            fcntl.flock(self.fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            owner = os.pread(self.fd, 20, 0).decode(errors="replace").strip() or "unknown"
            self.release()
            raise HeldElsewhere(f"{directory}: is being trained by process {owner}") from None
        os.ftruncate(self.fd, 0)
        os.pwrite(self.fd, str(os.getpid()).encode(), 0)

    def release(self) -> None:
        """Let go of it, as far as this process is concerned."""
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
        return False
