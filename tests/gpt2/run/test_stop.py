"""What asks a run to stop, and how often it may."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest

from gpt2.run.stop import Stop

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)


@pytest.fixture
def stop() -> Iterator[Stop]:
    before = {number: signal.getsignal(number) for number in SIGNALS}
    it = Stop()
    it.install()
    yield it
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_is_a_wish_once_there_is_something_to_save(stop: Stop, number: signal.Signals) -> None:
    with pytest.raises(KeyboardInterrupt):
        os.kill(os.getpid(), number)
    stop.defer()
    assert stop.requested is None
    os.kill(os.getpid(), number)
    assert stop.requested == number.name


@pytest.mark.parametrize("number", [signal.SIGUSR1, signal.SIGUSR2])
def test_a_batch_systems_signal_is_one_wish_however_often_it_comes(stop: Stop, number: signal.Signals) -> None:
    stop.defer()
    for _ in range(3):
        os.kill(os.getpid(), number)
    os.kill(os.getpid(), signal.SIGTERM)  # as Slurm does after it
    assert stop.requested == number.name


def test_a_second_ctrl_c_ends_it_at_once(stop: Stop) -> None:
    stop.defer()
    os.kill(os.getpid(), signal.SIGUSR1)
    os.kill(os.getpid(), signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        os.kill(os.getpid(), signal.SIGINT)
