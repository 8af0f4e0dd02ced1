"""Signals from within: a process that is struck at the n-th thing of a kind that it does to a file.

The trainer and its harness have no hooks for this. A copy of this file named `sitecustomize.py` on PYTHONPATH is
imported by every Python that starts, and where the environment has a `TORTURE_FAULT` it wraps what files are opened,
written, renamed, removed and locked with. Nothing but the standard library may be imported here, and little of that.
"""

from __future__ import annotations

import builtins
import fcntl
import fnmatch
import io
import json
import os
import signal
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

VARIABLE = "TORTURE_FAULT"
"""Of the environment: a fault, as JSON."""

TARGETS = ("trainer", "runner", "fork server", "make", "group", "everything")
"""Who can be struck: a process, make's process group (which a terminal's Ctrl-C reaches), all processes of a make."""


@dataclass(frozen=True, kw_only=True)
class Fault:
    """Where a signal is sent from, and to whom."""

    call: str
    """open, write, fsync, replace, unlink, truncate, ftruncate, pwrite, mkdir or flock."""

    pattern: str
    """Which files, as in fnmatch."""

    when: str
    """"before" or "after" the call; of a write it is always the half that is written."""

    nth: int
    """Which of a process's calls of that kind."""

    by: str
    """The process that does it, "trainer" or "runner"."""

    signal: int
    target: str
    """One of TARGETS. Where there is no such process, it is the one that has come to this place."""

    folder: str
    """In which the make and its processes work."""

    marker: str
    """File that says that it has happened: no fault happens twice."""


def processes(folder: str) -> dict[int, str]:
    """Pid -> what it is, of the processes that work in a folder: a name of TARGETS, or "other"."""
    found = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                if os.readlink(f"/proc/{name}/cwd") == folder:
                    found[int(name)] = _role(name)
            except OSError:  # it has ended, or is somebody else's
                continue
    return found


def strike(folder: str, number: int, target: str) -> list[str]:
    """Send a signal to one of TARGETS, or to this process if there is no such one. Returns what is struck."""
    everyone = processes(folder)
    struck = {pid: role for pid, role in everyone.items() if target in (role, "everything")}
    if target == "group":
        groups = {pid for pid, role in everyone.items() if role == "make"}
        struck = {pid: role for pid, role in everyone.items() if _group(pid) in groups}
    own = os.getpid()
    struck = struck or {pid: role for pid, role in everyone.items() if pid == own}
    for pid in sorted(struck, key=lambda pid: pid == own):  # this one last
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            struck.pop(pid, None)
    return sorted(struck.values())


def _role(pid: str) -> str:
    with _open(f"/proc/{pid}/cmdline", "rb") as file:
        words = [os.path.basename(word) for word in file.read().decode(errors="replace").split("\0")]
    if words[0] == "make":
        return "make"
    if "scripts.run" in words:
        return "runner"
    if "train_ra_mla.py" in words:
        return "trainer"
    if "forkserver.py" in words:  # what it has forked has its name
        return "trainer" if os.readlink(f"/proc/{pid}/fd/1").endswith("train.log") else "fork server"
    return "other"


def _group(pid: int) -> int:
    try:
        return os.getpgid(pid)
    except ProcessLookupError:
        return 0


_open = builtins.open


class _Watch:
    """Looks for the one call at which a fault happens."""

    def __init__(self, fault: Fault) -> None:
        self.fault = fault
        self._left = fault.nth
        self._inside = False

    def sees(self, call: str, path: str) -> bool:
        """Whether this is the call."""
        fault = self.fault
        if self._inside or call != fault.call or not fnmatch.fnmatchcase(os.path.abspath(path), fault.pattern):
            return False
        if _role(str(os.getpid())) != fault.by:
            return False
        self._left -= 1
        return self._left == 0

    def strike(self, path: str) -> None:
        """Let it happen, if it has not yet."""
        self._inside = True
        try:
            with _open(self.fault.marker, "x") as file:
                json.dump({"path": path}, file)
        except FileExistsError:
            return
        finally:
            self._inside = False
        strike(self.fault.folder, self.fault.signal, self.fault.target)


class _Wrapped:
    """A function of the system. Not a function itself: as an attribute of a class it stays what it is."""

    def __init__(self, watch: _Watch, call: str, function: Callable[..., Any]) -> None:
        self._watch, self._call, self._function = watch, call, function

    def __call__(self, first: Any, *rest: Any, **options: Any) -> Any:
        watch, path = self._watch, _path(first)
        # Removing what is not there is nothing.
        is_due = (self._call != "unlink" or os.path.lexists(path)) and watch.sees(self._call, path)
        if is_due and watch.fault.when == "before":
            watch.strike(path)
        value = self._function(first, *rest, **options)
        if is_due and watch.fault.when == "after":
            watch.strike(path)
        return value


class _Opening:
    """`open`: what is opened to be written may be written by half."""

    def __init__(self, watch: _Watch) -> None:
        self._watch = watch
        self._writing = _Wrapped(watch, "open", _open)

    def __call__(self, file: Any, mode: str = "r", *rest: Any, **options: Any) -> Any:
        if isinstance(file, int) or not set(mode) & set("wax+"):
            return _open(file, mode, *rest, **options)
        opened = self._writing(file, mode, *rest, **options)
        return _Written(self._watch, _path(file), opened) if self._watch.fault.call == "write" else opened


class _Written:
    """A file of which a write may stay a half."""

    def __init__(self, watch: _Watch, path: str, file: Any) -> None:
        self._watch, self._path, self._file = watch, path, file

    def write(self, data: Any) -> int:
        if not self._watch.sees("write", self._path):
            return int(self._file.write(data))
        data = data if isinstance(data, str) else memoryview(data).cast("B")
        half = len(data) // 2
        self._file.write(data[:half])
        self._file.flush()
        self._watch.strike(self._path)
        self._file.write(data[half:])
        return len(data)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    def __enter__(self) -> _Written:
        self._file.__enter__()
        return self

    def __exit__(self, *error: Any) -> Any:
        return self._file.__exit__(*error)


def _path(file: Any) -> str:
    """Of a path, a file descriptor or a file."""
    if isinstance(file, (str, bytes, os.PathLike)):
        return os.fsdecode(file)
    return os.readlink(f"/proc/self/fd/{file if isinstance(file, int) else file.fileno()}")


def install(fault: Fault) -> None:
    """Wrap everything."""
    watch = _Watch(fault)
    for name in ("fsync", "replace", "unlink", "truncate", "ftruncate", "pwrite", "mkdir"):
        setattr(os, name, _Wrapped(watch, name, getattr(os, name)))
    fcntl.flock = _Wrapped(watch, "flock", fcntl.flock)
    builtins.open = io.open = _Opening(watch)


def environment(fault: Fault) -> dict[str, str]:
    """What a process has to have in its environment for the fault to happen."""
    return {VARIABLE: json.dumps(asdict(fault))}


if __name__ == "sitecustomize" and VARIABLE in os.environ:
    given = json.loads(os.environ[VARIABLE])
    install(Fault(**{**given, "signal": signal.Signals(given["signal"])}))
