"""Models from what runs left behind: a checkpoint file, or a run's directory.

    model = load_model(Path("results/gpt2-ra-v5-quickstart/ra-v5-eager/seed-1"))

A checkpoint holds the model's configuration beside its weights ("model_config", "model").
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from gpt2.checkpoint import load_newest, read_checkpoint
from gpt2.config import GPTConfig
from gpt2.errors import UserError
from gpt2.model import GPT


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
    model = GPT(_model_config(path, state), seed=0)
    load_weights(model, state, origin=str(path))
    return model.eval()


def load_weights(model: GPT, state: dict[str, Any], *, origin: str) -> None:
    """Take the model's weights from a checkpoint's content. UserError, beginning with `origin`, if they do not fit."""
    theirs = state.get("model")
    if not isinstance(theirs, dict):
        raise UserError(f'{origin}: has no entry "model"')
    ours = model.state_dict()
    for name in sorted({*ours, *theirs}):
        if name not in theirs or name not in ours:
            where = "the checkpoint lacks" if name not in theirs else "the model has no"
            raise UserError(f"{origin}: {where} {name}")
        if theirs[name].shape != ours[name].shape:
            shapes = f"{tuple(theirs[name].shape)} there and {tuple(ours[name].shape)} in the model"
            raise UserError(f"{origin}: {name} is {shapes}")
    model.load_state_dict(theirs)


def _model_config(path: Path, state: dict[str, Any]) -> GPTConfig:
    settings = state.get("model_config")
    if not isinstance(settings, dict):
        raise UserError(f'{path}: has no entry "model_config", and so is no checkpoint of a run')
    try:
        return GPTConfig(**settings | {"ra_v5_compile": False})
    except (TypeError, UserError) as error:  # an unknown field, or a value out of range
        raise UserError(f"{path}: model_config: {error}") from None
