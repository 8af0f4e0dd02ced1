"""Who makes the matrix products of linear layers: PyTorch, or cuBLASLt with more of what it has. Asked for by name.

    ran = request("auto", device, dtype)

What cuBLASLt's do, and gain, is in gpt2/kernels/cublaslt.py and docs/performance.md.
"""

from __future__ import annotations

import importlib.util

import torch
from torch import Tensor

from gpt2.base.errors import UserError
from gpt2.machine.device import autocast_dtype

AUTO = "auto"
NAMES = (AUTO, "torch", "cublaslt")
"""PRODUCTS_* in lower case."""

_HALF = (torch.bfloat16, torch.float16)
_MULTIPLE = 8
"""Tensor cores take 16 bytes at a time."""

_by_cublaslt = False
"""What was asked for in this process."""


def request(products: str, device: torch.device, dtype: str) -> str:
    """From now on, have this process take `products`, one of NAMES. Returns whose it takes: "torch" or "cublaslt".

    "auto" is cuBLASLt where it can be had. Raises UserError where it was named and cannot.
    """
    missing = _missing(device, dtype)
    if products == "cublaslt" and missing:
        raise UserError(f"PRODUCTS_CUBLASLT=y: {missing}. PRODUCTS_AUTO=y takes PyTorch's products then")
    ran = "torch" if products == "torch" or missing else "cublaslt"
    use(ran)
    return ran


def use(ran: str) -> None:
    """From now on, have this process take those that `request` returned, of another model that it has."""
    global _by_cublaslt
    _by_cublaslt = ran == "cublaslt"


def by_cublaslt(x: Tensor, *weights: Tensor) -> bool:
    """Whether products of x [..., K] with these weights, one after the other, are to be cuBLASLt's here.

    That is so in training alone: each shape is tuned when it is first met, and a generation meets many.
    """
    if not (_by_cublaslt and x.is_cuda and torch.is_grad_enabled()):
        return False
    if (autocast_dtype(x) or x.dtype) not in _HALF:
        return False
    return all(n % _MULTIPLE == 0 for n in (x.numel() // x.size(-1), *(n for w in weights for n in w.shape)))


def _missing(device: torch.device, dtype: str) -> str | None:
    """Why cuBLASLt's products cannot be had."""
    if device.type != "cuda" or torch.version.hip:
        return f"{device.type if device.type != 'cuda' else 'ROCm'} has no cuBLASLt"
    if dtype == "float32":
        return "they are of half precision, and DTYPE_FLOAT32=y"
    if torch.cuda.get_device_capability(device) < (8, 0):
        return "they need a GPU of NVIDIA's Ampere generation or later"
    if importlib.util.find_spec("nvmath") is None:
        return "nvmath-python is not installed (extra `cuda` of pyproject.toml)"
    return None
