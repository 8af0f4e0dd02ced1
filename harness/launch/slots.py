"""Where runs are trained on this machine: slots, each of which trains one run at a time.

By default there is one for each GPU that can be seen, or for as many GPUs as a run has processes. On a machine without
any, the processor is the device.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from gpt2.base.errors import UserError
from gpt2.machine.device import select_device
from harness.configure.plan import Plan
from harness.launch.launchers import Slot


def slots(plan: Plan, environ: Mapping[str, str] = os.environ) -> list[Slot]:
    """The slots of this machine, by GPUS and RUNS_PER_DEVICE. Raises UserError where there is not what they ask for."""
    side_by_side = int(plan.base.symbols.get("RUNS_PER_DEVICE", 1))
    asked = str(plan.base.symbols.get("GPUS", "")).replace(" ", "")
    device = select_device(plan.runs[0].config.train.device)
    if device.type != "cuda":
        if asked:
            raise UserError(f'GPUS="{asked}": runs are trained on {device.type} here: leave it empty')
        return _of_processor(device.type, side_by_side, plan.runs[0].results_dir / ".turns", environ)
    processes = plan.runs[0].config.train.processes
    visible = environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if environ.get("CUDA_VISIBLE_DEVICES") else None
    names = visible or [str(i) for i in range(torch.cuda.device_count())]
    chosen = _chosen(asked, len(names))
    if len(chosen) < processes:
        raise UserError(f"PROCESSES_PER_RUN={processes}: each has a GPU, and there are {len(chosen)} here to use")
    if processes > 1 and side_by_side > 1:
        raise UserError(
            f"RUNS_PER_DEVICE={side_by_side}: with PROCESSES_PER_RUN={processes} a device has one run: take 1"
        )
    # GPUs that are left over, fewer than a run has processes, stay idle.
    groups = [chosen[k : k + processes] for k in range(0, len(chosen) - processes + 1, processes)]
    return [
        Slot(
            device=f"GPU {'+'.join(map(str, group))}",
            turn=turn,
            environment={"CUDA_VISIBLE_DEVICES": ",".join(names[i] for i in group)},
            devices=processes,
        )
        for turn in range(side_by_side)
        for group in groups
    ]


def count_devices(of: Sequence[Slot]) -> int:
    """How many devices slots are on."""
    return sum({slot.device: slot.devices for slot in of}.values())


def _chosen(asked: str, n: int) -> list[int]:
    """Indices of the GPUs that GPUS names, of `n`. Raises UserError."""
    if not asked:
        return list(range(n))
    parts = asked.split(",")
    if not all(part.isdecimal() and part.isascii() for part in parts) or len({*map(int, parts)}) != len(parts):
        raise UserError(f'GPUS="{asked}": name each GPU once by its number, such as "0,1"')
    if missing := [part for part in parts if int(part) >= n]:
        raise UserError(f'GPUS="{asked}": there is no GPU {missing[0]}: the {n} that can be seen are 0 to {n - 1}')
    return [int(part) for part in parts]


def _of_processor(name: str, side_by_side: int, turns: Path, environ: Mapping[str, str]) -> list[Slot]:
    """The cores are divided, so that a run's numbers, which depend on its threads a little, do not depend on others."""
    threads = {}
    if side_by_side > 1 and not environ.get("OMP_NUM_THREADS"):
        threads = {"OMP_NUM_THREADS": str(max(1, torch.get_num_threads() // side_by_side))}
    return [
        Slot(
            device=name,
            turn=turn,
            turns=turns,
            is_processor=name == "cpu",
            environment=threads,
        )
        for turn in range(side_by_side)
    ]
