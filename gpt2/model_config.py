"""The model of one run: its shape, and the attention in it.

Imports no torch, like the rest of `gpt2/config.py`, which is where others import `GPTConfig` from.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypeVar

from gpt2 import layers
from gpt2.base.settings import SettingError, check, setting
from gpt2.folds import RA_V5_AT_REST
from gpt2.idle import keys_unmixed, plain_low_slot

BUILT_IN = ("baseline", "ra_v5", "mla", "ra_mla")
"""The variants whose settings `GPTConfig` has fields for."""


def _has_ra(model: GPTConfig) -> bool:
    return model.attention in ("ra_v5", "ra_mla")


WITHOUT_GATES = ("baseline", "mla", "rope", "sdpa_gate", "value_residual", "gqa", "sliding_window", "uniform")
"""Variants in which no parameter is a gate. Of one that is not named, the rate of its gates is taken to matter."""


def may_have_gates(model: GPTConfig) -> bool:
    """Whether a variant may have some."""
    return model.attention not in WITHOUT_GATES


Option = TypeVar("Option", bool, int, str)

_OPTIONS = {bool: "true or false", int: "a whole number", str: "text"}


def _has_mla(model: GPTConfig) -> bool:
    return model.attention in ("mla", "ra_mla")


@dataclass(frozen=True, kw_only=True)
class GPTConfig:
    """A GPT-2 and the attention in it. Names and defaults are nanoGPT's where nanoGPT has them."""

    block_size: int = setting(1024, "BLOCK_SIZE")
    """Context length T: the number of learned positions."""

    vocab_size: int = 50304
    """Rows of the token embedding; 50304 is GPT-2's 50257 padded to a multiple of 64."""

    n_layer: int = setting(12, "N_LAYER")
    """Number of blocks."""

    n_head: int = setting(12, "N_HEAD")
    """Attention heads in a block."""

    n_embd: int = setting(768, "N_EMBD")
    """Width of the residual stream, C."""

    dropout: float = setting(0.0, "DROPOUT")
    """Dropout rate of embeddings, attention weights and residual branches."""

    bias: bool = setting(True, "BIAS")
    """Biases in linear layers and LayerNorms, as in GPT-2."""

    gelu_tanh: bool = setting(True, "GELU_TANH")
    """GELU by its tanh approximation, as in OpenAI's GPT-2; False is the exact one, as in nanoGPT."""

    residual_bfloat16: bool = setting(False, "RESIDUAL_BFLOAT16")
    """Under bfloat16 autocast, whether the residual stream is bfloat16 too; by autocast's own rules it is float32."""

    attention: str = setting("baseline", "ATTENTION_", choice=True)
    """The attention variant: "baseline", "ra_v5", "mla", "ra_mla", or the name of a module in gpt2/attention/."""

    attention_layers: str = setting("", layers.SYMBOL, optional=True)
    """The layers that have this attention, such as "0-2" or "0+2" (gpt2/layers.py); the others have the baseline's.
    Empty: all. After construction it is so too where all are named, and where the attention is the baseline's."""

    attention_options: Mapping[str, bool | int | str] = field(default_factory=dict)
    """Settings of a variant this class has no field for: symbol FOO_X of variant `foo` is `option("x", ...)`."""

    use_ra_v5: bool = False
    """The RA v5 plan's spelling of attention="ra_v5". After construction it says whether this is RA v5."""

    ra_v5_R: int = setting(4, "RA_V5_R", only_if=_has_ra, idle_if=plain_low_slot)
    """Reciprocal dimensions per head, R: the width of the low slot."""

    ra_v5_compile: bool = True
    """Whether `GPT` compiles each RA v5 attention module when it is first used, as in the seed. A run's `.config` asks
    for compilation by TrainConfig.compile instead, which covers every variant, and sets this to False."""

    ra_v5_fold: str = setting("lerp", "RA_V5_FOLD_", choice=True, only_if=_has_ra, idle_if=keys_unmixed)
    """"lerp", "direct", "lerp_dims", "lerp_keys" or "matrix"; docs/ra-v5.md."""

    ra_v5_gate_init: float | None = setting(None, "RA_V5_GATE_INIT", only_if=_has_ra)
    """Initial w_rec, of the matrix fold its diagonal. None: where the fold is the baseline (direct 1, others 0)."""

    ra_v5_learn_w_std: bool = setting(True, "RA_V5_LEARN_W_STD", only_if=_has_ra)
    """Whether w_std is learned or held at 1."""

    ra_v5_learn_w_rec: bool = setting(True, "RA_V5_LEARN_W_REC", only_if=_has_ra)
    """Whether w_rec is learned or held at its initial value."""

    ra_v5_d_bias: bool = setting(False, "RA_V5_D_BIAS", only_if=_has_ra)
    """A learned bias per head and key position on the scores."""

    mla_kv_latent_dim: int = setting(256, "MLA_KV_LATENT_DIM", only_if=_has_mla)
    """Width of the latent vector keys and values are made from."""

    def __post_init__(self) -> None:
        if self.use_ra_v5 and self.attention == "baseline":
            object.__setattr__(self, "attention", "ra_v5")
        object.__setattr__(self, "use_ra_v5", self.attention == "ra_v5")
        folds = RA_V5_AT_REST
        check(self.ra_v5_fold in folds, "RA_V5_FOLD", self.ra_v5_fold, f"is not one of {', '.join(folds)}")
        if self.ra_v5_gate_init is None:
            object.__setattr__(self, "ra_v5_gate_init", folds[self.ra_v5_fold])
        for name in ("block_size", "vocab_size", "n_layer", "n_head", "n_embd", "ra_v5_R", "mla_kv_latent_dim"):
            check(getattr(self, name) >= 1, name.upper(), getattr(self, name), "must be at least 1")
        if self.attention_layers:
            named = layers.parse_layers(self.attention_layers, self.n_layer)
            some = self.attention != "baseline" and len(named) < self.n_layer
            object.__setattr__(self, "attention_layers", layers.layers_text(named) if some else "")
        check(0 <= self.dropout < 1, "DROPOUT", self.dropout, "must be from 0 to below 1")
        check(
            self.n_embd % self.n_head == 0,
            "N_EMBD",
            self.n_embd,
            f"must be a multiple of the number of heads (N_HEAD={self.n_head})",
        )
        if _has_ra(self):
            check(
                self.ra_v5_R < self.head_dim,
                "RA_V5_R",
                self.ra_v5_R,
                f"must be from 1 to {self.head_dim - 1}: a head is N_EMBD / N_HEAD = {self.head_dim} wide",
            )
            check(
                self.attention != "ra_mla" or self.ra_v5_fold == "lerp",
                "RA_V5_FOLD",
                self.ra_v5_fold,
                "RA + MLA has the lerp fold only",
            )
            check(
                not (self.attention == "ra_mla" and self.ra_v5_d_bias),
                "RA_V5_D_BIAS",
                "y",
                "RA + MLA has no discoverability bias",
            )

    def option(self, name: str, kind: type[Option]) -> Option:
        """One of `attention_options`, of the type that its symbol has in Kconfig. SettingError where it has another."""
        value = self.attention_options.get(name)
        if type(value) is not kind:
            raise SettingError(f"{self.attention}_{name}".upper(), value, f"must be {_OPTIONS[kind]}")
        return value

    @property
    def head_dim(self) -> int:
        """Width of a head, D."""
        return self.n_embd // self.n_head

    def has_attention(self, layer: int) -> bool:
        """Whether a layer has `attention`; else it has the baseline's."""
        return not self.attention_layers or layer in layers.parse_layers(self.attention_layers, self.n_layer)

    def of_layer(self, layer: int) -> GPTConfig:
        """What a layer is built by: this, or the same with the baseline's attention."""
        if self.has_attention(layer):
            return self
        return dataclasses.replace(self, attention="baseline", use_ra_v5=False)

    def shortened(self, n_layer: int) -> GPTConfig:
        """The same with fewer layers, of which all have `attention`."""
        return dataclasses.replace(self, n_layer=n_layer, attention_layers="")


def flops_per_token(params: int, *, n_embd: int, block_size: int, positions: int) -> int:
    """Floating-point operations of a forward and backward pass of a GPT-2 of so many parameters, per token.

    6 N for the parameters that are multiplied with (positions are only added) and 12 C for each of the `positions` that
    a query looks at, over all layers: with n_layer T of them PaLM's count, arXiv:2204.02311, appendix B, as in nanoGPT.
    """
    return 6 * (params - block_size * n_embd) + 12 * n_embd * positions
