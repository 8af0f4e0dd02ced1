"""GPT-2 as the Hugging Face library `transformers` keeps it: read into a `GPT`, and written from one.

A directory holds config.json and the weights, as safetensors or, from older versions, pytorch_model.bin; in several
files and with an index where they are large. `transformers` itself is not needed. Its GPT-2 differs from ours in names,
in weights of linear layers being [in, out], and in options, of which those that change the function are refused by
name.
"""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from gpt2.base.errors import UserError, one_line
from gpt2.base.files import read_json, write_json
from gpt2.base.text import quoted, shown
from gpt2.config import GPTConfig
from gpt2.model import GPT
from gpt2.run.checkpoint import read_checkpoint
from gpt2.run.load import model_of, unwrapped

CONFIG = "config.json"
WEIGHTS = "model.safetensors"
OLD_WEIGHTS = "pytorch_model.bin"
INDEX, OLD_INDEX = f"{WEIGHTS}.index.json", f"{OLD_WEIGHTS}.index.json"

GPT2_VOCAB_SIZE = 50257
END_OF_TEXT = 50256
"""GPT-2's one special token: the last of its vocabulary."""

# What our GPT-2 computes, where theirs has a choice. A key that config.json lacks has this value.
_FIXED = {
    "scale_attn_weights": True,
    "scale_attn_by_inverse_layer_idx": False,
    "add_cross_attention": False,
    "layer_norm_epsilon": 1e-5,
}
_GELU_TANH = {"gelu_new": True, "gelu_pytorch_tanh": True, "gelu": False}
_SIZES = {
    "n_positions": "block_size",
    "vocab_size": "vocab_size",
    "n_layer": "n_layer",
    "n_head": "n_head",
    "n_embd": "n_embd",
}

_TRANSPOSED = re.compile(r".*\.(c_attn|c_proj|c_fc)\.weight")
# The causal mask, which early versions stored with the weights.
_MASK = re.compile(r".*\.attn\.(bias|masked_bias)")
_HUB_NAME = re.compile(r"[\w.-]+(/[\w.-]+)?", re.ASCII)


def is_hub_name(name: str) -> bool:
    """Whether `name` has the form of a model's name on the Hugging Face hub, OWNER/NAME or NAME."""
    return _HUB_NAME.fullmatch(name) is not None


def download(name: str) -> Path:
    """The directory of a model from the Hugging Face hub, downloaded if it is not in the hub's cache. UserError."""
    try:
        from huggingface_hub import snapshot_download
    except ImportError:
        raise UserError(f"{name}: the Hugging Face hub needs the package huggingface_hub (extra `hf`)") from None
    try:
        return Path(snapshot_download(name, allow_patterns=[CONFIG, "model*.safetensors", INDEX]))
    except (OSError, ValueError) as error:
        raise UserError(f"{name}: not here, and not to be had from the Hugging Face hub: {one_line(error)}") from None


def read_hf(directory: Path) -> GPT:
    """The model in a directory that `save_pretrained` of a GPT-2 wrote, in float32. UserError if there is none."""
    path = directory / CONFIG
    config = read_json(path)
    if config.get("model_type") != "gpt2":
        raise UserError(f"{path}: model_type is {quoted(config.get('model_type'))}: only 'gpt2' can be read")
    for key, ours in _FIXED.items():
        if config.get(key, ours) != ours:
            raise UserError(f"{path}: {key} is {quoted(config[key])}: can be read only where it is {ours!r}")
    for key in _SIZES:
        if type(config.get(key)) is not int or not 1 <= config[key] < 2**31:
            raise UserError(f"{path}: {key} is {quoted(config.get(key))}: must be a whole number from 1")
    if config.get("n_inner") not in (None, 4 * config["n_embd"]):
        raise UserError(f"{path}: n_inner is {quoted(config['n_inner'])}: must be 4 * n_embd or null")
    gelu = config.get("activation_function", "gelu_new")
    if not isinstance(gelu, str) or gelu not in _GELU_TANH:
        known = ", ".join(_GELU_TANH)
        raise UserError(f"{path}: activation_function is {quoted(gelu)}: must be one of {known}")
    weights = {}
    for name, tensor in unwrapped(_read_weights(directory), origin=str(directory)).items():
        if not isinstance(tensor, Tensor):
            raise UserError(f"{directory}: {shown(name)} is a {type(tensor).__name__}, not a tensor")
        name = name if name.startswith(("transformer.", "lm_head.")) else f"transformer.{name}"
        if _MASK.fullmatch(name):
            continue
        weights[name] = _transposed(name, tensor)
    _tie(weights, config.get("tie_word_embeddings", True), directory)
    sizes = {ours: config[theirs] for theirs, ours in _SIZES.items()}
    content = {"model_config": sizes | {"bias": True, "gelu_tanh": _GELU_TANH[gelu]}, "model": weights}
    return model_of(content, origin=str(directory))


def _tie(weights: dict[str, Tensor], tied: object, directory: Path) -> None:
    """Add the output's weights where they are those of the embedding. UserError where they are anything else."""
    embedding = weights.get("transformer.wte.weight")
    if tied is True and embedding is not None:
        weights.setdefault("lm_head.weight", embedding)
    elif tied is not True:
        head = weights.get("lm_head.weight")
        if tied is not False or embedding is None or head is None or not torch.equal(head, embedding):
            raise UserError(
                f"{directory / CONFIG}: tie_word_embeddings is {quoted(tied)}, and lm_head.weight is not the token "
                "embedding: can be read only where it is"
            )


def write_hf(model: GPT, directory: Path, *, vocab_size: int) -> None:
    """Write a baseline model as a directory that GPT2LMHeadModel.from_pretrained reads; it must not exist yet.

    Only the first `vocab_size` tokens are kept. Biases that the model does not have are written as zeros. The
    directory appears whole or not at all.
    """
    try:
        from safetensors.torch import save_file
    except ImportError:
        raise UserError(f"{directory}: writing it needs the package safetensors (extra `hf`)") from None
    temporary = directory.with_name(f".{directory.name}.{os.getpid()}.tmp")
    try:
        temporary.mkdir()
        write_json(temporary / CONFIG, _hf_config(model.config, vocab_size))
        save_file(_hf_weights(model, vocab_size), temporary / WEIGHTS, metadata={"format": "pt"})
        with (temporary / WEIGHTS).open("rb") as file:
            os.fsync(file.fileno())
        temporary.rename(directory)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _hf_config(config: GPTConfig, vocab_size: int) -> dict[str, Any]:
    token = END_OF_TEXT if vocab_size == GPT2_VOCAB_SIZE else None
    return {
        "architectures": ["GPT2LMHeadModel"],
        "model_type": "gpt2",
        **{theirs: getattr(config, ours) for theirs, ours in _SIZES.items()},
        **_FIXED,
        "tie_word_embeddings": True,
        "vocab_size": vocab_size,
        "n_inner": None,
        "activation_function": "gelu_new" if config.gelu_tanh else "gelu",
        "embd_pdrop": config.dropout,
        "resid_pdrop": config.dropout,
        "attn_pdrop": config.dropout,
        "initializer_range": 0.02,
        "bos_token_id": token,
        "eos_token_id": token,
    }


def _hf_weights(model: GPT, vocab_size: int) -> dict[str, Tensor]:
    weights = model.state_dict()
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear | nn.LayerNorm) and module.bias is None:
            weights[f"{name}.bias"] = torch.zeros(len(module.weight))
    del weights["lm_head.bias"]
    del weights["lm_head.weight"]
    weights["transformer.wte.weight"] = weights["transformer.wte.weight"][:vocab_size]
    return {name: _transposed(name, tensor).contiguous() for name, tensor in weights.items()}


def _transposed(name: str, tensor: Tensor) -> Tensor:
    """A weight of theirs as ours or of ours as theirs."""
    return tensor.t() if _TRANSPOSED.fullmatch(name) and tensor.dim() == 2 else tensor


def _read_weights(directory: Path) -> dict[Any, Any]:
    """Everything that the files with weights hold, by name."""
    for whole, index, read in ((WEIGHTS, INDEX, _read_safetensors), (OLD_WEIGHTS, OLD_INDEX, read_checkpoint)):
        if (directory / whole).exists():
            return read(directory / whole)
        if (directory / index).exists():
            weights: dict[Any, Any] = {}
            for path in _indexed(directory / index):
                part = read(path)
                if twice := weights.keys() & part.keys():
                    raise UserError(f"{path}: {shown(next(iter(twice)))} is in another file of {index} too")
                weights |= part
            return weights
    raise UserError(f"{directory}: holds no weights: none of {WEIGHTS}, {INDEX}, {OLD_WEIGHTS}, {OLD_INDEX}")


def _indexed(index: Path) -> list[Path]:
    """The files that an index names, each of which lies beside it. UserError for an index that names others."""
    files = read_json(index).get("weight_map")
    if not isinstance(files, dict) or not files:
        raise UserError(f'{index}: has no entry "weight_map" that names files')
    for name in files.values():
        is_name = isinstance(name, str) and name.isprintable() and name not in ("", "..") and Path(name).name == name
        if not is_name:
            raise UserError(f"{index}: weight_map names {quoted(name)}: must be the name of a file beside it")
    return [index.with_name(name) for name in sorted(set(files.values()))]


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        from safetensors import SafetensorError
        from safetensors.torch import load_file
    except ImportError:
        raise UserError(f"{path}: reading it needs the package safetensors (extra `hf`)") from None
    if path.exists() and not path.is_file():
        raise UserError(f"{path}: is no file")
    try:
        tensors: dict[str, Tensor] = load_file(path)
    except (OSError, SafetensorError, ValueError, RuntimeError, KeyError) as error:
        raise UserError(f"{path}: cannot be read as safetensors: {one_line(error)}") from None
    return tensors
