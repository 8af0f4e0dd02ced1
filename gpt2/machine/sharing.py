"""A device that several runs want: one trains on it at a time, the next gets ready beside it.

    <directory>/<device>/turn-<k>       held by the run that trains: there are as many as may train side by side
    <directory>/<device>/quiet          held, shared, by whoever uses the device; by one alone that is to have it so
    <directory>/<device>/users/<pid>    held by that process while it uses the device

All of these are locks of the system, which lets go of them when a process ends, however it ends.
"""

from __future__ import annotations

import fcntl
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from gpt2.base.files import make_directory


def machine_wide() -> Path:
    """The directory for devices that all of a user's checkouts share: GPUs."""
    return Path(tempfile.gettempdir(), f"gpt2-device-turns-{os.getuid()}")


class SharedDevice:
    """This process's share in a device. Without a `directory` nobody else is known, and nothing is waited for.

    `slot`: which of the device's turns to take; None takes none, and trains beside whoever does. `alone`: when it has
    its turn, nobody else uses the device.
    """

    def __init__(
        self, directory: Path | None, device: torch.device, *, slot: int | None = None, alone: bool = False
    ) -> None:
        self._slot = slot
        self._alone = alone
        self._place: Path | None = None
        self._use: list[int] = []
        """Locks held while the device is used."""
        self._turns: list[int] = []
        """Locks held while it is this run's turn."""
        self._seen = -1
        if directory is not None:
            self._place = directory / _device_id(device)
            make_directory(self._users)

    @property
    def has_turn(self) -> bool:
        """Whether the device is this run's to train on."""
        return self._place is None or self._slot is None or bool(self._turns)

    @contextmanager
    def beside(self) -> Iterator[None]:
        """Use the device for a block, beside whoever trains on it. Waits while somebody has it alone."""
        self._begin()
        try:
            yield
        finally:
            self._end()

    def take_turn(self, waiting: Callable[[], None] = lambda: None) -> None:
        """Take the device to train on it; `waiting` is called if that has to be waited for."""
        self.keep_turn(waiting)
        self._begin(alone=self._alone)

    def keep_turn(self, waiting: Callable[[], None] = lambda: None) -> None:
        """Take the device for others, that use it while this process keeps their turn."""
        if self._place is not None and self._slot is not None and not self._turns:
            turn = self._place / f"turn-{self._slot}"
            turns = sorted({turn, *self._place.glob("turn-*")}) if self._alone else [turn]
            for path in turns:  # in one order, whoever takes several
                self._turns.append(_lock(path, waiting))

    def leave(self) -> None:
        """Let the next run have the device."""
        self._end()
        while self._turns:
            os.close(self._turns.pop())

    def was_shared(self) -> bool:
        """Whether another process has used the device since this was last asked, or since its use began."""
        if self._place is None:
            return False
        # Whoever comes or goes changes the directory, and who stays holds a lock.
        before, self._seen = self._seen, self._users.stat().st_mtime_ns
        return before != self._seen or any(_is_held(path) for path in self._users.iterdir() if path != self._own)

    @property
    def _users(self) -> Path:
        assert self._place is not None
        return self._place / "users"

    @property
    def _own(self) -> Path:
        return self._users / str(os.getpid())

    def _begin(self, *, alone: bool = False) -> None:
        if self._place is None or self._use:
            return
        self._use.append(_lock(self._place / "quiet", how=fcntl.LOCK_EX if alone else fcntl.LOCK_SH))
        self._use.append(_lock(self._own))
        self._seen = self._users.stat().st_mtime_ns

    def _end(self) -> None:
        if self._use:
            self._own.unlink(missing_ok=True)
        while self._use:
            os.close(self._use.pop())


def have_alone(device: torch.device) -> None:
    """Have a GPU alone until this process ends, as whoever measures times has to. Says so where it waits for that.

    Of a processor nobody knows who uses it.
    """
    if device.type == "cuda":
        share = SharedDevice(machine_wide(), device, slot=0, alone=True)
        share.take_turn(lambda: print("waits until nobody else uses the device", flush=True))


def _lock(path: Path, waiting: Callable[[], None] = lambda: None, how: int = fcntl.LOCK_EX) -> int:
    """Wait for a lock. Returns its file descriptor, which holds it."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        try:
            fcntl.flock(fd, how | fcntl.LOCK_NB)
        except BlockingIOError:
            waiting()
            fcntl.flock(fd, how)
    except BaseException:  # a signal, perhaps
        os.close(fd)
        raise
    return fd


def _is_held(path: Path) -> bool:
    try:
        fd = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(fd)
    return False


def _device_id(device: torch.device) -> str:
    """What tells a device from the others of the machine, whatever this process may see of them."""
    if device.type != "cuda":
        return device.type
    return f"gpu-{torch.cuda.get_device_properties(device).uuid}"
