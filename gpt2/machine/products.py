"""Who makes the matrix products of linear layers: PyTorch, or cuBLASLt with more of what it has. Asked for by name.

    ran = request("auto", device, dtype)

What cuBLASLt's do is in gpt2/kernels/cublaslt.py, and what they gain in docs/performance.md.
"""

from __future__ import annotations

import importlib

import torch
from torch import Tensor

from gpt2.base.errors import UserError, one_line
from gpt2.machine.device import autocast_dtype

AUTO = "auto"
NAMES = (AUTO, "torch", "cublaslt")
"""PRODUCTS_* in lower case."""

_HALF = (torch.bfloat16, torch.float16)
_MULTIPLE = 8
"""Tensor cores take 16 bytes at a time."""
_WORTH = 2**35
"""Multiplications in a product of the MLP, N C 4C, from which on "auto" takes cuBLASLt's: where they are few the host,
which an operator of ours takes four times as long as one of torch's, is behind the device."""

_by_cublaslt = False
"""What was asked for in this process."""


def request(
    products: str, device: torch.device, dtype: str, *, tokens: int | None = None, n_embd: int | None = None
) -> str:
    """From now on, have this process take `products`, one of NAMES. Returns whose it takes: "torch" or "cublaslt".

    `tokens` are those of a micro-batch, `n_embd` the model's width, if they are known. "auto" is cuBLASLt where it can
    be had and the model is large enough to gain. Raises UserError where it was named and cannot be had.
    """
    missing = "" if products == "torch" else _missing(device, dtype) or _unfit(tokens, n_embd)
    if products == "cublaslt" and missing:
        raise UserError(f"PRODUCTS_CUBLASLT=y: {missing}. PRODUCTS_AUTO=y takes PyTorch's products then")
    small = products == AUTO and tokens is not None and n_embd is not None and 4 * tokens * n_embd**2 < _WORTH
    ran = "torch" if products == "torch" or missing or small else "cublaslt"
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
    sizes = [x.numel() // max(1, x.size(-1)), *(n for w in weights for n in w.shape)]
    return all(n > 0 and n % _MULTIPLE == 0 for n in sizes)


def _missing(device: torch.device, dtype: str) -> str:
    """Why cuBLASLt's products cannot be had; "" if they can."""
    if device.type != "cuda" or torch.version.hip:
        return f"{device.type if device.type != 'cuda' else 'ROCm'} has no cuBLASLt"
    if dtype == "float32":
        return "they are of half precision, and DTYPE_FLOAT32=y"
    if torch.cuda.get_device_capability(device) < (8, 0):
        return "they need a GPU of NVIDIA's Ampere generation or later"
    return _not_loaded()


def _not_loaded() -> str:
    """Why NVIDIA's bindings cannot be loaded, or do not find the library; "" if they do."""
    try:
        lt = importlib.import_module("nvmath.bindings.cublasLt")
        lt.destroy(lt.create())
    except ModuleNotFoundError:
        return "nvmath-python is not installed (extra `cuda` of pyproject.toml)"
    except Exception as error:  # of their own kinds
        return f"nvmath-python does not work here: {one_line(error)}"
    return ""


def _unfit(tokens: int | None, n_embd: int | None) -> str:
    """Why they cannot be had for a model's shapes; "" if they can."""
    for symbols, size in (("BATCH_SIZE * BLOCK_SIZE", tokens), ("N_EMBD", n_embd)):
        if size is not None and size % _MULTIPLE:
            return f"{symbols} = {size} is not a multiple of {_MULTIPLE}"
    return ""
