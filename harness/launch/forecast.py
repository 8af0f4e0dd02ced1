"""How long an ablation will take: a little model of the runner as a pipeline, in pure functions.

    forecast([Cost(shape="baseline", prepare_s=8, compile_s=40, train_s=600, other_s=20, save_s=4)] * 12, slots=2)

A slot is what one run trains on: a device, a part of one, or several. What is assumed:

- Runs start in the order of the plan, each on the slot that is free first.
- While a run trains, the next one prepares: as many wait, ready to train, as there are slots. What waits has room.
- A shape compiles once. At the beginning all shapes do, side by side as far as `compilers` allow; a run prepares when
  its shape is compiled.
- Between two runs a slot stands still for `switch_s`.
- The last checkpoint is written behind the next run.
- Slots do not slow each other down. Where they share a device, the costs of a run say so (`slowed`).

Nothing here gets worse with more slots, fewer runs, or cheaper ones: runs that start in order have no scheduling
anomalies (Graham, Bounds on Multiprocessing Timing Anomalies, 1969, needs a list that is overtaken).
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass, replace

SWITCH_S = 0.2
"""Seconds that a device stands still between two runs, of which the next is ready. Measured on an H100: docs/log.md."""


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What a run takes, in seconds."""

    shape: str
    """Runs of a shape share what is compiled."""

    prepare_s: float
    """From its launch to its first step, where all is compiled."""

    compile_s: float
    """What the first of its shape takes longer than that."""

    train_s: float
    """Its training steps."""

    other_s: float
    """What else it does on its device: evaluations, and the checkpoints that are not the last."""

    save_s: float
    """Its last checkpoint."""

    @property
    def busy_s(self) -> float:
        """How long it has its slot to itself."""
        return self.train_s + self.other_s


@dataclass(frozen=True, kw_only=True)
class Forecast:
    """Of an ablation."""

    slots: int
    train_s: float
    """The sum of all runs' training steps."""

    wall_s: float
    """From the beginning until the last checkpoint is on the disk."""

    @property
    def efficiency(self) -> float:
        """Sum of training-step time / (slots x wall time)."""
        return self.train_s / (self.slots * self.wall_s) if self.wall_s else 0.0


def forecast(
    costs: Sequence[Cost], *, slots: int, compilers: int = 1, switch_s: float = SWITCH_S, pipeline: bool = True
) -> Forecast:
    """What runs with these costs take together, in this order.

    Without `pipeline` a run is launched when its slot is free and nothing overlaps: on one slot, that is their sum.
    """
    ends = _pipelined(costs, slots, compilers, switch_s) if pipeline else _queued(costs, slots)
    return Forecast(slots=slots, train_s=sum(cost.train_s for cost in costs), wall_s=max(ends, default=0.0))


def one_after_another(each: Sequence[Forecast]) -> Forecast:
    """What ablations take together that do not overlap, on the same slots. At least one."""
    return Forecast(slots=each[0].slots, train_s=sum(f.train_s for f in each), wall_s=sum(f.wall_s for f in each))


def _queued(costs: Sequence[Cost], slots: int) -> list[float]:
    """When each run has ended, if each of a slot's runs waits for the one before it."""
    free = [0.0] * slots
    compiled: set[str] = set()
    ends = []
    for cost in costs:
        took = cost.prepare_s + cost.busy_s + cost.save_s
        if cost.shape not in compiled:
            took += cost.compile_s
        compiled.add(cost.shape)
        ends.append(heapq.heappop(free) + took)
        heapq.heappush(free, ends[-1])
    return ends


def _pipelined(costs: Sequence[Cost], slots: int, compilers: int, switch_s: float) -> list[float]:
    """When each run's last checkpoint is on the disk."""
    compiled = _compiled(costs, compilers)
    free = [0.0] * slots
    starts: list[float] = []
    ends = []
    for k, cost in enumerate(costs):
        # A place to prepare in is free when the run before last, on one slot, has begun to train.
        place = starts[k - slots] if k >= slots else 0.0
        ready = max(place, compiled[cost.shape]) + cost.prepare_s
        device = heapq.heappop(free) + (switch_s if k >= slots else 0.0)
        starts.append(max(ready, device, starts[-1] if starts else 0.0))
        heapq.heappush(free, starts[-1] + cost.busy_s)
        ends.append(starts[-1] + cost.busy_s + cost.save_s)
    return ends


def _compiled(costs: Sequence[Cost], compilers: int) -> dict[str, float]:
    """When each shape is compiled, the first come first."""
    free = [0.0] * compilers
    done: dict[str, float] = {}
    for cost in costs:
        if cost.shape not in done:
            done[cost.shape] = heapq.heappop(free) + cost.compile_s
            heapq.heappush(free, done[cost.shape])
    return done


@dataclass(frozen=True, kw_only=True)
class Split:
    """How devices are shared out."""

    runs_per_device: int
    """Side by side on a device; 1 where a run has several."""

    processes_per_run: int
    """Devices of a run."""


def splits(devices: int, side_by_side: Sequence[int]) -> list[Split]:
    """The ways to share out devices: several runs on each, or several of them, as many as go into all, to a run."""
    inside = [n for n in range(2, devices + 1) if devices % n == 0]
    return [Split(runs_per_device=n, processes_per_run=1) for n in side_by_side] + [
        Split(runs_per_device=1, processes_per_run=n) for n in inside
    ]


def slowed(cost: Cost, factor: float) -> Cost:
    """A run whose work on its device takes `factor` times as long."""
    return replace(cost, train_s=factor * cost.train_s, other_s=factor * cost.other_s)


def data_parallel_factor(processes: int, *, step_s: float, parameters: int, bytes_per_s: float) -> float:
    """What a step on so many devices takes, as a share of `step_s` on one, if nothing hides their exchange.

    Each device has an equal part of the batch; a ring moves 2 (n - 1) / n of the float32 gradients through each
    device's link, at `bytes_per_s`. DDP hides most of that behind the backward pass: it is a bound.
    """
    exchange_s = 2 * (processes - 1) / processes * 4 * parameters / bytes_per_s
    return 1 / processes + exchange_s / step_s
