"""What the runs of a plan take together: time, devices, FLOP, energy, disk; and how devices are best shared out."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace

from rich.table import Table

from gpt2.base import terminal
from harness.configure.plan import Plan
from harness.launch.forecast import (
    SWITCH_S,
    Cost,
    Forecast,
    Split,
    data_parallel_factor,
    forecast,
    one_after_another,
    slowed,
    splits,
)
from harness.launch.pipeline import CORES_PER_COMPILATION
from harness.launch.prediction import write_prediction
from harness.launch.slots import count_devices, slots

LINK_BYTES_PER_S = 300e9
"""Between the GPUs of a host. Assumed: two thirds of what NVLink 4 has each way by its data sheet."""


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """What the runs of an arm take."""

    step: str
    """The arm's, as in `PlannedRun.step`."""

    runs: int
    """So many, of those that are not done."""

    ms_per_step: float
    eval_s: float
    """One evaluation."""

    checkpoint_s: float
    """What a checkpoint keeps the run from training: its copy, which is written behind."""

    launch_s: float = 0.0
    """What passed before the trial's process was there: imports, for the first of all trials."""

    startup_s: float
    compile_s: float
    """What the first start took longer than the second: little, where it had been compiled before."""

    peak_mem_gib: float
    run_s: float
    """One run, from its launch to its end."""

    flop: float
    """Of one run's training steps: `GPT.flops_per_token` for each token."""

    params: int
    checkpoint_bytes: int
    """Of one."""

    disk_bytes: int
    """What one run leaves."""

    more_bytes: int
    """What its checkpoints take more while it trains."""

    power_w: float | None
    """The highest draw of the device that NVML told during the trial; None where it tells none."""

    cost: Cost
    """One run, for the forecast."""


def print_outlook(plan: Plan, estimates: Sequence[Estimate], *, complete: bool) -> None:
    """Print what a run of each arm takes, and all of them on the devices there are.

    `complete`: the estimates are of all arms, so that a prediction is kept for each stage of the plan, which `make`
    trains one after another, to be held against.
    """
    here, processes = slots(plan), plan.runs[0].config.train.processes
    terminal.console().print(_table(estimates, processes))
    of = {e.step: e for e in estimates}
    stages = [left for stage in plan.stages if (left := _Stage(stage, of)).runs]
    if not stages:  # somebody else has trained them meanwhile
        return
    devices = count_devices(here)
    compilers = max(1, (os.cpu_count() or 1) // CORES_PER_COMPILATION)
    side_by_side = 1 if processes > 1 else len(here) // devices
    asked = Split(runs_per_device=side_by_side, processes_per_run=processes)
    pipelined = not here[0].is_processor

    def told(split: Split) -> list[Forecast]:
        """Of each stage, by a split; where runs have several devices, by the bound of `data_parallel_factor`."""
        factor = {
            e.step: data_parallel_factor(
                split.processes_per_run,
                step_s=processes * e.ms_per_step / 1000,
                parameters=e.params,
                bytes_per_s=LINK_BYTES_PER_S,
            )
            for e in estimates
        }
        n = max(1, devices * split.runs_per_device // split.processes_per_run)
        # The trials were shared out as is asked: theirs is what was measured.
        costs = {e.step: slowed(e.cost, 1.0 if split == asked else factor[e.step]) for e in estimates}
        return [
            forecast([costs[run.step] for run in stage.runs], slots=n, compilers=compilers, pipeline=pipelined)
            for stage in stages
        ]

    each = told(asked)
    each[0] = replace(each[0], wall_s=each[0].wall_s + max(e.launch_s for e in estimates))
    now = one_after_another(each)
    assumed = _assumptions(asked, devices, compilers, estimates, on_processor=not pipelined)
    print(f"{_words(asked, devices)}: {duration(now.wall_s)}, efficiency {now.efficiency:.2f}")
    if devices > 1:
        walls = ((one_after_another(told(split)).wall_s, split) for split in splits(devices, [1]))
        best, split = min(walls, key=lambda pair: pair[0])
        print(f"the best of what can be foretold: {_words(split, devices)}: {duration(best)}")
    kwh = _kwh(estimates, processes)
    more = now.slots * max(e.more_bytes for e in estimates)
    print(
        f"{_flop(estimates):.3g} FLOP, "
        f"{sum(_device_hours(e, processes) * e.runs for e in estimates):.3g} device hours, "
        f"{'energy not measured: NVML tells none' if kwh is None else f'{kwh:.3g} kWh'}, "
        f"{_size(_left(estimates))} on the disk, and up to {_size(more)} more while it trains"
    )
    print("assumed: " + "; ".join(assumed))
    for stage, foretold in zip(stages, each, strict=True) if complete else ():
        write_prediction(
            stage.directory,
            runs=[run.name for run in stage.runs],
            devices=devices,
            slots=foretold.slots,
            wall_s=foretold.wall_s,
            train_s=foretold.train_s,
            efficiency=foretold.efficiency,
            flop=_flop(stage.estimates),
            energy_kwh=_kwh(stage.estimates, processes),
            disk_bytes=_left(stage.estimates),
            arms=[asdict(e) for e in stage.estimates],
            assumed=assumed,
        )


class _Stage:
    """What is left to train of a stage of a plan, as far as it was estimated."""

    def __init__(self, plan: Plan, of: Mapping[str, Estimate]) -> None:
        self.directory = plan.directory
        self.runs = [run for run in plan.runs if run.step in of and not run.is_done]
        counted = Counter(run.step for run in self.runs)
        self.estimates = [replace(of[step], runs=n) for step, n in counted.items()]


def _flop(estimates: Sequence[Estimate]) -> float:
    """Of all runs."""
    return sum(e.runs * e.flop for e in estimates)


def _left(estimates: Sequence[Estimate]) -> int:
    """Bytes that all runs leave."""
    return sum(e.runs * e.disk_bytes for e in estimates)


def _device_hours(e: Estimate, processes: int) -> float:
    """Of one run: what it keeps from others, while they prepare beside it."""
    return processes * (e.cost.busy_s + SWITCH_S) / 3600


def _kwh(estimates: Sequence[Estimate], processes: int) -> float | None:
    """Of all runs, while they have their devices, at the highest draw that was seen; None where an arm has none."""
    kwh = [e.runs * _device_hours(e, processes) * e.power_w / 1000 for e in estimates if e.power_w is not None]
    return sum(kwh) if len(kwh) == len(estimates) else None


def _assumptions(
    split: Split, devices: int, compilers: int, estimates: Sequence[Estimate], *, on_processor: bool
) -> list[str]:
    """What the outlook takes for granted, in words."""
    assumed = [
        "while a run trains the next one prepares, and there is memory for it",
        "the last checkpoint is written behind the next run",
        f"{SWITCH_S} s between two runs",
        f"up to {compilers} shapes compile at once",
    ]
    if on_processor:
        assumed = ["on a processor runs go one after another"]
    if split.runs_per_device > 1:
        assumed.append("runs side by side on a device do not slow each other down, which is the least they take")
    if devices > 1:
        assumed.append(f"{LINK_BYTES_PER_S / 1e9:.0f} GB/s between devices, of which nothing is hidden behind a step")
    if all(e.power_w is not None for e in estimates):
        assumed.append("devices always draw the most that NVML told during a trial")
    return assumed


def _words(split: Split, devices: int) -> str:
    """A split of devices, such as "4 devices, a run on each"."""
    of = f"{devices} device{'s' * (devices > 1)}"
    if split.processes_per_run > 1:
        return f"{of}, {split.processes_per_run} to a run"
    return f"{of}, {split.runs_per_device} runs on each" if split.runs_per_device > 1 else f"{of}, a run on each"


def _table(estimates: Sequence[Estimate], processes: int) -> Table:
    """Of one run of each arm."""
    table = Table(box=None, pad_edge=False)
    table.add_column("a run of", overflow="fold")
    for column in ("FLOP", "device h", "kWh", "checkpoint", "leaves", "compile"):
        table.add_column(column, justify="right", no_wrap=True)
    for e in estimates:
        hours = _device_hours(e, processes)
        table.add_row(
            e.step,
            f"{e.flop:.2e}",
            f"{hours:.3g}",
            "" if e.power_w is None else f"{hours * e.power_w / 1000:.3g}",
            _size(e.checkpoint_bytes),
            _size(e.disk_bytes),
            f"{e.compile_s:.1f} s",
        )
    return table


def _size(size: float) -> str:
    """Such as "1.39 GiB" or "0.5 MiB"."""
    return f"{size / 2**30:,.2f} GiB" if size >= 2**30 else f"{size / 2**20:,.1f} MiB"


def duration(seconds: float) -> str:
    """Such as "45 s", "12 min" or "3 h 05 min"."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02} min"
