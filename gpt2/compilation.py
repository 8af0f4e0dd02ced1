"""What torch.compile covers: nothing, each attention module, or the whole model with its loss.

Modules are compiled in place (`nn.Module.compile`), so parameter names and checkpoints do not change.
"""

from __future__ import annotations

from typing import Any

from torch import nn


def compile_attention(model: nn.Module, mode: str = "default") -> None:
    """Compile each attention module of a `GPT`, with static shapes and no graph breaks, when it is first called."""
    for block in model.transformer.h:
        block.attn.compile(**_options(mode))


def compile_model(model: nn.Module, mode: str = "default") -> None:
    """Compile a `GPT` whole, its loss included, when it is first called."""
    model.compile(**_options(mode))


def compile_scope(model: nn.Module, scope: str, mode: str = "default") -> None:
    """Compile what `scope` says: "none", "attention" or "model". `mode` is torch.compile's, with "_" for "-"."""
    if scope == "attention":
        compile_attention(model, mode)
    elif scope == "model":
        compile_model(model, mode)


def uncompile(model: nn.Module) -> None:
    """Go back to eager execution everywhere."""
    for module in model.modules():
        module._compiled_call_impl = None


def _options(mode: str) -> dict[str, Any]:
    return {"fullgraph": True, "dynamic": False, "mode": mode.replace("_", "-")}
