"""Compiling what is to be compiled, and running every kernel once, so that no step is timed with either."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import torch

from gpt2.base.errors import one_line
from gpt2.data.batches import Batch
from gpt2.machine.compilation import compile_attempts, uncompile
from gpt2.machine.device import autocast, synchronize
from gpt2.run.parts import Parts


def compile_and_warm_up(parts: Parts, differs: Callable[[str, str], None]) -> None:
    """Compile as the run's settings ask for, or as near to it as works; `differs` is told an event and what it was."""
    t = parts.config.train
    batch = next(parts.batches(0))[0]
    attempts = compile_attempts(t.compile, t.compile_mode)
    for this, after in itertools.zip_longest(attempts, attempts[1:]):
        parts.compile(*this)
        failure: Exception | None = None
        try:
            _warm_up(parts, batch)
        except Exception as error:
            if after is None or isinstance(error, torch.OutOfMemoryError):
                raise
            failure = error
        # What one rank cannot compile none does.
        reason = next(filter(None, parts.ranks.gather(failure and one_line(failure))), None)
        if reason is None or after is None:
            break
        uncompile(parts.model)
        torch.compiler.reset()
        instead = "running eager" if after[0] == "none" else f"compiling in mode {after[1]}"
        differs("compile_fallback", f"torch.compile failed, {instead}: {reason}")
    if parts.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()


def _warm_up(parts: Parts, batch: Batch) -> None:
    t = parts.config.train
    parts.model.train()
    parts.zero_grad()
    for _ in range(min(2, t.gradient_accumulation_steps)):
        parts.mark_pass()
        with parts.shared.in_vain():
            with autocast(parts.device, t.dtype):
                loss = parts.loss(*batch)
            loss.backward()
    parts.zero_grad()
    parts.model.eval()
    with torch.no_grad(), autocast(parts.device, t.dtype):
        parts.loss(*parts.eval_batches[0])
    parts.model.train()
    synchronize(parts.device)
