"""Measuring: what is counted, in which order, in which unit. No test depends on how fast anything is."""

from __future__ import annotations

import gc
import itertools
import time
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gpt2.base.files import ROOT, read_json, write_json
from harness.measure.timing import (
    Stopwatch,
    Times,
    calls_lasting,
    capture,
    measured_on,
    replay_ms,
    round_robin,
    wall_ms,
)

CPU = torch.device("cpu")


def test_times_are_a_median_and_quartiles() -> None:
    times = Times.of([5.0, 1.0, 3.0, 2.0, 4.0])
    assert (times.n, times.q1, times.median, times.q3) == (5, 2.0, 3.0, 4.0)
    assert times.spread == pytest.approx(2 / 3)
    assert str(times) == "3.000 ±33.3%"


@given(st.lists(st.floats(0.01, 1e4), min_size=2, max_size=40))
def test_the_quartiles_enclose_the_median_and_lie_within_the_samples(samples: list[float]) -> None:
    times = Times.of(samples)
    ordered = [min(samples), times.q1, times.median, times.q3, max(samples)]
    # Interpolation rounds.
    assert all(a <= b * (1 + 1e-12) for a, b in itertools.pairwise(ordered))


def test_variants_take_turns_in_changing_order_and_no_garbage_is_collected_meanwhile() -> None:
    order: list[str] = []

    def measure(name: str) -> float:
        assert not gc.isenabled()
        order.append(name)
        return len(order)

    measures = {name: lambda name=name: measure(name) for name in "abc"}
    samples = round_robin(measures, 20)
    turns = ["".join(order[i : i + 3]) for i in range(0, 60, 3)]
    assert {"".join(sorted(turn)) for turn in turns} == {"abc"}
    assert {turn[0] for turn in turns} == set("abc"), "each comes first now and then"
    assert samples == {name: [i + 1 for i, of in enumerate(order) if of == name] for name in "abc"}
    assert gc.isenabled()
    again, order[:] = list(order), []
    round_robin(measures, 20)
    assert order == again


def test_garbage_is_collected_again_after_an_error() -> None:
    def fail() -> float:
        raise ValueError

    with pytest.raises(ValueError):
        round_robin({"a": fail}, 1)
    assert gc.isenabled()


def test_wall_time_is_ms_per_call() -> None:
    calls: list[None] = []

    def call() -> None:
        calls.append(None)
        time.sleep(0.002)

    assert wall_ms(call, 5, CPU) >= 2.0
    assert len(calls) == 5
    # Whatever the machine does, a call that sleeps 2 ms fits at most so often.
    assert 1 <= calls_lasting(20.0, call, CPU) <= 10
    assert calls_lasting(0.001, call, CPU) == 1


def test_a_stopwatch_splits_laps_into_phases() -> None:
    watch = Stopwatch(CPU)
    for _ in range(2):
        watch.start()
        time.sleep(0.002)
        watch.mark("first")
        time.sleep(0.001)
        watch.mark("second")
    laps = watch.laps()
    assert [list(lap) for lap in laps] == [["first", "second", "total"]] * 2
    for lap in laps:
        assert lap["first"] >= 2.0
        assert lap["second"] >= 1.0
        assert lap["total"] == pytest.approx(lap["first"] + lap["second"])
    assert watch.laps() == []


def test_the_head_of_a_record_says_where_it_was_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", [str(ROOT / "scripts" / "benchmark.py"), "--json", "x"])
    write_json(tmp_path / "record.json", measured_on(CPU))
    record = read_json(tmp_path / "record.json")
    assert record["command"] == ["scripts/benchmark.py", "--json", "x"]
    assert record["hardware"]["device"] == "cpu"
    assert record["versions"]["torch"] == str(torch.__version__)


@pytest.mark.gpu
def test_a_replay_does_the_work_and_its_device_time_is_that_of_the_kernels() -> None:
    x = torch.zeros((), device="cuda")
    graph = capture(lambda: x.add_(1))
    x.zero_()
    assert replay_ms(graph, 4) > 0
    assert x.item() == 4


@pytest.mark.gpu
def test_a_stopwatch_on_a_gpu_counts_the_device_not_the_host() -> None:
    device = torch.device("cuda")
    watch = Stopwatch(device)
    watch.start()
    torch.cuda._sleep(100_000_000)
    watch.mark("sleep")
    (lap,) = watch.laps()
    assert lap["sleep"] > 10
