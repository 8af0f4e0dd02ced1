"""What an evaluation finds, and when there is one. Needs no torch: who reads a run's lines asks for the same steps."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from gpt2.config import TrainConfig

TAIL = 20
"""EVAL_TAIL's evaluations are in the last 1 / TAIL of a run."""


@dataclass(frozen=True, kw_only=True)
class Losses:
    """Mean losses of one evaluation, in nats per target."""

    val_loss: float
    """Of the weights, on the validation tokens."""

    ema_val_loss: float | None = None
    """Of the average of weights, on the same; None where there is none."""

    val_losses: Mapping[str, float] = field(default_factory=dict)
    """Of the weights, on each of EVAL_DATASETS by its name."""


def is_due(step: int, train: TrainConfig) -> bool:
    """Whether the model is evaluated when so many steps are taken."""
    is_in_tail = step in tail_steps(train.max_iters, train.eval_tail)
    return step % train.eval_interval == 0 or step == train.max_iters or is_in_tail


def due_steps(max_iters: int, eval_interval: int, eval_tail: int) -> set[int]:
    """All steps at which a run is evaluated."""
    return {*range(0, max_iters, eval_interval), *tail_steps(max_iters, eval_tail), max_iters}


def tail_steps(max_iters: int, eval_tail: int) -> range:
    """The steps of the last `eval_tail` evaluations: evenly spaced over the last twentieth, up to the last step.

    A run too short for that has them after each of its last steps, as far as there are steps.
    """
    n = min(eval_tail, max_iters)
    spacing = max(1, max_iters // (TAIL * max(1, n)))
    return range(max_iters - (n - 1) * spacing, max_iters + 1, spacing) if n else range(0)


def tail_mean(losses: Sequence[float], steps: range) -> float | None:
    """The mean over the evaluations after `steps`, the tail's; None before all of them have been made."""
    return statistics.fmean(losses) if losses and len(losses) == len(steps) else None
