"""Which checkpoint a run may go on from: its own, whole, and no further than the run goes."""

from __future__ import annotations

import itertools
from collections.abc import Collection
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gpt2.base.errors import UserError
from gpt2.run.load import fitting_weights
from gpt2.run.parts import Parts

_ENTRIES: dict[str, type | tuple[type, ...]] = {
    "step": int,
    "config_hash": str,
    "model": dict,
    "optimizer": dict,
    "scaler": dict,
    "train_loss": (float, type(None)),
    "train_time_s": float,
    "wall_time_s": float,
    "overflows": int,
    "laps": list,
    "events": list,
}
"""What every checkpoint of a run holds, in every version; the last may be without `_TO_GO_ON`."""

_TO_GO_ON = ("optimizer", "scaler")
"""What only a run with steps left needs."""


def restore(parts: Parts, state: dict[str, Any], path: Path, *, config_hash: str) -> None:
    """Give model, optimizer and gradient scaler the content of a checkpoint.

    Raises UserError, naming the file and what is wrong, where it is not this run's: `config_hash` is that of its
    provenance. Nothing has been changed then.
    """
    steps = parts.config.train.max_iters
    is_last = state.get("step") == steps and not any(name in state for name in _TO_GO_ON)
    _check_entries(state, path, without=_TO_GO_ON if is_last else ())
    if state["config_hash"] != config_hash:
        theirs, ours = state["config_hash"][:12], config_hash[:12]
        raise UserError(
            f"{path}: belongs to another run: its config_hash is {theirs}, and {ours} in provenance.json; put back "
            "this run's own checkpoint, or remove the run's directory to start over"
        )
    if not 0 <= state["step"] <= steps or path.name != f"step-{state['step']:08d}.pt":
        raise UserError(f"{path}: holds step {state['step']}, of a run of MAX_ITERS={steps} steps; remove it")
    if not is_last:
        _check_optimizer(parts.optimizer, state["optimizer"], path)
    parts.shared.load_model(fitting_weights(parts.model, state, origin=str(path)))
    if is_last:
        return
    if parts.average is not None:
        parts.average.load_state_dict(state.get("ema"), origin=str(path))
    parts.shared.load_optimizer(state["optimizer"])
    parts.scaler.load_state_dict(state["scaler"])


def _check_entries(state: dict[str, Any], path: Path, *, without: Collection[str]) -> None:
    for name, kind in _ENTRIES.items():
        if name in without:
            continue
        if name not in state:
            raise UserError(f"{path}: is no checkpoint of a run: it has no entry {name!r}")
        if not isinstance(state[name], kind):
            raise UserError(f"{path}: is no checkpoint of a run: its {name!r} is a {type(state[name]).__name__}")


def _check_optimizer(optimizer: torch.optim.Optimizer, state: dict[str, Any], path: Path) -> None:
    """torch looks at the number of parameters alone; moments of another shape would only be found while training."""
    groups = [(group.get("name"), group.get("params")) for group in state.get("param_groups", [])]
    numbers = itertools.count()
    ours = [(group["name"], [next(numbers) for _ in group["params"]]) for group in optimizer.param_groups]
    if groups != ours:
        raise UserError(f"{path}: its optimizer has other groups of parameters than this run's")
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    for index, moments in state.get("state", {}).items():
        for name, value in moments.items():
            if name == "step":
                continue
            if not isinstance(value, Tensor) or value.shape != parameters[index].shape:
                raise UserError(f"{path}: its optimizer's {name} of parameter {index} has not the parameter's shape")
