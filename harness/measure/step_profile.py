"""Where a training step's time goes on a GPU: to its kernels, added up by what they do, and to gaps between them."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

KINDS = {
    "attention": r"sdpa|flash|fmha|compute_dot_do_o|convert_dq",
    "matrix products": r"nvjet|gemm|cublas|cutlass",
    "fold": r"_fold_",
    "embedding": r"embedding",
    "loss": r"cross_entropy|log_softmax|logsoftmax|nll_loss",
    "GELU": r"gelu",
    "norms, residual": r"layer_?norm|rms_norm|gammabeta",
    "optimizer, clipping": r"multi_tensor_apply",
}
"""Kind -> what its kernels have in their names, upper or lower case; the first that fits counts. What fits none is
"other": casts, copies, sums for the gradients of biases. Compiled code names a kernel by all that is fused in it."""

_STEPS = 10


@dataclass(frozen=True)
class StepProfile:
    """Of one step, in ms."""

    kernels: dict[str, float]
    """By kind."""

    gaps: float
    """During which no kernel ran, from the first of a step to the first of the next."""


def profile_step(step: Callable[[], object]) -> StepProfile:
    """Profile a call of `step`, as the mean of a few in a row. CUDA alone."""
    torch.cuda.synchronize()
    with profile(activities=[ProfilerActivity.CUDA]) as prof:
        for _ in range(_STEPS):
            step()
        torch.cuda.synchronize()
    ran = [e for e in prof.events() if e.device_type == DeviceType.CUDA and not e.is_user_annotation]
    total: dict[str, float] = defaultdict(float)
    for e in ran:
        total[kind_of(e.name)] += e.time_range.elapsed_us() / 1000 / _STEPS
    kernels = {kind: total[kind] for kind in [*KINDS, "other"]}
    return StepProfile(kernels, gaps_in((e.time_range.start, e.time_range.end) for e in ran) / 1000 / _STEPS)


def gaps_in(intervals: Iterable[tuple[float, float]]) -> float:
    """What is in none of the intervals, (start, end) each, from the first start to the last end."""
    gaps, covered = 0.0, None
    for start, end in sorted(intervals):
        if covered is not None and start > covered:
            gaps += start - covered
        covered = end if covered is None else max(covered, end)
    return gaps


def kind_of(kernel: str) -> str:
    """The kind of a kernel, by its name."""
    return next((kind for kind, pattern in KINDS.items() if re.search(pattern, kernel.lower())), "other")
