"""The lock on a run's directory."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from typing import IO

from gpt2.base.errors import UserError


class HeldElsewhere(UserError):
    """Another process trains in the directory."""


class RunLock:
    """Holds a run's directory for one process; the system lets go of it when the process ends, however it ends."""

    def __init__(self, directory: Path) -> None:
        self._file: IO[str] = (directory / ".lock").open("a+")
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self._file.seek(0)
            owner = self._file.read().strip() or "unknown"
            raise HeldElsewhere(f"{directory}: is being trained by process {owner}") from None
        self._file.truncate(0)
        self._file.write(str(os.getpid()))
        self._file.flush()

    def release(self) -> None:
        self._file.close()

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
