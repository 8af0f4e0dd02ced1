"""Who may use a device when, with processes that say what they do."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from multiprocessing.connection import Connection
from pathlib import Path

import pytest
import torch

from gpt2.machine.sharing import SharedDevice, have_alone

CPU = torch.device("cpu")
FORK = multiprocessing.get_context("fork")


def does_as_told(wire: Connection, turns: Path, slot: int, alone: bool) -> None:
    """Another process with a share in the device."""
    share = SharedDevice(turns, CPU, slot=slot, alone=alone)
    beside = ExitStack()
    while True:
        what = wire.recv()
        if what == "begin":
            beside.enter_context(share.beside())
        elif what == "end":
            beside.close()
        elif what == "take":
            share.take_turn(lambda: wire.send("waiting"))
        elif what == "leave":
            share.leave()
        wire.send(what)


class Other:
    """Another process, which does as it is told."""

    def __init__(self, turns: Path, slot: int = 0, alone: bool = False) -> None:
        self._wire, theirs = FORK.Pipe()
        self._process = FORK.Process(target=does_as_told, args=(theirs, turns, slot, alone), daemon=True)
        self._process.start()

    def do(self, what: str, says: str | None = None) -> None:
        self.tell(what)
        self.says(says or what)

    def tell(self, what: str) -> None:
        self._wire.send(what)

    def says(self, what: str) -> None:
        assert self._wire.poll(30), f"says nothing, and should say {what}"
        assert self._wire.recv() == what

    def comes_to(self, what: str) -> None:
        """It may have to wait for several, one after another."""
        while self._wire.poll(30) and (said := self._wire.recv()) != what:
            assert said == "waiting"

    def kill(self) -> None:
        self._process.kill()
        self._process.join()


@pytest.fixture
def other(tmp_path: Path) -> Iterator[Callable[..., Other]]:
    others: list[Other] = []

    def start(slot: int = 0, alone: bool = False) -> Other:
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
    first, second, alone, beside = other(0), other(1), other(0, True), other()
    first.do("take")
    second.do("take")
    beside.do("begin")
    alone.do("take", says="waiting")
    for one in (first, second):
        one.do("leave")
    time.sleep(0.1)
    beside.do("end")
    alone.comes_to("take")
    beside.tell("begin")
    second.do("take", says="waiting")
    alone.do("leave")
    beside.says("begin")
    second.says("take")


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
