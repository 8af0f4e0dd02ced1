"""AdamW in three groups, and the learning-rate schedule."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from gpt2.config import OptimizerConfig


def gate_names(model: nn.Module) -> set[str]:
    """Full names of the parameters that their modules declare as per-head gates (`GATES`)."""
    return {
        f"{prefix}.{name}" if prefix else name
        for prefix, module in model.named_modules()
        for name in getattr(module, "GATES", ())
    }


def make_optimizer(
    model: nn.Module, config: OptimizerConfig, device_type: str, *, kind: Callable[..., Any] = torch.optim.AdamW
) -> Any:
    """AdamW with weight decay on matrices only, and gates in a group of their own with its own learning rate.

    Each group carries `lr_mult`, which `set_lr` multiplies the schedule's learning rate with. `kind` is called as
    AdamW is.
    """
    gates = gate_names(model)
    groups: dict[str, list[nn.Parameter]] = {"matrices": [], "vectors": [], "gates": []}
    for name, p in model.named_parameters():
        if p.requires_grad:
            groups["gates" if name in gates else "matrices" if p.dim() >= 2 else "vectors"].append(p)
    decay = {"matrices": config.weight_decay}
    lr_mult = {"gates": config.gate_lr_mult}
    return kind(
        [
            {"params": params, "name": name, "weight_decay": decay.get(name, 0.0), "lr_mult": lr_mult.get(name, 1.0)}
            for name, params in groups.items()
            if params
        ],
        lr=config.learning_rate,
        betas=(config.beta1, config.beta2),
        # One kernel over all parameters, where the device has it; the arithmetic is the same.
        fused=device_type in ("cuda", "cpu", "mps"),
    )


def learning_rate(step: int, max_iters: int, config: OptimizerConfig) -> float:
    """Learning rate of optimizer step `step`, counted from 0: linear warm-up, then a cosine to `min_lr`.

    The last step, max_iters - 1, has `min_lr` exactly: the schedule ends where the run ends. Step 0 already has a rate
    above 0. If the warm-up is as long as the run, the run is all warm-up.
    """
    if step < config.warmup_iters:
        return config.learning_rate * (step + 1) / (config.warmup_iters + 1)
    if not config.decay_lr:
        return config.learning_rate
    decay_steps = max_iters - 1 - config.warmup_iters
    progress = (step - config.warmup_iters) / decay_steps if decay_steps > 0 else 1.0
    return config.min_lr + 0.5 * (1 + math.cos(math.pi * progress)) * (config.learning_rate - config.min_lr)


def set_lr(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Give every group the schedule's learning rate times its own multiple."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group["lr_mult"]
