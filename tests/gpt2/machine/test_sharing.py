"""Who may use a device when, with processes that say what they do."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from gpt2.base.files import ROOT
from gpt2.machine.sharing import SharedDevice, have_alone

CPU = torch.device("cpu")

OTHER = """
import sys, torch
from pathlib import Path
from gpt2.machine.sharing import SharedDevice
share = SharedDevice(Path(sys.argv[1]), torch.device("cpu"), slot=int(sys.argv[2]), alone=sys.argv[3] == "alone")
blocks = {}
for line in sys.stdin:
    match line.strip():
        case "begin":
            blocks["beside"] = share.beside()
            blocks["beside"].__enter__()
        case "end":
            blocks["beside"].__exit__(None, None, None)
        case "take":
            share.take_turn(lambda: print("waiting", flush=True))
        case "leave":
            share.leave()
    print(line.strip(), flush=True)
"""


class Other:
    """Another process with a share in the device, which does as it is told."""

    def __init__(self, turns: Path, slot: int = 0, alone: str = "") -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", OTHER, str(turns), str(slot), alone],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
        )

    def do(self, what: str, says: str | None = None) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{what}\n")
        self.process.stdin.flush()
        self.says(says or what)

    def says(self, what: str) -> None:
        assert self.process.stdout is not None
        assert self.process.stdout.readline().strip() == what

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()


@pytest.fixture
def other(tmp_path: Path) -> object:
    others: list[Other] = []

    def start(slot: int = 0, alone: str = "") -> Other:
        others.append(Other(tmp_path, slot, alone))
        return others[-1]

    yield start
    for one in others:
        one.kill()


Start = Callable[..., Other]


@pytest.mark.parametrize("ends", ["leave", "SIGKILL"])
def test_one_trains_at_a_time_and_the_next_has_the_device_when_it_ends(other: Start, ends: str) -> None:
    first, second = other(), other()
    first.do("take")
    second.do("take", says="waiting")
    first.kill() if ends == "SIGKILL" else first.do("leave")
    second.says("take")


def test_as_many_train_side_by_side_as_there_are_turns(other: Start) -> None:
    first, second, third = other(0), other(1), other(1)
    first.do("take")
    second.do("take")
    third.do("take", says="waiting")
    second.do("leave")
    third.says("take")


def test_one_that_is_to_be_alone_waits_for_all_and_all_for_it(other: Start) -> None:
    first, second, alone, beside = other(0), other(1), other(0, "alone"), other()
    first.do("take")
    second.do("take")
    beside.do("begin")
    alone.do("take", says="waiting")
    for one in (first, second):
        one.do("leave")
    time.sleep(0.1)
    beside.do("end")
    _until(alone, "take")
    assert beside.process.stdin is not None
    beside.process.stdin.write("begin\n")
    beside.process.stdin.flush()
    second.do("take", says="waiting")
    alone.do("leave")
    beside.says("begin")
    second.says("take")


def _until(one: Other, what: str) -> None:
    """It may have to wait for several."""
    assert one.process.stdout is not None
    for line in one.process.stdout:
        if line.strip() == what:
            return
        assert line.strip() == "waiting"


@pytest.mark.parametrize("how", ["came and went", "came", "went", "stayed", "was killed", "trained beside"])
def test_whether_another_process_has_used_the_device(tmp_path: Path, other: Start, how: str) -> None:
    share, one = SharedDevice(tmp_path, CPU, slot=0), other(1)
    if how in ("went", "stayed", "was killed"):
        one.do("begin")
    share.take_turn()
    assert share.was_shared() == (how in ("stayed", "went", "was killed"))
    if how in ("came", "came and went"):
        one.do("begin")
    if how in ("came and went", "went"):
        one.do("end")
    if how == "was killed":
        one.kill()
    if how == "trained beside":
        one.do("take")
    # One that was killed was there at the last look.
    assert share.was_shared() == (how != "was killed")
    assert share.was_shared() == (how in ("came", "stayed", "trained beside"))
    share.leave()


def test_what_waits_does_not_use_the_device(tmp_path: Path, other: Start) -> None:
    share, one = SharedDevice(tmp_path, CPU, slot=0), other(0)
    share.take_turn()
    one.do("begin")
    one.do("end")
    share.was_shared()
    one.do("take", says="waiting")
    assert not share.was_shared()
    share.leave()
    one.says("take")


def test_without_turns_nothing_is_waited_for(tmp_path: Path) -> None:
    share = SharedDevice(None, CPU, slot=0)
    with share.beside():
        assert share.has_turn
    share.take_turn(lambda: pytest.fail("waits"))
    assert not share.was_shared()
    share.leave()
    have_alone(CPU)
