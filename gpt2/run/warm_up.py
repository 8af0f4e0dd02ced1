"""Compiling what is to be compiled, and running every kernel once, so that no step is timed with either."""

from __future__ import annotations

import gc
import itertools
from collections.abc import Callable
from contextlib import nullcontext

import torch
from torch import nn

from gpt2.base.errors import one_line
from gpt2.data.batches import Batch
from gpt2.machine.compilation import compile_attempts, uncompile
from gpt2.machine.device import autocast, synchronize, within_free_memory
from gpt2.machine.sharing import SharedDevice
from gpt2.run.parts import Parts
from gpt2.run.records import Event


def get_ready_beside(parts: Parts, share: SharedDevice, tell: Callable[[Event, str], None]) -> bool:
    """`compile_and_warm_up` beside whoever trains on the device. False where there is not the memory for both."""
    try:
        with share.beside(), nullcontext() if share.has_turn else within_free_memory(parts.device):
            compile_and_warm_up(parts, tell)
    except torch.OutOfMemoryError:
        if share.has_turn:
            raise
        uncompile(parts.model)
        torch.compiler.reset()
        parts.zero_grad()
        gc.collect()
        torch.cuda.empty_cache()
        return False
    return True


def compile_and_warm_up(parts: Parts, differs: Callable[[Event, str], None]) -> None:
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
    if parts.ranks.world_size == 1:  # several might wait for one that has failed before
        nn.utils.clip_grad_norm_(parts.parameters, 1.0)
        # A step that is skipped, as one that is not finite is: its kernel and the moments' memory are there then.
        parts.shared.stepping.found_inf = torch.ones((), device=parts.device)
        parts.optimizer.step()
        del parts.shared.stepping.found_inf
    parts.zero_grad()
    parts.model.eval()
    with torch.no_grad(), autocast(parts.device, t.dtype):
        parts.loss(*parts.eval_batches[0])
    parts.model.train()
    synchronize(parts.device)
