"""The summary of a run: how it ended, and its numbers."""

from __future__ import annotations

import math
import statistics
from typing import Any

from gpt2.machine.device import peak_memory_gib
from gpt2.run.evaluation import tail_mean, tail_steps
from gpt2.run.parts import Parts
from gpt2.run.progress import Progress
from gpt2.run.records import timed


def speed(parts: Parts, ms: float) -> dict[str, float | None]:
    """tokens/s, and MFU where the device's peak is known, of steps that take so many ms."""
    tokens_per_s = 1000 * parts.config.tokens_per_iter / ms
    mfu = None if parts.peak_flops is None else tokens_per_s * parts.flops_per_token / parts.peak_flops
    return {"tokens_per_s": tokens_per_s, "mfu": mfu}


def numbers(parts: Parts, progress: Progress) -> dict[str, Any]:
    """The numbers of summary.json, as far as there are any: the others are None."""
    t = parts.config.train
    laps, is_clean = timed(progress.laps, progress.shared)
    ms = statistics.median(laps) if laps else None
    quartiles = statistics.quantiles(laps, n=4) if len(laps) > 1 else None
    return {
        "iters": progress.step,
        "tokens": progress.step * parts.config.tokens_per_iter,
        **last_evaluation(parts, progress),
        **({"val_loss_tail": tail_mean(progress.tail, tail_steps(t.max_iters, t.eval_tail))} if t.eval_tail else {}),
        "train_loss": progress.train_loss,
        "ms_per_step": ms,
        "ms_per_step_iqr": quartiles[2] - quartiles[0] if quartiles else None if ms is None else 0.0,
        "timed": {"lines": len(progress.laps), "shared": sum(progress.shared), "clean": is_clean},
        **({"tokens_per_s": None, "mfu": None} if ms is None else speed(parts, ms)),
        "peak_mem_gib": parts.ranks.largest(peak_memory_gib(parts.device)),
        "train_time_s": progress.clock.total_s,
        "eval_time_s": progress.eval_clock.total_s,
        "checkpoint_time_s": progress.save_clock.total_s,
        "params": parts.model.num_params(),
        "flops_per_token": parts.flops_per_token,
        "overflows": progress.overflows,
        "gates": parts.gates(),
    }


def last_evaluation(parts: Parts, progress: Progress) -> dict[str, Any]:
    """What the last evaluation has found, as lines of metrics.jsonl and summary.json have it."""

    def both(name: str, loss: float | None) -> dict[str, float | None]:
        return {f"{name}_loss": loss, f"{name}_bpb": None if loss is None else parts.eval_set.bits_per_byte(loss)}

    average = {} if parts.average is None else both("ema_val", progress.ema_val_loss)
    others = {"val_losses": progress.val_losses} if parts.eval_sets else {}
    return both("val", progress.val_loss) | average | others


def why_not_done(progress: Progress, of: dict[str, Any]) -> str | None:
    """Why a run that has taken its last step has not trained a model all the same; None where it has.

    `of`: its `numbers`. Whatever a summary states that says "done" is a finite number.
    """
    if progress.overflows == progress.step:
        return f"gradient scaling skipped every one of {progress.step} steps: nothing has been learned"
    missing = [name for name in ("val_loss", "train_loss") if of[name] is None]
    wrong = [*missing, *(name for name, value in of.items() if not _finite(value))]
    return f"{', '.join(wrong)}: not a finite number at the end" if wrong else None


def _finite(value: Any) -> bool:
    """Whether every number in `value`, at any depth, is finite."""
    if isinstance(value, dict):
        return all(map(_finite, value.values()))
    if isinstance(value, list):
        return all(map(_finite, value))
    return not isinstance(value, float) or math.isfinite(value)
