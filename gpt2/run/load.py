"""Models from what runs left behind: a checkpoint file, or a run's directory.

    model = load_model(Path("results/gpt2-ra-v5-quickstart/ra-v5-eager/seed-1"))

A checkpoint holds the model's configuration beside its weights ("model_config", "model").
"""

from __future__ import annotations

import math
from collections.abc import Callable, Container, Mapping
from pathlib import Path
from typing import Any, get_type_hints

import torch
from torch import Tensor

from gpt2.base.errors import UserError, one_line
from gpt2.base.settings import FLOAT32_MAX
from gpt2.base.text import quoted, shown
from gpt2.config import GPTConfig
from gpt2.folds import RA_V5_AT_REST
from gpt2.model import GPT
from gpt2.optimizer import gate_names
from gpt2.run.checkpoint import load_newest, read_checkpoint
from gpt2.run.records import read_tokenizer


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
    """The model of a checkpoint's content, in eval mode. UserError, beginning with `origin`, if it holds none.

    A file from elsewhere may claim any size. Nothing of that size is made before its tensors are seen to have it.
    """
    config = _model_config(state, origin)
    weights = weights_of(state, origin=origin)
    _require_sizes(config, weights, origin)
    try:
        with torch.device("meta"):  # names and shapes, and no numbers
            shapes = GPT(config, seed=0).state_dict()
    except UserError as error:
        raise UserError(f"{origin}: model_config: {error}") from None
    _require_fit(shapes, weights, origin)
    model = GPT(config, seed=0)
    model.load_state_dict(weights)
    return model.eval()


def recorded_tokenizer(path: Path) -> str | None:
    """The tokenizer's name in the provenance of a run, given its directory or one of its checkpoints; None without, or
    where the tokens are of no tokenizer that is known. Raises UserError."""
    provenance = (path if path.is_dir() else path.parent.parent) / "provenance.json"
    if not provenance.is_file():
        return None
    return read_tokenizer(provenance)


def load_weights(model: GPT, state: dict[str, Any], *, origin: str, new_gates: bool = False) -> None:
    """Take the model's weights from a checkpoint's content. UserError, beginning with `origin`, if they do not fit."""
    model.load_state_dict(fitting_weights(model, state, origin=origin, new_gates=new_gates))


def fitting_weights(model: GPT, state: dict[str, Any], *, origin: str, new_gates: bool = False) -> dict[str, Any]:
    """A checkpoint's weights, by the model's names. UserError, beginning with `origin`, if they do not fit.

    With `new_gates`, gates that the checkpoint does not have keep their initial values: all arms of an ablation can
    start from one standard GPT-2. RA v5 starts as that GPT-2 unless RA_V5_GATE_INIT says otherwise; QK norm never does.
    """
    theirs = weights_of(state, origin=origin)
    ours = model.state_dict()
    if new_gates:
        theirs = {name: ours[name] for name in gate_names(model) & {*ours}} | theirs
    _require_fit(ours, theirs, origin)
    return theirs


def weights_of(state: dict[str, Any], *, origin: str) -> dict[str, Any]:
    """A checkpoint's entry "model", by the names that parameters have here (`unwrapped`). Raises UserError."""
    weights = state.get("model")
    if not isinstance(weights, dict):
        raise UserError(f'{origin}: has no entry "model"')
    return unwrapped(weights, origin=origin)


WRAPPERS = ("module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")
"""What DataParallel, torch.compile, FSDP and activation checkpointing put into the names of what they wrap."""


def unwrapped(weights: dict[Any, Any], *, origin: str) -> dict[str, Any]:
    """Weights by their names without those of wrappers, which may be around any module, in any order."""
    plain: dict[str, Any] = {}
    for name, tensor in weights.items():
        if not isinstance(name, str):
            raise UserError(f"{origin}: {shown(name)} is a {type(name).__name__}, not the name of a parameter")
        inner = ".".join(part for part in name.split(".") if part not in WRAPPERS)
        if inner in plain:
            raise UserError(f"{origin}: {shown(inner)} is there twice, once as {shown(name)}")
        plain[inner] = tensor
    return plain


def _require_sizes(config: GPTConfig, weights: dict[str, Any], origin: str) -> None:
    """UserError unless the sizes of which the others are made are those of the weights, and each layer has some."""
    named = {"lm_head.weight", "transformer.wpe.weight", "transformer.wte.weight"}
    for name in sorted(named):
        _require_both(name, named, weights, origin)
    _require_shape("transformer.wpe.weight", weights, (config.block_size, config.n_embd), origin)
    _require_shape("transformer.wte.weight", weights, (config.vocab_size, config.n_embd), origin)
    prefix = "transformer.h."
    layers = {name.split(".")[2] for name in weights if name.startswith(prefix)}
    missing = next((i for i in range(config.n_layer) if str(i) not in layers), None)
    if missing is not None:
        raise UserError(f"{origin}: the checkpoint lacks {prefix}{missing}, of {config.n_layer:,} layers")


def _require_fit(ours: dict[str, Tensor], theirs: dict[str, Any], origin: str) -> None:
    """UserError unless `theirs` are what `ours` are, by name and shape: numbers, finite, with the output tied."""
    for name in sorted({*ours, *theirs}):
        _require_both(name, ours, theirs, origin)
        _require_shape(name, theirs, tuple(ours[name].shape), origin)
        # As it will be: what float64 holds may be too much for float32.
        if not bool(theirs[name].to(torch.float32).isfinite().all()):
            raise UserError(f"{origin}: {name} holds numbers that are not finite")
    if not torch.equal(theirs["lm_head.weight"], theirs["transformer.wte.weight"]):
        raise UserError(f"{origin}: lm_head.weight is not the token embedding, to which the model's output is tied")


def _require_both(name: str, ours: Container[str], theirs: Container[str], origin: str) -> None:
    """UserError unless the model and the checkpoint both have a weight of that name."""
    if name not in theirs or name not in ours:
        where = "the checkpoint lacks" if name in ours else "the model has no"
        raise UserError(f"{origin}: {where} {shown(name)}")


def _require_shape(name: str, weights: dict[str, Any], shape: tuple[int, ...], origin: str) -> None:
    """UserError unless a weight is a plain tensor of numbers, all of them there, of that shape."""
    tensor = weights[name]
    if not isinstance(tensor, Tensor):
        raise UserError(f"{origin}: {name} is a {type(tensor).__name__}, not a tensor")
    if tensor.shape != shape:
        raise UserError(f"{origin}: {name} is {tuple(tensor.shape)} there and {shape} in the model")
    if tensor.layout != torch.strided or tensor.device.type != "cpu" or not tensor.dtype.is_floating_point:
        kind = f"{tensor.dtype}, {tensor.layout}, on {tensor.device}".replace("torch.", "")
        raise UserError(f"{origin}: {name} is {kind}: a weight is a dense tensor of floating-point numbers")
    if tensor.untyped_storage().nbytes() < tensor.numel() * tensor.element_size():
        raise UserError(f"{origin}: {name} has shape {shape}, and fewer numbers than that")


def load_initial_weights(model: GPT, init_from: str) -> None:
    """Take the weights that CONFIG_INIT_FROM names. UserError, beginning with it, if there are none that fit."""
    origin = f'CONFIG_INIT_FROM="{init_from}"'
    try:
        state = read_checkpoint(Path(init_from))
    except UserError as error:
        raise UserError(f"{origin}: {error} (`make convert` makes checkpoints of other people's GPT-2s)") from None
    load_weights(model, state, origin=origin, new_gates=True)
    _require_same_fold(model.config, state, origin)


def _require_same_fold(config: GPTConfig, state: dict[str, Any], origin: str) -> None:
    """UserError where gates of RA v5 are of another fold, or of a slot of another width: here they would say another
    thing. At rest they say nothing, in folds that rest at the same value."""
    gates = {name: t for name, t in weights_of(state, origin=origin).items() if name.endswith((".w_std", ".w_rec"))}
    of = state.get("model_config")
    if not gates or not isinstance(of, dict):
        return
    ours = config.ra_v5_fold, config.ra_v5_R
    theirs = shown(of.get("ra_v5_fold", ours[0])), of.get("ra_v5_R", ours[1])
    rests = {RA_V5_AT_REST.get(fold, math.nan) for fold in (ours[0], theirs[0])}
    at_rest = all(bool((t == (1.0 if name.endswith("w_std") else min(rests))).all()) for name, t in gates.items())
    if theirs != ours and not (len(rests) == 1 and at_rest):
        there, here = (f"RA_V5_FOLD={fold}, RA_V5_R={shown(R)}" for fold, R in (theirs, ours))
        raise UserError(f"{origin}: its gates are of {there}, and would say another thing here, with {here}")


def _model_config(state: dict[str, Any], origin: str) -> GPTConfig:
    settings = state.get("model_config")
    if not isinstance(settings, dict):
        raise UserError(f'{origin}: has no entry "model_config", and so is no checkpoint of a run')
    types = get_type_hints(GPTConfig)
    for name, value in settings.items():
        if name in types:
            words, fits = _SETTINGS[types[name]]
            if not fits(value):
                raise UserError(f"{origin}: model_config: {name} is {quoted(value)}: must be {words}")
    try:
        return GPTConfig(**settings | {"ra_v5_compile": False})
    except (TypeError, UserError) as error:  # an unknown field, or a value out of range
        raise UserError(f"{origin}: model_config: {one_line(error)}") from None


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= FLOAT32_MAX


def _is_whole(value: object) -> bool:
    return type(value) is int and 0 <= value < 2**31


_SETTINGS: dict[Any, tuple[str, Callable[[Any], bool]]] = {
    bool: ("true or false", lambda value: isinstance(value, bool)),
    int: ("a whole number from 0 to 2147483647", _is_whole),
    float: ("a number", _is_number),
    float | None: ("a number or null", lambda value: value is None or _is_number(value)),
    str: ("text", lambda value: isinstance(value, str)),
    Mapping[str, bool | int | str]: (
        "names with text, whole numbers from 0 to 2147483647, true or false",
        lambda value: (
            isinstance(value, dict) and all(isinstance(v, bool | str) or _is_whole(v) for v in value.values())
        ),
    ),
}
"""Type of a field of GPTConfig -> what a value of it is. Python itself would take 1.5 layers, and a list for a name."""
