"""What the loss of a language model costs: from the last hidden states to the gradients of these and of the head.

Each way computes the mean cross-entropy of x W^T and its gradients. "logits whole" is what nanoGPT and transformers do,
"by chunks" is `gpt2.loss.linear_cross_entropy`, which our trainer takes, and torch's own is
`torch.nn.functional.linear_cross_entropy`, from torch 2.13 on, whole and with its choice of chunks. They take turns,
and the first stands there twice: what the two differ by is noise. `scripts/benchmark_loss.py` is the command.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gpt2.base.progress import Progress, silent
from gpt2.loss import at_least_float32, linear_cross_entropy
from gpt2.machine.device import DTYPES, autocast
from harness.measure.timing import Times, calls_lasting, round_robin, wall_ms

_SAMPLE_MS = 50.0
"""Calls are repeated within a sample for about so long."""

_MAX_ERROR = {"float32": 1e-5, "bfloat16": 0.02, "float16": 0.02}
"""The ways compute one function, up to rounding: relative distance of the gradients from those of whole logits."""


@dataclass(frozen=True, kw_only=True)
class Head:
    """The last layer's shape and precision."""

    tokens: int = 32 * 1024
    n_embd: int = 768
    vocab_size: int = 50304
    dtype: str = "bfloat16"
    """Of autocast and of the hidden states; the weights are float32, as in training."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One way. Times are of forward and backward together."""

    way: str
    wall: Times
    ratio: float
    """Wall time over that of our chunks: ratio of medians."""

    peak_mem_gib: float | None
    """Of the device's allocator, beyond what is there before; None where there is none."""


Way = Callable[[Tensor, Tensor, Tensor], Tensor]
"""Mean loss of hidden states [N, C], the head's weight [V, C] and targets [N]."""


def _whole(x: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy(at_least_float32(F.linear(x, weight)), targets)


def ways_here() -> dict[str, Way]:
    """What can be timed with this torch, by name; our own first."""
    found: dict[str, Way] = {
        "by chunks": linear_cross_entropy,
        "by chunks, again": linear_cross_entropy,
        "logits whole": _whole,
    }
    if theirs := getattr(F, "linear_cross_entropy", None):
        options = nn.LinearCrossEntropyOptions()
        found |= {"torch's": theirs, "torch's, by chunks": partial(theirs, options=options)}
    return found


def benchmark_loss(device: torch.device, head: Head, *, repeats: int, report: Progress = silent) -> list[Row]:
    """Time each way, in turns. RuntimeError where one computes something else."""
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(head.tokens, head.n_embd, generator=generator).to(device, DTYPES[head.dtype])
    weight = (0.02 * torch.randn(head.vocab_size, head.n_embd, generator=generator)).to(device)
    targets = torch.randint(head.vocab_size, (head.tokens,), generator=generator).to(device)
    x.requires_grad_()
    weight.requires_grad_()

    def gradients(way: Way) -> tuple[Tensor, ...]:
        with autocast(device, head.dtype):
            loss = way(x, weight, targets)
        return torch.autograd.grad(loss, [x, weight])

    expected = [gradient.float() for gradient in gradients(_whole)]
    memory: dict[str, float | None] = {}
    for name, way in ways_here().items():
        before = _allocated(device, reset=True)
        found = gradients(way)
        memory[name] = None if before is None else ((_allocated(device) or 0) - before) / 2**30
        for ours, theirs in zip(found, expected, strict=True):
            error = ((ours.float() - theirs).norm() / theirs.norm()).item()
            if not error < _MAX_ERROR[head.dtype]:
                raise RuntimeError(f"{name}: a gradient differs from that of whole logits by {error:.2g}, relatively")
        del found
    del expected
    calls = {name: partial(gradients, way) for name, way in ways_here().items()}
    measures = {
        name: partial(wall_ms, call, calls_lasting(_SAMPLE_MS, call, device), device) for name, call in calls.items()
    }
    times = {name: Times.of(samples) for name, samples in round_robin(measures, repeats, report).items()}
    first = next(iter(times.values())).median
    return [Row(way=name, wall=of, ratio=of.median / first, peak_mem_gib=memory[name]) for name, of in times.items()]


def _allocated(device: torch.device, *, reset: bool = False) -> int | None:
    """The most that a CUDA device had allocated since the last reset, in bytes; None elsewhere."""
    if device.type != "cuda":
        return None
    if reset:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
    return torch.cuda.max_memory_allocated(device)
