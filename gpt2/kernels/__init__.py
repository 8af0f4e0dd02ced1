"""Triton kernels for what PyTorch's own operations and torch.compile leave slow, each with its plain-torch twin.

The twin says what a kernel computes, and runs wherever there is no CUDA device or no Triton. Modules with kernels need
Triton to be imported: ask HAS_TRITON before. docs/performance.md says what each one gains.
"""

from __future__ import annotations

import importlib

import torch


def _has_triton() -> bool:
    """Whether there is a Triton that works. One of the kernels asks for more warps than a program has on AMD's GPUs."""
    try:
        importlib.import_module("triton.language")
    except ImportError:
        return False
    return torch.version.hip is None


HAS_TRITON = _has_triton()


def usable(device: torch.device) -> bool:
    """Whether kernels run on `device`."""
    return HAS_TRITON and device.type == "cuda"
