"""Starting the trainer of one run. A run is a process of its own: one that dies takes nothing else with it.

It is forked off a process that has imported what a run needs (harness/launch/forkserver.py): importing torch and its
compiler is most of what a run does before it trains. Where that process cannot be had (a module that does not import;
macOS, where forking is not safe) the run imports for itself, and fails for itself.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from gpt2.run.lock import RunLock
from harness.configure.plan import PlannedRun
from harness.launch import forkserver

POLL_S = 0.2

# As it was before torch, where it has compiled something in this process, set it to a directory of its own.
_GIVEN_CACHE = os.environ.get("TORCHINDUCTOR_CACHE_DIR")

Process = subprocess.Popen[bytes]


class Trainer(Protocol):
    """A process that trains, as far as its runner is concerned: what subprocess.Popen has, too."""

    returncode: int | None
    """Exit status, or minus the signal that ended it; None until `poll` has seen it end."""

    def poll(self) -> int | None:
        """See whether it has ended."""

    def send_signal(self, sig: int) -> None:
        """Signal it, if it has not ended."""


def start_local(run: PlannedRun, lock: RunLock, given: Sequence[str] = ()) -> Trainer:
    """Start the trainer of `run` on this machine; what it prints goes to the run's train.log.

    It works by the configuration in the run's directory, which this process holds by `lock` and shares with it.

    In a session of its own, so that Ctrl-C reaches the runner alone, which passes it on once. It stops when this
    process ends. `given` are settings of make's command line; they are in the run's configuration already and are
    given for the record.
    """
    arguments = ["--stop-with-parent", "--config", str(run.path / "config"), "--out", str(run.path)]
    if given:
        arguments += ["--record", *given]
    log = (run.path / "train.log").absolute()
    log.touch()
    environment = {"PYTHONUNBUFFERED": "1", **os.environ, "TORCHINDUCTOR_CACHE_DIR": str(compiler_cache(run))}
    request: dict[str, Any] = {
        "arguments": arguments,
        "log": str(log),
        "directory": str(Path.cwd()),
        "environment": environment,
    }
    return _Forked(request, lock.fd) if sys.platform == "linux" else _plain(lock=lock.fd, **request)


def compiler_cache(run: PlannedRun) -> Path:
    """Where torch.compile puts its code: below the results, so that runs of the same shape share it."""
    return Path(_GIVEN_CACHE) if _GIVEN_CACHE else (run.path.parent.parent.parent / ".compiled").resolve()


def end(trainer: Trainer) -> None:
    """Kill a trainer that has not ended, and wait for it."""
    while trainer.poll() is None:
        trainer.send_signal(signal.SIGKILL)
        time.sleep(POLL_S)


def get_ready() -> None:
    """Begin to import, in the background, what trainers will need."""
    if sys.platform == "linux":
        _forkserver.process()


def _plain(arguments: Sequence[str], log: str, directory: str, environment: dict[str, str], lock: int) -> Process:
    with Path(log).open("ab") as file:
        return subprocess.Popen(
            [sys.executable, str(forkserver.TRAINER), *arguments, "--lock-fd", str(lock)],
            pass_fds=[lock],
            stdin=subprocess.PIPE,  # by whose end it notices that of this process
            stdout=file,
            stderr=subprocess.STDOUT,
            cwd=directory,
            env=environment,
            start_new_session=True,
        )


class _ForkServer:
    """The process that runs are forked off, started when it is first needed, and anew if it has ended."""

    def __init__(self) -> None:
        self._process: Process | None = None
        self._socket: socket.socket | None = None

    def process(self) -> Process:
        """The process, with its answers in `stdout`."""
        if self._process is None or self._process.poll() is not None:
            self.give_up()
            self._socket, theirs = socket.socketpair()
            with theirs:
                self._process = subprocess.Popen(
                    [sys.executable, "-u", forkserver.__file__],
                    stdin=theirs.fileno(),
                    stdout=subprocess.PIPE,
                    stderr=subprocess.DEVNULL,  # if it fails, so will the run, and say why
                    start_new_session=True,
                )
        return self._process

    def send(self, line: bytes, fd: int) -> None:
        """Send a line, and with it a file descriptor. BrokenPipeError if the process has ended."""
        assert self._socket is not None
        socket.send_fds(self._socket, [line[:1]], [fd])
        self._socket.sendall(line[1:])

    def give_up(self) -> None:
        """End it, if it has not ended. What it has forked notices, and stops."""
        if self._process is not None and self._socket is not None:
            self._process.kill()
            self._socket.close()
            self._process = self._socket = None


_forkserver = _ForkServer()


class _Forked:
    """A trainer that the fork server forks, as soon as it has imported everything."""

    def __init__(self, request: dict[str, Any], lock: int) -> None:
        self.returncode: int | None = None
        self._request = request
        self._lock = lock
        self._parent = _forkserver.process()
        self._answers = b""
        self._pid: int | None = None
        self._orphaned = False
        """Whether the fork server has ended, so that nobody tells how the trainer does."""
        self._instead: Process | None = None
        """What trains if the fork server ends before it has forked."""
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # it has ended: `poll` will see it
            _forkserver.send(json.dumps(request).encode() + b"\n", lock)

    def poll(self) -> int | None:
        if self.returncode is not None:
            return self.returncode
        self._listen()
        if self._instead is not None:
            self.returncode = self._instead.poll()
        elif self._orphaned and not _is_alive(self._pid):
            self.returncode = 1
        return self.returncode

    def send_signal(self, sig: int) -> None:
        if self.poll() is not None:
            return
        if self._instead is not None:
            self._instead.send_signal(sig)
        elif self._pid is not None:
            with contextlib.suppress(ProcessLookupError):  # it has just ended
                os.kill(self._pid, sig)
        else:
            _forkserver.give_up()
            self.returncode = -sig

    def _listen(self) -> None:
        """Take in what the fork server has answered."""
        assert self._parent.stdout is not None
        while not self._orphaned and self._instead is None and select.select([self._parent.stdout], [], [], 0)[0]:
            answer = os.read(self._parent.stdout.fileno(), 1000)
            self._answers += answer
            lines = self._answers.split(b"\n")[:-1]
            if lines:
                self._pid = int(lines[0])
            if len(lines) > 1:
                self.returncode = int(lines[1])
                return
            if not answer:
                _forkserver.give_up()
                if self._pid is None:
                    self._instead = _plain(lock=self._lock, **self._request)
                else:
                    self._orphaned = True


def _is_alive(pid: int | None) -> bool:
    """Whether a process of this number runs. One that nobody has asked for its end has ended all the same."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
