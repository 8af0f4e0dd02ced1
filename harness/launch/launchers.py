"""Starting the trainer of one run. A run is a process of its own: one that dies takes nothing else with it.

It is forked off a process that has imported what a run needs (harness/launch/forkserver.py): importing torch and its
compiler is most of what a run does before it trains. Where that process cannot be had (a module that does not import;
macOS, where forking is not safe) the run imports for itself, and fails for itself.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
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


@dataclass(frozen=True, kw_only=True)
class Slot:
    """A share of a device."""

    device: str = ""
    """For people: "GPU 0", "cpu"."""

    devices: int = 1
    """How many."""

    turn: int | None = None
    """Which of the device's turns; None where nobody waits for anybody."""

    turns: Path | None = None
    """Where the device's turns are kept; None for the place of the machine's GPUs."""

    is_processor: bool = False
    """Whether it trains on cores, which another run would take from it to get ready."""

    environment: Mapping[str, str] = field(default_factory=dict)
    """By which a trainer finds its device, and its share of the cores."""

    @property
    def name(self) -> str:
        """The device, and which of its shares, but for the first: "GPU 0", "GPU 0 (2)"."""
        return f"{self.device} ({self.turn + 1})" if self.turn else self.device

    @property
    def arguments(self) -> list[str]:
        """A trainer's."""
        arguments = [] if self.turn is None else ["--turn", str(self.turn)]
        return arguments if self.turns is None else [*arguments, "--turns", str(self.turns.absolute())]


ANYWHERE = Slot()
"""For one run, on its own."""


def start_local(run: PlannedRun, lock: RunLock, given: Sequence[str] = (), slot: Slot = ANYWHERE) -> Trainer:
    """Start the trainer of `run` on this machine; what it prints goes to the run's train.log.

    It trains in `slot`, when whoever trains there has ended.

    It works by the configuration in the run's directory, which this process holds by `lock` and shares with it.

    In a session of its own, so that Ctrl-C reaches the runner alone, which passes it on once. It stops when this
    process ends. `given` are settings of make's command line; they are in the run's configuration already and are
    given for the record.
    """
    arguments = ["--stop-with-parent", "--config", str(run.path / "config"), "--out", str(run.path)]
    arguments += slot.arguments
    if given:
        arguments += ["--record", *given]
    log = (run.path / "train.log").absolute()
    log.touch()
    environment = {"PYTHONUNBUFFERED": "1", **os.environ, "TORCHINDUCTOR_CACHE_DIR": str(compiler_cache(run))}
    environment |= slot.environment
    request: dict[str, Any] = {
        "arguments": arguments,
        "log": str(log),
        "directory": str(Path.cwd()),
        "environment": environment,
    }
    return _Forked(request, lock.fd) if sys.platform == "linux" else _plain(lock=lock.fd, **request)


def compiler_cache(run: PlannedRun) -> Path:
    """Where torch.compile puts its code: below the results, so that runs of the same shape share it."""
    return Path(_GIVEN_CACHE) if _GIVEN_CACHE else (run.results_dir / ".compiled").resolve()


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
        self._names = itertools.count()
        self._unread, self._has_forked = b"", False
        self._said: dict[str, dict[str, int]] = {}
        """What it has answered, by name: "pid", and then "exitcode"."""

    def process(self) -> Process:
        """The process."""
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
                self._unread, self._has_forked = b"", False
        return self._process

    def ask(self, request: dict[str, Any], lock: int) -> tuple[str, Process]:
        """Ask for a trainer. Returns the name by which `said` tells of it, and whom was asked: one, and nobody else."""
        name = str(next(self._names))
        self._said[name] = {}
        line = json.dumps(request | {"name": name}).encode() + b"\n"
        asked = self.process()
        assert self._socket is not None
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # it has ended: `said` will tell
            socket.send_fds(self._socket, [line[:1]], [lock])
            self._socket.sendall(line[1:])
        return name, asked

    def said(self, name: str, of: Process) -> tuple[dict[str, int], bool]:
        """What is known of a trainer, and whether there is nobody left who would say more. `of`: whom it was asked."""
        if of is not self._process:
            return self._said[name], True
        assert of.stdout is not None
        while select.select([of.stdout], [], [], 0)[0]:
            answer = os.read(of.stdout.fileno(), 4096)
            *lines, self._unread = (self._unread + answer).split(b"\n")
            for line in lines:
                told = json.loads(line)
                self._has_forked = True
                self._said[told.pop("name")] |= told
            if not answer:
                self.give_up()
                return self._said[name], True
        return self._said[name], False

    @property
    def has_forked(self) -> bool:
        """Whether it has imported everything, and forks whatever it is asked for at once."""
        return self._has_forked

    def cancel(self, sig: int) -> None:
        """End it before it has forked anything. What it was asked for counts as ended by a signal."""
        for said in self._said.values():
            said.setdefault("exitcode", -sig)
        self.give_up()

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
        self._name, self._parent = _forkserver.ask(request, lock)
        self._instead: Process | None = None
        """What trains if the fork server ends before it has forked."""
        self._signal: int | None = None
        """To be sent as soon as it is forked."""

    def poll(self) -> int | None:
        if self.returncode is not None:
            return self.returncode
        if self._instead is not None:
            self.returncode = self._instead.poll()
            return self.returncode
        known, is_orphaned = _forkserver.said(self._name, self._parent)
        if self._signal is not None and "pid" in known:
            signal_, self._signal = self._signal, None
            with contextlib.suppress(ProcessLookupError):
                os.kill(known["pid"], signal_)
        if "exitcode" in known:
            self.returncode = known["exitcode"]
        elif is_orphaned and "pid" not in known and self._signal is not None:
            self.returncode = -self._signal  # which it was to get as soon as it would be there
        elif is_orphaned and "pid" not in known:
            self._instead = _plain(lock=self._lock, **self._request)
        elif is_orphaned and not _is_alive(known["pid"]):
            self.returncode = 1
        return self.returncode

    def send_signal(self, sig: int) -> None:
        if self.poll() is not None:
            return
        known, _ = _forkserver.said(self._name, self._parent)
        if self._instead is not None:
            self._instead.send_signal(sig)
            # While it imports, a signal can get lost; that nobody is at the other end of its stdin any more cannot.
            assert self._instead.stdin is not None
            self._instead.stdin.close()
        elif "pid" in known:
            with contextlib.suppress(ProcessLookupError):  # it has just ended
                os.kill(known["pid"], sig)
        elif _forkserver.has_forked:
            self._signal = sig
        else:
            _forkserver.cancel(sig)
            self.returncode = -sig


def _is_alive(pid: int | None) -> bool:
    """Whether a process of this number runs. One that nobody has asked for its end has ended all the same."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
