"""Triton kernels for what PyTorch's own operations and torch.compile leave slow, each with its plain-torch twin.

The twin says what a kernel computes, and runs wherever there is no CUDA device or no Triton. Modules with kernels need
Triton to be imported: ask HAS_TRITON before. docs/performance.md says what each one gains.
"""

from __future__ import annotations

import importlib.util

import torch

HAS_TRITON = importlib.util.find_spec("triton") is not None


def usable(device: torch.device) -> bool:
    """Whether kernels run on `device`."""
    return HAS_TRITON and device.type == "cuda"
