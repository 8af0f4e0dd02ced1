"""The device a run trains on: which one, its precision, its clock, its memory and its peak."""

from __future__ import annotations

import contextlib
import ctypes
import os
import platform
import re
import resource
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
import torch

from gpt2.base.errors import UserError

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}

# Dense bfloat16 peak, FLOP/s, from the vendors' data sheets; the first pattern found in the device's name counts.
# A device that is not here has no MFU rather than a wrong one.
_PEAK_FLOPS = (
    (r"\bH100 PCIe", 756e12),
    (r"\bH100 NVL", 835e12),
    (r"\b(H100|H200|H800|GH200)\b", 989e12),
    (r"\bB200\b", 2250e12),
    (r"\b(A100|A800)\b", 312e12),
    (r"\bA10G\b", 70e12),
    (r"\bA10\b", 125e12),
    (r"\bA40\b", 150e12),
    (r"\bL40S\b", 362e12),
    (r"\bL4\b", 121e12),
    (r"\bRTX 4090\b", 165e12),
    (r"\bRTX 3090\b", 71e12),
    (r"\bMI300X\b", 1307e12),
    (r"\bMI250X?\b", 383e12),
)


def select_device(name: str) -> torch.device:
    """The device named "cuda", "mps" or "cpu", or the best there is for "auto". UserError if it is not there."""
    available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if name == "auto":
        name = next(n for n, there in available.items() if there)
    if not available[name]:
        there = ", ".join(n for n, there in available.items() if there)
        raise UserError(f"DEVICE_{name.upper()}=y: torch {torch.__version__} finds no such device, only {there}")
    # With its index: some of torch's functions want one.
    return torch.device("cuda", torch.cuda.current_device()) if name == "cuda" else torch.device(name)


def keep_freed_memory() -> None:
    """Have the C library keep freed memory of this process for what is allocated next, where it is glibc.

    It gives large blocks back to the system otherwise, which hands them out again, filled with zeros, a moment later.
    """
    if platform.libc_ver()[0] != "glibc":
        return
    trim_threshold, mmap_threshold = -1, -3  # of malloc.h
    libc = ctypes.CDLL(None)
    libc.mallopt(trim_threshold, 2**30)
    libc.mallopt(mmap_threshold, 32 * 2**20)  # the most that it takes


def set_precision(tf32: bool) -> None:
    """Allow TF32 in float32 matrix products and convolutions, or forbid it."""
    torch.set_float32_matmul_precision("high" if tf32 else "highest")
    torch.backends.cudnn.allow_tf32 = tf32


def autocast(device: torch.device, dtype: str) -> AbstractContextManager[Any]:
    """A fresh autocast context for a dtype name of TrainConfig; for float32 one that does nothing."""
    if dtype == "float32":
        return contextlib.nullcontext()
    return torch.autocast(device.type, DTYPES[dtype])


def autocast_dtype(x: torch.Tensor) -> torch.dtype | None:
    """The precision that autocast, here and now, gives a matrix product of x; None where it leaves it as it is."""
    device_type = x.device.type
    if x.dtype == torch.float64 or not torch.is_autocast_enabled(device_type):
        return None
    return torch.get_autocast_dtype(device_type)


def slow_precision(device: torch.device, dtype: str) -> str | None:
    """Why products in a dtype of TrainConfig are slow on a device, and what to set instead; None where they are not.

    On a CPU they are oneDNN's where it has some: bfloat16 with AVX-512 or AMX (or Arm's BF16), float16 with AMX-FP16.
    Elsewhere torch has loops of its own. On two cores without AVX-512: 92 GFLOP/s in float32, 0.7 in bfloat16.
    """
    if device.type != "cpu" or dtype == "float32":
        return None
    mkldnn = torch.ops.mkldnn
    is_fast = {"bfloat16": mkldnn._is_mkldnn_bf16_supported, "float16": mkldnn._is_mkldnn_fp16_supported}[dtype]
    if torch.backends.mkldnn.is_available() and is_fast():
        return None
    return (
        f"DTYPE_{dtype.upper()}=y: this processor ({_cpu_name()}) has no instructions for {dtype} products that torch "
        "could use, and without them they take about a hundred times as long as float32's; DTYPE_FLOAT32=y fits it"
    )


@contextlib.contextmanager
def within_free_memory(device: torch.device) -> Iterator[None]:
    """Let this process allocate no more than what is free on the device now, less a twentieth: others are there too."""
    if device.type != "cuda":
        yield
        return
    free, total = torch.cuda.mem_get_info(device)
    limit = (free + torch.cuda.memory_reserved(device)) / total - 0.05
    torch.cuda.set_per_process_memory_fraction(max(0.0, limit), device)
    try:
        yield
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0, device)


def synchronize(device: torch.device) -> None:
    """Wait for the work queued on the device."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def peak_memory_gib(device: torch.device) -> float:
    """Most memory held so far: by CUDA's allocator, by the Metal driver, or (CPU) resident in the process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    if device.type == "mps":
        return torch.mps.driver_allocated_memory() / 2**30
    # ru_maxrss is in KiB on Linux and in bytes on macOS.
    unit = 1 if sys.platform == "darwin" else 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30


def device_name(device: torch.device) -> str:
    """What the device calls itself."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else _cpu_name()


def peak_flops(device: torch.device) -> float | None:
    """Dense bfloat16 peak of the device in FLOP/s, None if not known. MFU is relative to it whatever the dtype."""
    if device.type != "cuda":
        return None
    name = device_name(device)
    return next((peak for pattern, peak in _PEAK_FLOPS if re.search(pattern, name)), None)


def hardware(device: torch.device) -> dict[str, Any]:
    """What numbers were measured on, for provenance.json."""
    return {
        "device": device.type,
        "device_name": device_name(device),
        "cpu": _cpu_name(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "driver": _nvidia_driver() if device.type == "cuda" else None,
    }


def versions() -> dict[str, str | None]:
    """Versions that numbers depend on, for provenance.json."""
    try:
        import triton
    except ImportError:
        triton = None
    cudnn = torch.backends.cudnn.version() if torch.backends.cudnn.is_available() else None
    return {
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "numpy": np.__version__,
        "cuda": torch.version.cuda,
        "cudnn": None if cudnn is None else str(cudnn),
        "triton": None if triton is None else triton.__version__,
    }


def _cpu_name() -> str:
    try:
        with open("/proc/cpuinfo") as file:
            for line in file:
                if line.startswith("model name"):
                    return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _nvidia_driver() -> str | None:
    try:
        with open("/proc/driver/nvidia/version") as file:
            found = re.search(r"\b\d{3,}\.\d+(\.\d+)?\b", file.read())
    except OSError:
        return None
    return found.group() if found else None
