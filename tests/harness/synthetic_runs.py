"""Directories of runs that were never trained, in the format of docs/results.md: what the analysis is tested on."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from gpt2.config import identity_hash

N_LAYER, N_HEAD = 4, 4
TOKENS_PER_STEP = 32768


def write_config(directory: Path, symbols: dict[str, str | int]) -> None:
    """A configuration that sets `symbols`, as `config` in a directory."""
    directory.mkdir(parents=True, exist_ok=True)
    lines = []
    for name, value in symbols.items():
        lines.append(f'CONFIG_{name}="{value}"\n' if isinstance(value, str) else f"CONFIG_{name}={value}\n")
    (directory / "config").write_text("".join(lines))


def provenance_of(
    identity: dict[str, Any],
    *,
    device_name: str = "NVIDIA H100 80GB HBM3",
    data_hash: str = "d" * 64,
    torch_version: str = "2.13.0",
    commit: str = "c" * 40,
    started: str = "2026-01-02T03:04:05+00:00",
) -> dict[str, Any]:
    """What provenance.json says of a run with an identity."""
    hardware = {"device": "cuda", "device_name": device_name, "cpu": "x", "cores": 16, "memory_gib": 128, "driver": "1"}
    return {
        "command": ["gpt2/train_ra_mla.py", "--config", "config"],
        "started": started,
        "code": {"commit": commit, "dirty": False, "diff": ""},
        "versions": {"python": "3.12.1", "torch": torch_version, "numpy": "2.0", "cuda": "12.8", "triton": "3.4"},
        "hardware": hardware,
        "data": {"dataset": "stdlib", "tokenizer": "byte", "hash": data_hash, "train_tokens": 9_000_000,
                 "val_tokens": 1_000_000, "val_bytes_per_token": 1.0},
        "identity": identity,
        "config_hash": identity_hash(identity),
    }  # fmt: skip


def write_run(
    experiment: Path,
    step: str,
    seed: int,
    *,
    val_loss: float = 3.5,
    title: str = "",
    reference: str = "baseline",
    status: str | None = "done",
    ms_per_step: float = 100.0,
    peak_mem_gib: float = 10.0,
    gates: Sequence[str] = (),
    gate_starts: Mapping[str, float] | None = None,
    iters: int = 500,
    compiled: str = "none",
    asked: str | None = None,
    mode: str = "default",
    device_name: str = "NVIDIA H100 80GB HBM3",
    data_hash: str = "d" * 64,
    torch_version: str = "2.13.0",
    commit: str = "c" * 40,
    started: str = "2026-01-02T03:04:05+00:00",
    error: str | None = None,
    events: Sequence[str] = (),
    identity: dict[str, Any] | None = None,
) -> Path:
    """Write one run that ends at `val_loss`; `status=None` leaves it without a summary. Returns its directory."""
    directory = experiment / step / f"seed-{seed}"
    write_config(
        directory,
        {"MODEL_NAME": experiment.name, "STEP_TITLE": title, "STEP_REFERENCE": reference, "SEED": seed},
    )
    identity = {
        **{"N_LAYER": 12, "N_HEAD": 12, "N_EMBD": 768, "BLOCK_SIZE": 1024},
        "LEARNING_RATE": 6e-4,
        "ATTENTION": "baseline",
        **(identity or {}),
        "SEED": seed,
        "DATA_HASH": data_hash,
    }
    provenance = provenance_of(
        identity,
        device_name=device_name,
        data_hash=data_hash,
        torch_version=torch_version,
        commit=commit,
        started=started,
    )
    _write_json(directory / "provenance.json", provenance)
    lines = list(_metrics(val_loss, iters, seed, ms_per_step, gates, gate_starts or {}))
    (directory / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (directory / "summary.json").unlink(missing_ok=True)
    if status is not None:
        tokens_per_s = TOKENS_PER_STEP / ms_per_step * 1000
        summary = {
            "status": status,
            "error": error,
            "iters": iters,
            "tokens": iters * TOKENS_PER_STEP,
            "val_loss": val_loss,
            "val_bpb": None if val_loss is None else val_loss / math.log(2),
            "train_loss": 3.4,
            "ms_per_step": ms_per_step,
            "ms_per_step_iqr": 0.5,
            "tokens_per_s": tokens_per_s,
            "mfu": 0.41,
            "peak_mem_gib": peak_mem_gib,
            "train_time_s": iters * ms_per_step / 1000,
            "eval_time_s": 8.0,
            "checkpoint_time_s": 2.0,
            "wall_time_s": iters * ms_per_step / 1000 + 30,
            "startup_s": 20.0,
            "params": 124_475_904,
            "config_hash": provenance["config_hash"],
            "compile": {"asked": asked or compiled, "ran": compiled, "mode": None if compiled == "none" else mode},
            "overflows": 0,
            "gates": lines[-1]["gates"] if gates else None,
            "events": list(events),
        }
        _write_json(directory / "summary.json", summary)
    return directory


def _metrics(
    final: float, iters: int, seed: int, ms_per_step: float, gates: Sequence[str], starts: Mapping[str, float]
) -> Any:
    """A loss that falls from ln(50257) to `final`, with an evaluation, a gates and five train lines every 10 %."""
    noise = np.random.default_rng(seed)
    interval = max(1, iters // 20)
    targets = {name: noise.normal(0.15 if name == "w_rec" else 0.05, 0.12, (N_LAYER, N_HEAD)) for name in gates}
    for step in range(0, iters + 1, interval):
        share = step / iters
        wobble = float(0.002 * noise.normal()) if step < iters else 0.0
        loss = final + (math.log(50257) - final) * math.exp(-12 * share) + 0.5 * (1 - share) * math.exp(-2 * share)
        at = {"step": step, "tokens": step * TOKENS_PER_STEP, "time_s": step * ms_per_step / 1000}
        yield {"kind": "eval", **at, "val_loss": loss + wobble, "val_bpb": (loss + wobble) / math.log(2)}
        if step:
            rate = {"ms_per_step": ms_per_step, "tokens_per_s": TOKENS_PER_STEP / ms_per_step * 1000, "mfu": 0.41}
            yield {"kind": "train", **at, "loss": loss + 0.01, "lr": 6e-4, "grad_norm": 0.5, **rate}
        if gates:
            start = {"w_rec": 0.0, "w_std": 1.0, **starts}
            values = {name: (start[name] + share * targets[name]).tolist() for name in gates}
            yield {"kind": "gates", "step": step, "gates": values}


def _write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n")


LOSSES = {
    "baseline": ("GPT-2, eager", [3.4211, 3.4302, 3.4185]),
    "ra-v5-eager": ("RA v5, eager", [3.4102, 3.4211, 3.4083]),
    "ra-v5-compiled": ("RA v5, compiled", [3.4115, 3.4338, 3.4091]),
    "ra-mla": ("RA + MLA", [3.4402, 3.4489, 3.4391]),
}
"""Of `write_ablation`: title and final loss with seeds 1, 2, 3."""


def write_lengths(
    experiment: Path,
    losses: Sequence[float],
    *,
    step: str = "baseline",
    slope: float = 0.67,
    tilts: Sequence[float] = (),
    iters: int = 500,
    shares: Sequence[float] = (0.8, 1.25),
) -> None:
    """An arm at other lengths, with seeds 1, 2, ..: its loss falls from `losses` by `slope`, in nats per e-fold of
    steps, and by that much more with a seed as `tilts` says."""
    tilts = tilts or [0.0] * len(losses)
    for share in shares:
        for seed, (loss, tilt) in enumerate(zip(losses, tilts, strict=True), start=1):
            length, at = round(share * iters), loss - (slope + tilt) * math.log(round(share * iters) / iters)
            write_run(experiment, f"{step}@MAX_ITERS={length}", seed, val_loss=at, iters=length)


def write_reruns(experiment: Path, losses: Sequence[Sequence[float]], *, step: str = "baseline") -> None:
    """An arm's runs again, with seeds 1, 2, ..; one list of losses for each repetition."""
    for again, row in enumerate(losses, start=1):
        for seed, loss in enumerate(row, start=1):
            write_run(experiment, f"{step}@RERUN={again}", seed, val_loss=loss)


def write_ablation(experiment: Path) -> None:
    """The four steps of the RA v5 plan over three seeds, all done, with the third step compiled."""
    write_config(experiment, {"MODEL_NAME": experiment.name, "ABLATION_SEEDS": "1,2,3"})
    for place, (step, (title, losses)) in enumerate(LOSSES.items()):
        for seed, loss in enumerate(losses, start=1):
            write_run(
                experiment,
                step,
                seed,
                val_loss=loss,
                title=title,
                gates=("w_std", "w_rec") if step.startswith("ra") else (),
                compiled="model" if step == "ra-v5-compiled" else "none",
                ms_per_step=(100, 101, 78, 96)[place] + 0.3 * seed,
                peak_mem_gib=(10.2, 10.3, 8.1, 9.9)[place],
                identity={"ATTENTION": ("baseline", "ra_v5", "ra_v5", "ra_mla")[place]},
            )
