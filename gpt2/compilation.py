"""What torch.compile covers: nothing, each attention module, or the whole model with its loss.

Modules are compiled in place (`nn.Module.compile`), so parameter names and checkpoints do not change.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
import torch._functorch.config
from torch import nn

if TYPE_CHECKING:  # which imports this module
    from gpt2.model import GPT


def compile_attention(model: GPT, **options: Any) -> None:
    """Compile each attention module of a `GPT` when it is first called. `options`: as for `compile_scope`."""
    for block in model.blocks:
        _compile(block.attn, options)


def compile_model(model: nn.Module, **options: Any) -> None:
    """Compile a model whole, its loss included, when it is first called. `options`: as for `compile_scope`."""
    _compile(model, options)


def compile_scope(model: GPT, scope: str, **options: Any) -> None:
    """Compile what `scope` says: "none", "attention" or "model".

    `options` are torch.compile's: `mode`, with "_" for "-", or a `backend`. Shapes are static and a graph break is an
    error, always.
    """
    if scope == "attention":
        compile_attention(model, **options)
    elif scope == "model":
        compile_model(model, **options)


def uncompile(model: nn.Module) -> None:
    """Go back to eager execution everywhere."""
    for module in model.modules():
        module._compiled_call_impl = None


def _compile(module: nn.Module, options: dict[str, Any]) -> None:
    # The cache of traced graphs in torch 2.11 does not ask for autocast's dtype: after a bfloat16 run, a float16 one of
    # the same model is handed bfloat16 kernels, silently and across processes. The cache of generated code does ask.
    torch._functorch.config.enable_autograd_cache = False
    if "mode" in options:
        options = options | {"mode": options["mode"].replace("_", "-")}
    module.compile(**{"fullgraph": True, "dynamic": False} | options)
