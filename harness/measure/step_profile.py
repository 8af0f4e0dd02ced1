"""Where a training step's time goes on a GPU: the time of its kernels, added up by what they do."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable

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

_STEPS = 3


def kernel_ms(step: Callable[[], object]) -> dict[str, float]:
    """Kind -> ms of kernels in one call of `step`, as the mean of a few. CUDA alone."""
    torch.cuda.synchronize()
    with profile(activities=[ProfilerActivity.CUDA], acc_events=True) as prof:
        for _ in range(_STEPS):
            step()
        torch.cuda.synchronize()
    total: dict[str, float] = defaultdict(float)
    for e in prof.key_averages():
        if e.device_type == DeviceType.CUDA and not e.is_user_annotation:
            total[kind_of(e.key)] += e.self_device_time_total / 1000 / _STEPS
    return {kind: total[kind] for kind in [*KINDS, "other"]}


def kind_of(kernel: str) -> str:
    """The kind of a kernel, by its name."""
    return next((kind for kind, pattern in KINDS.items() if re.search(pattern, kernel.lower())), "other")
