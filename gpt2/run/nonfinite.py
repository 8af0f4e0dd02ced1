"""Finding where a number stopped being finite."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from gpt2.config import TrainConfig
from gpt2.data.batches import Batch
from gpt2.machine import products
from gpt2.machine.device import autocast

NOWHERE = "a tensor that is finite when it is computed again"


class NonFiniteError(Exception):
    """The loss or a gradient stopped being finite. The message is one line."""


def first_nonfinite(model: nn.Module, micro_batches: Sequence[Batch], device: torch.device, train: TrainConfig) -> str:
    """Name the first tensor that is not finite when batches are computed again, in eager mode and without an update.

    Looks at the weights, then at the modules' outputs in the order they are computed, then at the gradients.
    """
    for name, p in model.named_parameters():
        if not _finite(p):
            return f"the weight {name}"
    products.use("torch")  # with cuBLASLt's an MLP is one operator, which nobody sees into
    found: list[str] = []

    def watch(name: str, module: nn.Module) -> torch.utils.hooks.RemovableHandle:
        def look(module: nn.Module, args: object, output: object) -> None:
            if not found and isinstance(output, Tensor) and not _finite(output):
                found.append(f"the output of {name}")

        return module.register_forward_hook(look)

    handles = [watch(name, module) for name, module in model.named_modules() if name]
    try:
        model.zero_grad(set_to_none=True)
        for x, y in micro_batches:
            with autocast(device, train.dtype):
                _, loss = model(x, y, keep_logits=not train.fused_loss)
            if found:
                return found[0]
            if not _finite(loss):
                return "the loss"
            loss.backward()
    finally:
        for handle in handles:
            handle.remove()
    for name, p in model.named_parameters():
        if p.grad is not None and not _finite(p.grad):
            return f"the gradient of {name}"
    return NOWHERE


def _finite(tensor: Tensor) -> bool:
    return bool(tensor.isfinite().all())
