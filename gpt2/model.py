"""GPT-2, as nanoGPT defines it: learned positions, pre-LayerNorm blocks, GELU, output tied to the token embedding.

The attention in it is `config.attention`'s. Initial weights are a function of (seed, parameter name), not of the order
in which modules are made: two arms of one seed begin with the same numbers wherever they have the same parameter.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from gpt2.attention import build_attention
from gpt2.attention.shared import LayerCache
from gpt2.config import GPTConfig
from gpt2.linear import Linear, mlp
from gpt2.loss import at_least_float32, linear_cross_entropy
from gpt2.machine.compilation import compile_attention
from gpt2.machine.device import autocast_dtype
from gpt2.model_config import flops_per_token

GateRecords = dict[str, list[list[float | None]]]
"""By name, a list per layer of a number per head."""


class LayerNorm(nn.LayerNorm):
    """LayerNorm with GPT-2's epsilon and an optional bias."""

    def __init__(self, n_embd: int, bias: bool) -> None:
        super().__init__(n_embd, eps=1e-5, bias=bias)


class MLP(nn.Module):
    """The feed-forward half of a block, [B, T, C] -> [B, T, C]."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.c_fc = Linear(config.n_embd, 4 * config.n_embd, bias=config.bias)
        self.gelu = nn.GELU(approximate="tanh" if config.gelu_tanh else "none")
        self.c_proj = Linear(4 * config.n_embd, config.n_embd, bias=config.bias)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.dropout(mlp(x, self.c_fc, self.gelu, self.c_proj))
        return y


class Block(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x))."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.ln_1 = LayerNorm(config.n_embd, config.bias)
        self.attn = build_attention(config)
        self.carries = getattr(self.attn, "CARRIES", False)
        self.ln_2 = LayerNorm(config.n_embd, config.bias)
        self.mlp = MLP(config)

    def forward(self, x: Tensor, cache: LayerCache | None = None, carried: Any = None) -> tuple[Tensor, Any]:
        """x [B, T, C] and what the layer before hands on (None if nothing) -> the same for the next layer."""
        # Without a cache it is not named at all: a variant that cannot generate need not know of caches.
        given = {} if cache is None else {"cache": cache}
        if self.carries:
            y, carried = self.attn(self.ln_1(x), **given, carried=carried)
        else:
            y = self.attn(self.ln_1(x), **given)
        x = x + y
        return x + self.mlp(self.ln_2(x)), carried


class Transformer(nn.Module):
    """What is below the output layer. Parameters are named as in nanoGPT and in Hugging Face's GPT-2."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.wte = nn.Embedding(config.vocab_size, config.n_embd)
        self.wpe = nn.Embedding(config.block_size, config.n_embd)
        self.drop = nn.Dropout(config.dropout)
        self.h = nn.ModuleList(Block(config.of_layer(layer)) for layer in range(config.n_layer))
        self.ln_f = LayerNorm(config.n_embd, config.bias)


class GPT(nn.Module):
    """A GPT-2 with the attention that `config` names.

    `seed` determines the initial weights; None draws it from torch's global generator, so that `torch.manual_seed`
    works as everywhere.
    """

    def __init__(self, config: GPTConfig, seed: int | None = None) -> None:
        super().__init__()
        self.config = config
        with _without_initial_weights():
            self.transformer = Transformer(config)
            self.lm_head = nn.Linear(config.n_embd, config.vocab_size, bias=False)
        self.lm_head.weight = self.transformer.wte.weight
        self.recomputes_blocks = False
        """Whether, in training, a block's input alone is kept, and the rest computed again for its backward pass."""
        self.init_weights(int(torch.randint(2**62, ())) if seed is None else seed)
        if config.use_ra_v5 and config.ra_v5_compile:
            compile_attention(self, mode="max-autotune")

    @torch.no_grad()
    def init_weights(self, seed: int) -> None:
        """GPT-2's: normal(0, 0.02), residual projections smaller by sqrt(2 n_layer), biases 0, norms 1.

        Numbers are drawn on the CPU from a generator of the parameter's own name, so that neither the device nor the
        other parameters matter. Per-head gates keep what their module gave them.
        """
        for prefix, module in self.named_modules():
            if not isinstance(module, nn.Linear | nn.Embedding) or module is self.lm_head:
                continue
            std = 0.02
            if prefix.endswith("c_proj"):
                std /= math.sqrt(2 * self.config.n_layer)
            weight = module.weight
            if not weight.is_meta:
                generator = torch.Generator().manual_seed(_name_seed(seed, prefix))
                weight.copy_(torch.empty(weight.shape, dtype=torch.float32).normal_(0.0, std, generator=generator))
            if isinstance(module, nn.Linear) and module.bias is not None:
                module.bias.zero_()

    @property
    def blocks(self) -> list[Block]:
        """The blocks, first to last."""
        return list(self.transformer.h)  # type: ignore[arg-type]

    @property
    def attention(self) -> list[nn.Module]:
        """The attention module of each block."""
        return [block.attn for block in self.blocks]

    def forward(
        self,
        idx: Tensor,
        targets: Tensor | None = None,
        caches: list[LayerCache] | None = None,
        *,
        keep_logits: bool = True,
    ) -> tuple[Tensor, Tensor | None]:
        """Logits [B, T, V] of token indices idx [B, T], and the mean cross-entropy (nats) of targets [B, T] if given.

        Targets of -1 are ignored. With `caches` (`new_caches`), idx are the tokens that follow the cached ones. With
        `targets` and without `keep_logits` the logits are never whole (gpt2/loss.py), and empty, [B, T, 0], here.
        Raises ValueError if the sequence is longer than block_size.
        """
        start = caches[0].length if caches else 0
        T = idx.size(1)
        if start + T > self.config.block_size:
            raise ValueError(f"a sequence of {start + T} tokens is longer than block_size={self.config.block_size}")
        positions = torch.arange(start, start + T, device=idx.device)
        x = self.transformer.drop(self.transformer.wte(idx) + self.transformer.wpe(positions))
        if self.config.residual_bfloat16 and autocast_dtype(x) == torch.bfloat16:
            x = x.bfloat16()
        recompute = self.recomputes_blocks and self.training and torch.is_grad_enabled()
        carried = None
        for i, block in enumerate(self.transformer.h):
            cache = None if caches is None else caches[i]
            if recompute:
                x, carried = checkpoint(block, x, cache, carried, use_reentrant=False)
            else:
                x, carried = block(x, cache, carried)
        x = self.transformer.ln_f(x)
        if targets is not None and not keep_logits:
            return x[..., :0].detach(), linear_cross_entropy(x, self.lm_head.weight, targets)
        logits = self.lm_head(x)
        if targets is None:
            return logits, None
        loss = F.cross_entropy(at_least_float32(logits).flatten(0, 1), targets.flatten(), ignore_index=-1)
        return logits, loss

    def new_caches(self) -> list[LayerCache]:
        """Empty KV caches, one per layer, for `forward`."""
        return [LayerCache(self.config.block_size) for _ in self.transformer.h]

    def num_params(self) -> int:
        """Parameters, the tied embedding counted once."""
        return sum(p.numel() for p in self.parameters())

    def flops_per_token(self) -> int:
        """Floating-point operations of a forward and backward pass, per token (`gpt2.model_config.flops_per_token`).

        A variant that looks at fewer positions than there are says so (`window`).
        """
        T = self.config.block_size
        positions = sum(min(getattr(attn, "window", T), T) for attn in self.attention)
        return flops_per_token(self.num_params(), n_embd=self.config.n_embd, block_size=T, positions=positions)

    def gates(self) -> dict[str, Tensor]:
        """Per-head gates by name, stacked over layers, [n_layer, n_head]; empty where the variant has none.

        Of gates that are more than a number per head there is what the variant says (`gates_per_head`), if anything. In
        layers that have another attention they are NaN.
        """
        layers = [_gates_per_head(attn) for attn in self.attention]
        without = {name: torch.full_like(gate, math.nan) for gates in layers for name, gate in gates.items()}
        return {
            name: torch.stack([gates.get(name, elsewhere).detach() for gates in layers])
            for name, elsewhere in without.items()
        }

    def gate_records(self, whole: Callable[[Tensor], Tensor] = lambda gate: gate) -> GateRecords:
        """The gates as records have them: by name, a list per layer, of None where the layer has another attention.

        `whole` makes a whole tensor of one that processes share.
        """
        gates = {name: whole(gate).tolist() for name, gate in self.gates().items()}
        return {
            name: [row if self.config.has_attention(i) else [None] * len(row) for i, row in enumerate(rows)]
            for name, rows in gates.items()
        }


def _gates_per_head(attention: Any) -> dict[str, Tensor]:
    """What is logged of a layer's gates, [n_head] each."""
    gates = {name: getattr(attention, name) for name in getattr(attention, "GATES", ())}
    plain = {name: gate for name, gate in gates.items() if gate is not None and gate.dim() == 1}
    return plain | (attention.gates_per_head() if hasattr(attention, "gates_per_head") else {})


@contextmanager
def _without_initial_weights() -> Iterator[None]:
    """Have nn.Linear and nn.Embedding draw no weights of their own, which `init_weights` would draw anew.

    For GPT-2 that is a third of the time in which a model is made.
    """
    own = [(kind, kind.reset_parameters) for kind in (nn.Linear, nn.Embedding)]
    try:
        for kind, _ in own:
            kind.reset_parameters = lambda self: None  # type: ignore[method-assign]
        yield
    finally:
        for kind, reset_parameters in own:
            kind.reset_parameters = reset_parameters  # type: ignore[method-assign]


def _name_seed(seed: int, name: str) -> int:
    """A 63-bit seed of its own for each (seed, name)."""
    return int.from_bytes(hashlib.blake2b(f"{seed}/{name}".encode(), digest_size=8).digest(), "little") >> 1
