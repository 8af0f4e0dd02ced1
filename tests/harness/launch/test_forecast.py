"""The model of the runner: what has to hold whatever runs cost."""

from __future__ import annotations

import dataclasses
import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.launch.forecast import Cost, Split, data_parallel_factor, forecast, slowed, splits

SECONDS = st.floats(0, 100)
PARTS = ("prepare_s", "compile_s", "train_s", "other_s", "save_s")


@st.composite
def some_costs(draw: st.DrawFn) -> list[Cost]:
    """The runs of some arms, mixed: those of an arm cost the same."""
    arms = [Cost(shape=shape, **{part: draw(SECONDS) for part in PARTS}) for shape in "abc"]
    return draw(st.lists(st.sampled_from(arms), min_size=1, max_size=12))


def whole(cost: Cost) -> float:
    return cost.prepare_s + cost.busy_s + cost.save_s


few = st.integers(1, 6)


@settings(max_examples=40)
@given(some_costs(), few, few, SECONDS, st.booleans())
def test_more_runs_never_take_less(
    costs: list[Cost], slots: int, compilers: int, switch_s: float, pipeline: bool
) -> None:
    how = {"slots": slots, "compilers": compilers, "switch_s": switch_s, "pipeline": pipeline}
    walls = [forecast(costs[:n], **how).wall_s for n in range(len(costs) + 1)]  # type: ignore[arg-type]
    assert walls == sorted(walls) and walls[0] == 0


@settings(max_examples=40)
@given(some_costs(), few, SECONDS, st.booleans())
def test_more_devices_never_take_longer(costs: list[Cost], compilers: int, switch_s: float, pipeline: bool) -> None:
    walls = [
        forecast(costs, slots=slots, compilers=compilers, switch_s=switch_s, pipeline=pipeline).wall_s
        for slots in range(1, 8)
    ]
    assert all(more <= fewer + 1e-9 for fewer, more in itertools.pairwise(walls))


@settings(max_examples=40)
@given(some_costs(), few, few, st.sampled_from(PARTS), SECONDS)
def test_what_costs_more_never_takes_less(
    costs: list[Cost], slots: int, compilers: int, part: str, more: float
) -> None:
    dearer = [dataclasses.replace(cost, **{part: getattr(cost, part) + more}) for cost in costs]
    for pipeline in (True, False):
        how = {"slots": slots, "compilers": compilers, "pipeline": pipeline}
        assert forecast(dearer, **how).wall_s >= forecast(costs, **how).wall_s - 1e-9  # type: ignore[arg-type]


@settings(max_examples=40)
@given(some_costs())
def test_one_slot_without_a_pipeline_takes_the_sum(costs: list[Cost]) -> None:
    compiling = {cost.shape: cost.compile_s for cost in costs}
    expected = sum(map(whole, costs)) + sum(compiling.values())
    assert forecast(costs, slots=1, pipeline=False).wall_s == pytest.approx(expected)


@settings(max_examples=40)
@given(some_costs(), few, few, SECONDS)
def test_it_is_never_below_the_critical_path(costs: list[Cost], slots: int, compilers: int, switch_s: float) -> None:
    told = forecast(costs, slots=slots, compilers=compilers, switch_s=switch_s)
    longest = max(cost.compile_s + whole(cost) for cost in costs)
    work = sum(cost.busy_s for cost in costs) / slots
    compiling = sum({cost.shape: cost.compile_s for cost in costs}.values()) / compilers
    assert told.wall_s >= max(longest, work, compiling) - 1e-9
    assert 0 <= told.efficiency <= 1 + 1e-9


@settings(max_examples=40)
@given(some_costs())
def test_a_pipeline_costs_its_switches_at_most(costs: list[Cost]) -> None:
    queued = forecast(costs, slots=1, pipeline=False).wall_s
    piped = forecast(costs, slots=1, compilers=3, switch_s=2).wall_s
    assert piped <= queued + 2 * (len(costs) - 1) + 1e-9


def test_runs_that_prepare_and_save_behind_others_leave_training_and_switches() -> None:
    costs = [Cost(shape="a", prepare_s=8, compile_s=30, train_s=100, other_s=10, save_s=4)] * 5
    told = forecast(costs, slots=1, switch_s=0.5)
    assert told.wall_s == 30 + 8 + 5 * 110 + 4 * 0.5 + 4
    assert told.efficiency == pytest.approx(500 / told.wall_s)


def test_shapes_compile_side_by_side_as_far_as_cores_allow() -> None:
    costs = [Cost(shape=s, prepare_s=0, compile_s=30, train_s=1, other_s=0, save_s=0) for s in "abcd"]
    assert [forecast(costs, slots=4, compilers=n).wall_s for n in (1, 2, 4)] == [121, 61, 31]


def test_runs_that_prepare_longer_than_others_train_are_waited_for() -> None:
    costs = [Cost(shape="a", prepare_s=8, compile_s=0, train_s=2, other_s=0, save_s=0)] * 4
    assert forecast(costs, slots=1, switch_s=0).wall_s == 4 * 8 + 2


def test_devices_are_shared_out_whole() -> None:
    assert splits(4, [1, 2]) == [
        Split(runs_per_device=1, processes_per_run=1),
        Split(runs_per_device=2, processes_per_run=1),
        Split(runs_per_device=1, processes_per_run=2),
        Split(runs_per_device=1, processes_per_run=4),
    ]


@given(st.integers(2, 64), st.floats(1e-3, 10))
def test_devices_inside_a_run_gain_at_most_their_number(processes: int, step_s: float) -> None:
    factor = data_parallel_factor(processes, step_s=step_s, parameters=124_000_000, bytes_per_s=1e11)
    assert factor > 1 / processes
    assert data_parallel_factor(1, step_s=step_s, parameters=1, bytes_per_s=1.0) == 1


def test_what_is_slowed_is_what_the_device_does() -> None:
    cost = Cost(shape="a", prepare_s=1, compile_s=2, train_s=3, other_s=4, save_s=5)
    assert slowed(cost, 2) == Cost(shape="a", prepare_s=1, compile_s=2, train_s=6, other_s=8, save_s=5)
