"""From what was measured of GPT-2 124M on one H100 to larger models, many GPUs and many runs: on paper.

    answer = scaling(Calibration.read(Path("results/h100"), Path("results/cpu/planning.json")), ASSUMED)

Nothing is measured here. `Calibration` is what was, read from the files that hold it, and `ASSUMED` what was not.
docs/scaling.md says what follows.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from gpt2.base.files import read_json
from gpt2.config import GPTConfig
from gpt2.model import GPT
from harness.launch.forecast import SWITCH_S, Cost, data_parallel_factor, forecast

GIB = 2**30

SHAPES: Mapping[str, tuple[int, int, int]] = {
    "124M": (12, 12, 768),
    "medium": (24, 16, 1024),
    "large": (36, 20, 1280),
    "XL": (48, 25, 1600),
}
"""Layers, heads, width (Radford et al. 2019)."""

ASSUMED: Mapping[str, float] = {
    "tokens_per_step": 2**19,
    "usable_gib": 72.0,
    "optimizer_bytes_per_parameter": 8.0,
    "weight_and_gradient_bytes_per_parameter": 8.0,
    "recomputing": 4 / 3,
    "nvlink_bytes_per_s": 300e9,
    "network_bytes_per_s": 50e9,
    "gpu_watts": 700.0,
    "peak_flops": 989e12,
    "log_bytes_per_line": 400.0,
    "log_lines": 1000.0,
    "files_per_run": 10.0,
    "compile_s": 60.0,
    "startup_s": 8.5,
    "save_s": 3.7,
    "switch_s": SWITCH_S,
}
"""Name -> value of what is not in a file of results/; docs/scaling.md says where each is from."""


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """What was measured of the baseline, GPT-2 124M compiled on one H100, and of planning on two cores."""

    mfu: float
    """Of a step with 32 sequences."""

    gib_per_sequence: float
    """How much more memory a sequence of 1024 tokens takes: the difference between 64 and 32 of them."""

    other_gib: float
    """What is left of the peak with 32, without these and 16 bytes a parameter: kernels' workspace, a chunk of logits,
    weights cast to bfloat16."""

    planning: Mapping[int, Mapping[str, float]]
    """Runs -> seconds (`PlanningCosts`)."""

    @classmethod
    def read(cls, h100: Path, planning: Path) -> Calibration:
        """From the records of `scripts/benchmark_training.py` and `scripts/benchmark_planning.py`."""
        few, many = (_baseline(h100 / name) for name in ("training-compiled.json", "training-b64.json"))
        per_sequence = (many["peak_mem_gib"] - few["peak_mem_gib"]) / 32
        static = 16 * _model("124M")["parameters"] / GIB
        return cls(
            mfu=few["mfu"],
            gib_per_sequence=per_sequence,
            other_gib=few["peak_mem_gib"] - 32 * per_sequence - static,
            planning={row["runs"]: row for row in read_json(planning)["planning"]},
        )


def scaling(c: Calibration, a: Mapping[str, float]) -> dict[str, Any]:
    """Everything, as JSON: the models, memory by strategy, one run on several GPUs, whole ablations."""
    return {
        "assumed": dict(a),
        "measured": {"mfu": c.mfu, "gib_per_sequence": c.gib_per_sequence, "other_gib": c.other_gib},
        "models": [_model(name) | _speed(name, c, a) for name in SHAPES],
        "memory": list(_memory(c, a)),
        "one_run": list(_one_run(c, a)),
        "ablations": list(_ablations(c, a)),
    }


def _baseline(path: Path) -> dict[str, Any]:
    return next(row for row in read_json(path)["rows"] if row["arm"] == "baseline" and row["compiled"])


def _model(name: str) -> dict[str, Any]:
    n_layer, n_head, n_embd = SHAPES[name]
    with torch.device("meta"):
        model = GPT(GPTConfig(n_layer=n_layer, n_head=n_head, n_embd=n_embd), seed=1)
    return {"model": name, "parameters": model.num_params(), "flop_per_token": model.flops_per_token()}


def _speed(name: str, c: Calibration, a: Mapping[str, float]) -> dict[str, float]:
    """Of one GPU, at the measured model's MFU."""
    tokens_per_s = c.mfu * a["peak_flops"] / _model(name)["flop_per_token"]
    hours = 1e9 / tokens_per_s / 3600
    return {
        "tokens_per_s": tokens_per_s,
        "hours_per_billion_tokens": hours,
        "hours_per_billion_tokens_recomputing": a["recomputing"] * hours,
    }


def _memory(c: Calibration, a: Mapping[str, float]) -> Iterator[dict[str, Any]]:
    """GiB on each GPU by strategy and number of GPUs, and how many sequences go beside it."""
    small = SHAPES["124M"]
    for name, (n_layer, _, n_embd) in SHAPES.items():
        parameters = _model(name)["parameters"]
        of_block = 12 * n_embd**2
        for strategy, gpus in [("DDP", 1), ("ZeRO-1", 8), ("ZeRO-1", 64), ("FSDP2", 8), ("FSDP2", 64)]:
            weights, state = a["weight_and_gradient_bytes_per_parameter"], a["optimizer_bytes_per_parameter"]
            held = (
                parameters
                * {
                    "DDP": weights + state,
                    "ZeRO-1": weights + state / gpus,
                    "FSDP2": (weights + state) / gpus,
                }[strategy]
            )
            if strategy == "FSDP2":  # two blocks are whole at a time, the one in use and the next, and the embedding is
                held += weights * (2 * of_block + 50304 * n_embd)
            fixed = held / GIB + c.other_gib * n_embd / small[2]
            sequence = c.gib_per_sequence * n_layer * n_embd / (small[0] * small[2])
            # A block's input is kept for each, in bfloat16, and one block's own activations at a time.
            inputs = 2 * n_layer * n_embd * 1024 / GIB
            for checkpointing in (False, True):
                per_sequence = inputs + sequence / n_layer if checkpointing else sequence
                yield {
                    "model": name,
                    "strategy": strategy,
                    "gpus": gpus,
                    "activation_checkpointing": checkpointing,
                    "fixed_gib": fixed,
                    "gib_per_sequence": per_sequence,
                    "sequences": max(0, int((a["usable_gib"] - fixed) / per_sequence)),
                }


def _one_run(c: Calibration, a: Mapping[str, float]) -> Iterator[dict[str, Any]]:
    """How a run of each model gains from more GPUs: between all of the exchange hidden and none."""
    for name in SHAPES:
        model, alone = _model(name), _speed(name, c, a)["tokens_per_s"]
        step_s = a["tokens_per_step"] / alone
        for gpus in (1, 2, 4, 8, 64):
            link = a["nvlink_bytes_per_s"] if gpus <= 8 else a["network_bytes_per_s"]
            factor = data_parallel_factor(gpus, step_s=step_s, parameters=model["parameters"], bytes_per_s=link)
            hours = 1e9 / alone / 3600
            yield {
                "model": name,
                "gpus": gpus,
                "hours_per_billion_tokens_all_hidden": hours / gpus,
                "hours_per_billion_tokens_none_hidden": hours * factor,
                "efficiency_none_hidden": 1 / (gpus * factor),
            }


def _ablations(c: Calibration, a: Mapping[str, float]) -> Iterator[dict[str, Any]]:
    """1,000 runs, 4 arms of 250 seeds, on 64 GPUs, a run on each: of a billion tokens, and of 20 a parameter."""
    arms, seeds, gpus = 4, 250, 64
    for name, (n_layer, _, _) in SHAPES.items():
        model, speed = _model(name), _speed(name, c, a)["tokens_per_s"]
        relative = model["parameters"] / _model("124M")["parameters"]
        for tokens in (1e9, 20.0 * model["parameters"]):
            steps = tokens / a["tokens_per_step"]
            evaluated = (steps / 250 + 1) * 655_360  # the defaults
            costs = [
                Cost(
                    shape=str(arm),
                    prepare_s=a["startup_s"] * n_layer / 12,
                    compile_s=a["compile_s"] * n_layer / 12,
                    train_s=tokens / speed,
                    other_s=evaluated / speed / 3,  # a forward pass is a third of a step
                    save_s=a["save_s"] * relative,
                )
                for _ in range(seeds)
                for arm in range(arms)
            ]
            told = forecast(costs, slots=gpus, compilers=16, switch_s=a["switch_s"])
            runs = len(costs)
            gpu_hours = gpus * told.wall_s / 3600
            logs = a["log_lines"] * a["log_bytes_per_line"]
            yield {
                "model": name,
                "runs": runs,
                "gpus": gpus,
                "tokens_per_run": tokens,
                "hours_per_run": tokens / speed / 3600,
                "wall_h": told.wall_s / 3600,
                "gpu_hours": gpu_hours,
                "efficiency": told.efficiency,
                "flop": runs * tokens * model["flop_per_token"],
                "mwh": gpu_hours * a["gpu_watts"] / 1e6,
                "disk_all_tb": runs * (24 * model["parameters"] + logs) / 1e12,
                "disk_weights_tb": runs * (4 * model["parameters"] + logs) / 1e12,
                "disk_none_tb": runs * logs / 1e12,
                "writing_tb": gpus * 3 * 12 * model["parameters"] / 1e12,
                "files": runs * a["files_per_run"],
            }
