"""What torch.compile covers: nothing, each attention module, or the whole model with its loss.

Modules are compiled in place (`nn.Module.compile`), so parameter names and checkpoints do not change. Where ranks share
each tensor (gpt2/run/parallel.py), blocks are compiled instead of the whole.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import nn

from gpt2.machine import source


class HasBlocks(Protocol):
    """A model whose blocks can be compiled by themselves."""

    @property
    def blocks(self) -> Sequence[nn.Module]:
        """The blocks, first to last."""


class HasAttention(Protocol):
    """A model whose attention can be compiled by itself."""

    @property
    def attention(self) -> Sequence[nn.Module]:
        """The attention module of each layer."""


def compile_attention(model: HasAttention, **options: Any) -> None:
    """Compile each attention module of a model when it is first called. `options`: as for `compile_scope`."""
    for attention in model.attention:
        _compile(attention, options)


def compile_model(model: nn.Module, **options: Any) -> None:
    """Compile a model whole, its loss included, when it is first called. `options`: as for `compile_scope`."""
    _compile(model, options)


def compile_blocks(model: HasBlocks, **options: Any) -> None:
    """Compile what each block computes, and not the hooks around it, when it is first called. `options`: as above."""
    for block in model.blocks:
        block.forward = torch.compile(block.forward, **_filled(options))


def compile_scope(model: Any, scope: str, **options: Any) -> None:
    """Compile what `scope` says: "none", "attention" or "model".

    `options` are torch.compile's: `mode`, with "_" for "-", or a `backend`. Shapes are static and a graph break is an
    error, always.
    """
    if scope == "attention":
        compile_attention(model, **options)
    elif scope == "model":
        compile_model(model, **options)


def compile_attempts(scope: str, mode: str) -> list[tuple[str, str]]:
    """Scopes and modes to try in turn until one works: as asked, in the default mode, nothing.

    The RA v5 plan's fallbacks: max-autotune can ask for more shared memory than there is, and untuned kernels do not. A
    run in eager mode beats none, as long as nobody takes it for a compiled one.
    """
    asked = [] if scope == "none" else [(scope, mode), (scope, "default")]
    return list(dict.fromkeys([*asked, ("none", "default")]))


def uncompile(model: nn.Module) -> None:
    """Go back to eager execution everywhere."""
    for module in model.modules():
        module._compiled_call_impl = None
        module.__dict__.pop("forward", None)


class _Inductor(torch._TorchCompileInductorWrapper):
    """torch.compile's own compiler, whose caches here also ask for what decides a graph and is not in it.

    It is called where a module is first called, with everything as it is there: in compiling for several precisions,
    one process is as safe as several.
    """

    def __call__(self, *args: Any, **options: Any) -> Any:
        config: Any = torch.compiler.config
        with config.patch(cache_key_tag=f"{config.cache_key_tag} {_ambient()}"):
            return super().__call__(*args, **options)


def _ambient() -> str:
    """What decides the graph of a module beside its code and its inputs, as far as torch's cache does not ask for it.

    Autocast's dtype, which is in torch's own key from 2.13 on: before, a float16 run was handed the bfloat16 kernels of
    an earlier run. Which kernels attention may use, and which first: a run with one of them forbidden was handed it all
    the same. And the code of our operators (gpt2/loss.py, gpt2/kernels/fold.py), which the key knows by their names
    alone.
    """
    autocast = [f"{d} {torch.get_autocast_dtype(d)}" for d in ("cpu", "cuda", "mps") if torch.is_autocast_enabled(d)]
    sdpa = [
        torch.backends.cuda.flash_sdp_enabled(),
        torch.backends.cuda.mem_efficient_sdp_enabled(),
        torch.backends.cuda.cudnn_sdp_enabled(),
        torch.backends.cuda.math_sdp_enabled(),
        torch._C._get_sdp_priority_order(),
    ]
    return f"autocast {autocast} sdpa {sdpa} code {source.IMPORTED}"


def _compile(module: nn.Module, options: dict[str, Any]) -> None:
    module.compile(**_filled(options))


def _filled(options: dict[str, Any]) -> dict[str, Any]:
    """torch.compile's options from those of `compile_scope`."""
    options = {"fullgraph": True, "dynamic": False} | options
    if "backend" not in options:
        mode = options.pop("mode", "default").replace("_", "-")
        options["backend"] = _Inductor(mode, None, options["dynamic"])
    return options
