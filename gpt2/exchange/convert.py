"""One model in other clothes: between a stock GPT-2 and the attention variants, with the same output.

    scripts/convert_checkpoint_to_ra_v5.py IN OUT

Only conversions that change nothing but rounding are made; docs/howto-convert.md says which those are, and what each
rests on. Models are read from a Hugging Face GPT-2, from nanoGPT's checkpoints and from our own.
"""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from gpt2.attention.baseline import CausalSelfAttention
from gpt2.attention.ra_ultimate_v5 import UltimateRAv5, convert_qkv_to_ra_v5, initial_w_rec
from gpt2.base.errors import UserError
from gpt2.base.files import write_atomic
from gpt2.config import GPTConfig
from gpt2.exchange.hf import CONFIG, GPT2_VOCAB_SIZE, download, is_hub_name, read_hf
from gpt2.model import GPT
from gpt2.run.checkpoint import read_checkpoint
from gpt2.run.load import load_model, model_of, unwrapped
from gpt2.symbols import padded

# A power of two, so that every format has it exactly; within float16's range, and far above the norm of any input.
_CONSTANT = 2.0**15


def read_model(source: str) -> GPT:
    """The model that `source` names: a file, a run's directory, a Hugging Face directory, or a name on their hub.

    On the CPU in eval mode. UserError if there is none.
    """
    path = Path(source)
    if path.is_file():
        content = read_checkpoint(path)
        return model_of(_from_nanogpt(content, source) if "model_args" in content else content, origin=source)
    if (path / CONFIG).exists():
        return read_hf(path)
    if (path / "checkpoints").is_dir():
        return load_model(path)
    # After directories that hold a model: the name `gpt2` is on the hub, and the checkout has a directory of that name.
    if is_hub_name(source) and path.suffix not in (".pt", ".pth", ".bin", ".safetensors"):
        return read_hf(download(source))
    if path.exists():
        raise UserError(f"{source}: holds neither {CONFIG} of a Hugging Face model nor checkpoints/ of a run")
    raise UserError(f"{source}: no such file or directory")


def _from_nanogpt(content: dict[str, Any], origin: str) -> dict[str, Any]:
    """What nanoGPT's train.py saves, as our checkpoint's content: the same names, its GELU, and a mask perhaps."""
    args, weights = content["model_args"], content.get("model")
    if not isinstance(args, dict) or not isinstance(weights, dict):
        return {"model_config": args}
    weights = unwrapped(weights, origin=origin)
    # Where torch had no SDPA, nanoGPT stored its causal mask too. Without bias=True this is no parameter's name.
    masks = [name for name in weights if name.endswith(".attn.bias")]
    for name in masks:
        del weights[name]
    return {"model_config": {"gelu_tanh": False, **args}, "model": weights}


def write_model(model: GPT, path: Path, **about: Any) -> None:
    """Write a checkpoint that CONFIG_INIT_FROM takes, with plain values `about` where it came from. Atomic."""
    content = {"model_config": dataclasses.asdict(model.config), "model": model.state_dict(), **about}
    write_atomic(path, lambda file: torch.save(content, file))


def run_settings(model: GPT, checkpoint: Path) -> list[str]:
    """Lines of a `.config`: what a run needs to start from a checkpoint of this model, beside data with its tokens."""
    c = model.config
    settings: dict[str, bool | int | str] = {
        "MODEL_CUSTOM": True,
        "N_LAYER": c.n_layer,
        "N_HEAD": c.n_head,
        "N_EMBD": c.n_embd,
        "BLOCK_SIZE": c.block_size,
        "BIAS": c.bias,
        "GELU_TANH": c.gelu_tanh,
        "PAD_VOCAB": c.vocab_size == padded(c.vocab_size),
        f"ATTENTION_{c.attention.upper()}": True,
    }
    if c.attention in ("ra_v5", "ra_mla"):
        settings |= {"RA_V5_R": c.ra_v5_R, f"RA_V5_FOLD_{c.ra_v5_fold.upper()}": True}
    if c.attention in ("mla", "ra_mla"):
        settings["MLA_KV_LATENT_DIM"] = c.mla_kv_latent_dim
    if c.attention_layers:
        settings["ATTENTION_LAYERS"] = c.attention_layers
    settings["INIT_FROM"] = str(checkpoint)
    return [_line(symbol, value) for symbol, value in settings.items()]


def _line(symbol: str, value: bool | int | str) -> str:
    if value is False:
        return f"# CONFIG_{symbol} is not set"
    if isinstance(value, str):
        value = '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'
    return f"CONFIG_{symbol}={'y' if value is True else value}"


def vocab_size_without_padding(model: GPT) -> int:
    """Tokens that mean something: of GPT-2's padded vocabulary, GPT-2's; of any other, all."""
    size = model.config.vocab_size
    return GPT2_VOCAB_SIZE if size == padded(GPT2_VOCAB_SIZE) else size


def to_baseline(model: GPT) -> GPT:
    """The baseline that an RA v5 model is once folded; a baseline as it is. UserError for other variants."""
    c = model.config
    if c.attention == "baseline":
        return model
    if c.attention != "ra_v5":
        raise UserError(f"ATTENTION_{c.attention.upper()}=y: is no GPT-2: only RA v5 folds to the baseline")
    if c.ra_v5_d_bias:
        raise UserError("RA_V5_D_BIAS=y: GPT-2 has no bias on its scores, so that this model does not fold to one")
    weights = model.state_dict()
    for prefix, attn in _attention_layers(model):
        if not isinstance(attn, UltimateRAv5):  # a layer that has the baseline's
            continue
        weights[f"{prefix}.c_attn.weight"], bias = attn.folded()
        if bias is not None:
            weights[f"{prefix}.c_attn.bias"] = bias
        for gate in attn.GATES:
            weights.pop(f"{prefix}.{gate}", None)
    return _model(dataclasses.replace(c, attention="baseline", use_ra_v5=False), weights)


def to_ra_v5(model: GPT, *, R: int = 4, fold: str = "lerp", low: str = "keep") -> GPT:
    """RA v5 that computes what a baseline does. `fold`: as in UltimateRAv5; `low`: as for convert_qkv_to_ra_v5.

    UserError if the model is no baseline, or R not below the width of a head.
    """
    _require_baseline(model, "RA v5")
    c = dataclasses.replace(model.config, attention="ra_v5", ra_v5_R=R, ra_v5_fold=fold, ra_v5_gate_init=None)
    weights = model.state_dict()
    for prefix, attn in _attention_layers(model):
        assert isinstance(attn, CausalSelfAttention)
        rows = convert_qkv_to_ra_v5(_rows(attn), R, n_head=c.n_head, low=low)
        weights[f"{prefix}.c_attn.weight"] = rows[:, : c.n_embd]
        if c.bias:
            weights[f"{prefix}.c_attn.bias"] = rows[:, c.n_embd]
    return _with_gates(c, weights)


def to_mla(model: GPT) -> GPT:
    """MLA that computes what a baseline with biases does, with a latent as wide as the model. UserError for others.

    MLA normalizes its latent, and no weights undo that for a latent that is a linear function of the input alone. A
    constant does: beside one large constant the norm of the rest does not count, and dividing by it is multiplying
    by a known number. There is room for the constant because what LayerNorm emits, before its own weight and bias, has
    mean 0, and so n_embd - 1 dimensions.
    """
    _require_baseline(model, "MLA")
    c = model.config
    if not c.bias:
        raise UserError("BIAS=n: only a model with biases can become MLA: the norm of the latent is undone by a bias")
    weights = model.state_dict()
    for prefix, attn in _attention_layers(model):
        assert isinstance(attn, CausalSelfAttention)
        norm = prefix.replace("attn", "ln_1")
        gamma, beta = weights[f"{norm}.weight"], weights[f"{norm}.bias"]
        weights |= {f"{prefix}.{name}": tensor for name, tensor in _latent(gamma, beta, attn).items()}
        weights[f"{norm}.weight"] = torch.ones_like(gamma)
        weights[f"{norm}.bias"] = torch.zeros_like(beta)
    return _model(dataclasses.replace(c, attention="mla", mla_kv_latent_dim=c.n_embd), weights)


def to_ra_mla(model: GPT, *, R: int = 4) -> GPT:
    """RA + MLA that computes what an MLA model does, or a baseline (`to_mla`). UserError for others."""
    if model.config.attention != "mla":
        model = to_mla(model)
    c = dataclasses.replace(model.config, attention="ra_mla", ra_v5_R=R, ra_v5_fold="lerp", ra_v5_gate_init=None)
    return _with_gates(c, model.state_dict())


def _latent(gamma: Tensor, beta: Tensor, attn: CausalSelfAttention) -> dict[str, Tensor]:
    """Weights of the MLA layer that does behind a bare LayerNorm what `attn` does behind one of weight and bias."""
    C = gamma.numel()
    rows = _rows(attn).double()
    # W (gamma * x + beta) + b = (W gamma) x + (W beta + b)
    bias = rows[:, C] + rows[:, :C] @ beta.double()
    q, kv = (rows[:, :C] * gamma.double()).split([C, 2 * C])
    # A reflection that takes the direction of the mean to the first axis: its other rows span what has mean 0.
    u = torch.full((C,), 1 / math.sqrt(C), dtype=torch.float64)
    u[0] -= 1
    centred = (torch.eye(C, dtype=torch.float64) - 2 * torch.outer(u, u) / u.dot(u))[1:]
    zero = torch.zeros(C, dtype=torch.float64)
    # |x|^2 = C: what LayerNorm emits has variance 1.
    rms = math.sqrt((C + _CONSTANT**2) / C)
    constant = zero.clone()
    constant[-1] = _CONSTANT
    kv_norm = torch.full((C,), rms, dtype=torch.float64)
    kv_norm[-1] = rms / _CONSTANT
    double = {
        "c_attn.weight": torch.cat([q, centred, zero[None]]),
        "c_attn.bias": torch.cat([bias[:C], constant]),
        "kv_norm.weight": kv_norm,
        "c_kv.weight": torch.cat([kv @ centred.T, torch.zeros(2 * C, 1)], dim=1),
        "c_kv.bias": bias[C:],
    }
    return {name: tensor.float() for name, tensor in double.items()}


def _require_baseline(model: GPT, target: str) -> None:
    attention = model.config.attention
    if attention == "ra_v5":
        raise UserError(f"ATTENTION_RA_V5=y: is converted already; fold it (--to baseline) to make {target} of it")
    if attention != "baseline":
        raise UserError(f"ATTENTION_{attention.upper()}=y: only a baseline can become {target}")


def _attention_layers(model: GPT) -> list[tuple[str, nn.Module]]:
    """Each layer's attention, and the prefix of its parameters' names."""
    return [(f"transformer.h.{i}.attn", block.attn) for i, block in enumerate(model.blocks)]


def _rows(attn: CausalSelfAttention) -> Tensor:
    """Rows of the fused projection, [3C, C], with the bias as one more column if there is one."""
    weight, bias = attn.c_attn.weight.detach(), attn.c_attn.bias
    return weight if bias is None else torch.cat([weight, bias.detach()[:, None]], dim=1)


def _with_gates(config: GPTConfig, weights: dict[str, Tensor]) -> GPT:
    """A model with gates where the fold changes nothing."""
    for i in filter(config.has_attention, range(config.n_layer)):
        weights[f"transformer.h.{i}.attn.w_std"] = torch.ones(config.n_head)
        weights[f"transformer.h.{i}.attn.w_rec"] = initial_w_rec(config.ra_v5_fold, config.n_head, config.ra_v5_R)
    return _model(config, weights)


def _model(config: GPTConfig, weights: dict[str, Tensor]) -> GPT:
    content = {"model_config": dataclasses.asdict(config), "model": weights}
    return model_of(content, origin=f"converted to {config.attention}")
