"""Models from what runs left behind: a checkpoint file, or a run's directory.

    model = load_model(Path("results/gpt2-ra-v5-quickstart/ra-v5-eager/seed-1"))

A checkpoint holds the model's configuration beside its weights ("model_config", "model").
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gpt2.base.errors import UserError
from gpt2.config import GPTConfig
from gpt2.model import GPT
from gpt2.optimizer import gate_names
from gpt2.run.checkpoint import load_newest, read_checkpoint


def load_model(path: Path) -> GPT:
    """The model of a checkpoint file, or of the newest whole checkpoint of a run's directory, on the CPU in eval mode.

    It runs eager: whoever wants it compiled says so. UserError if there is no such model.
    """
    if path.is_dir():
        loaded = load_newest(path / "checkpoints")
        if loaded is None:
            raise UserError(f"{path}: holds no checkpoint; name a run's directory, <step>/seed-<seed>, or a checkpoint")
        path, state = loaded.path, loaded.state
    else:
        state = read_checkpoint(path)
    return model_of(state, origin=str(path))


def model_of(state: dict[str, Any], *, origin: str) -> GPT:
    """The model of a checkpoint's content, in eval mode. UserError, beginning with `origin`, if it holds none."""
    model = GPT(_model_config(state, origin), seed=0)
    load_weights(model, state, origin=origin)
    return model.eval()


def recorded_tokenizer(path: Path) -> str | None:
    """The tokenizer's name in the provenance of a run, given its directory or one of its checkpoints; None without, or
    where the tokens are of no tokenizer that is known."""
    provenance = (path if path.is_dir() else path.parent.parent) / "provenance.json"
    if not provenance.is_file():
        return None
    name: str | None = json.loads(provenance.read_text())["data"]["tokenizer"]
    return name


def load_weights(model: GPT, state: dict[str, Any], *, origin: str, new_gates: bool = False) -> None:
    """Take the model's weights from a checkpoint's content. UserError, beginning with `origin`, if they do not fit.

    With `new_gates`, gates that the checkpoint does not have keep their initial values, at which a variant is its
    baseline: all arms of an ablation can start from one standard GPT-2.
    """
    theirs = state.get("model")
    if not isinstance(theirs, dict):
        raise UserError(f'{origin}: has no entry "model"')
    ours = model.state_dict()
    if new_gates:
        theirs = {name: ours[name] for name in gate_names(model) & {*ours}} | theirs
    for name in sorted({*ours, *theirs}):
        if name not in theirs or name not in ours:
            where = "the checkpoint lacks" if name not in theirs else "the model has no"
            raise UserError(f"{origin}: {where} {name}")
        if not isinstance(theirs[name], Tensor):
            raise UserError(f"{origin}: {name} is a {type(theirs[name]).__name__}, not a tensor")
        if theirs[name].shape != ours[name].shape:
            shapes = f"{tuple(theirs[name].shape)} there and {tuple(ours[name].shape)} in the model"
            raise UserError(f"{origin}: {name} is {shapes}")
    if not torch.equal(theirs["lm_head.weight"], theirs["transformer.wte.weight"]):
        raise UserError(f"{origin}: lm_head.weight is not the token embedding, to which the model's output is tied")
    model.load_state_dict(theirs)


def load_initial_weights(model: GPT, init_from: str) -> None:
    """Take the weights that CONFIG_INIT_FROM names. UserError, beginning with it, if there are none that fit."""
    origin = f'CONFIG_INIT_FROM="{init_from}"'
    try:
        state = read_checkpoint(Path(init_from))
    except UserError as error:
        raise UserError(f"{origin}: {error} (`make convert` makes checkpoints of other people's GPT-2s)") from None
    load_weights(model, state, origin=origin, new_gates=True)


def _model_config(state: dict[str, Any], origin: str) -> GPTConfig:
    settings = state.get("model_config")
    if not isinstance(settings, dict):
        raise UserError(f'{origin}: has no entry "model_config", and so is no checkpoint of a run')
    try:
        return GPTConfig(**settings | {"ra_v5_compile": False})
    except (TypeError, UserError) as error:  # an unknown field, or a value out of range
        raise UserError(f"{origin}: model_config: {error}") from None
