"""Triton kernels for what PyTorch's own operations and torch.compile leave slow, each with its plain-torch twin.

The twin says what a kernel computes, and runs wherever there is no CUDA device or no Triton. Modules with kernels need
Triton to be imported: ask HAS_TRITON before. docs/performance.md says what each one gains.
"""

from __future__ import annotations

import torch

try:
    import triton.language
except ImportError:
    HAS_TRITON = False
else:
    # The kernels ask for more warps than AMD's GPUs have in a program.
    HAS_TRITON = torch.version.hip is None and triton.language is not None


def usable(device: torch.device) -> bool:
    """Whether kernels run on `device`."""
    return HAS_TRITON and device.type == "cuda"
