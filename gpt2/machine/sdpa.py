"""Which kernel computes scaled_dot_product_attention: asked for, and looked up, as torch's own choice changes with its
version.

    request("auto", device, dtype)
    print(kernels_of(model, device, dtype, kernel="auto"))

On Hopper cuDNN's is twice as fast as flash's (docs/performance.md), so that a cost means little without it.
"""

from __future__ import annotations

import contextlib
import re
import warnings
from collections.abc import Callable, Collection
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode
from torch.profiler import ProfilerActivity, profile

from gpt2.base.errors import UserError, one_line
from gpt2.config import GPTConfig
from gpt2.machine.device import autocast

KERNELS = {
    "cudnn": SDPBackend.CUDNN_ATTENTION,
    "flash": SDPBackend.FLASH_ATTENTION,
    "efficient": SDPBackend.EFFICIENT_ATTENTION,
    "math": SDPBackend.MATH,
}
"""SDPA_KERNEL_* in lower case."""

AUTO = "auto"

_OF_DEVICE = {"cuda": (AUTO, *KERNELS), "cpu": (AUTO, "flash", "math")}

CALL = re.compile(r"aten::_scaled_dot_product_(?:(\w+?)_attention(?:_for_cpu)?|attention_(math)(?:_for_mps)?)")
"""What a profiler calls a call of one of KERNELS: eager mode makes it for scaled_dot_product_attention, compiled code
by itself."""

_requested = contextlib.ExitStack()
"""Left, torch has its own choice again."""


class HasAttention(Protocol):
    """A model whose layers' attention, [B, T, C] -> [B, T, C] each, can be called by itself."""

    config: GPTConfig

    @property
    def attention(self) -> list[nn.Module]:
        """The attention module of each layer."""


def request(kernel: str, device: torch.device, dtype: str) -> None:
    """From now on, have this process compute attention by `kernel`, or by the first of its `order` that can.

    Raises UserError where the device has no such kernel.
    """
    there = _OF_DEVICE.get(device.type, (AUTO,))
    if kernel not in there:
        takes = ", ".join(f"SDPA_KERNEL_{name.upper()}" for name in there)
        raise UserError(f"SDPA_KERNEL_{kernel.upper()}=y: is no kernel of {device.type}, which takes one of {takes}")
    _requested.close()
    if names := order(kernel, device, dtype):
        _requested.enter_context(sdpa_kernel([KERNELS[name] for name in names], set_priority=True))


def order(kernel: str, device: torch.device, dtype: str) -> tuple[str, ...]:
    """Which kernels `kernel` stands for, the one that is wanted first; none where the choice is left to torch.

    "auto": cuDNN's before flash's from Hopper on, after it on GPUs before. Neither of them takes float32.
    """
    if kernel != AUTO:
        return (kernel,)
    if device.type != "cuda" or torch.version.hip:
        return ()
    if dtype == "float32":
        return ("efficient", "math")
    is_hopper = torch.cuda.get_device_capability(device) >= (9, 0)
    return (*(("cudnn", "flash") if is_hopper else ("flash", "cudnn")), "efficient", "math")


def kernels_of(model: HasAttention, device: torch.device, dtype: str, *, kernel: str) -> str | None:
    """Which of KERNELS compute the attention of a model's layers, as `request` has it: "cudnn", or "flash, math".

    Each layer is called on one sequence of zeros, once in training and once in evaluation. None on devices that do not
    tell. Raises UserError where the one `kernel` that was asked for cannot compute them.
    """
    if device.type not in ("cpu", "cuda"):
        return None
    # A CPU asks for no length, and may be slow in this precision.
    T = model.config.block_size if device.type == "cuda" else min(model.config.block_size, 8)
    x = torch.zeros(1, T, model.config.n_embd, device=device)
    names: set[str] = set()
    watched = Watched(lambda *args, **kwargs: names.add(_chosen(kernel, *args, **kwargs)))
    for layer in model.attention:
        was_training = layer.training
        for training in (True, False):
            layer.train(training)
            with watched, torch.set_grad_enabled(training), autocast(device, dtype):
                layer(x)
        layer.train(was_training)
    return _listed(names)


def called(run: Callable[[], object]) -> str | None:
    """Which of KERNELS one call of `run` calls, by the profiler.

    None where there is no call: CUDA graphs are replayed without, and compiled code has no "math" but its products.
    """
    with profile(activities=[ProfilerActivity.CPU]) as profiled:
        run()
    found = [CALL.fullmatch(event.key) for event in profiled.key_averages()]
    return _listed({match[1] or match[2] for match in found if match})


def _listed(names: Collection[str]) -> str | None:
    return ", ".join(name for name in KERNELS if name in names) or None


def differs(kernel: str, ran: str | None, device: torch.device, dtype: str) -> str | None:
    """What to say where attention is computed by another kernel than the first that is wanted; else None."""
    wanted = order(kernel, device, dtype)[:1]
    if ran is None or not wanted or ran == wanted[0]:
        return None
    return f"attention is computed by {ran}: {wanted[0]}, which SDPA_KERNEL_AUTO asks for first, cannot compute it all"


class Watched(TorchFunctionMode):
    """In its block, each call of scaled_dot_product_attention has its arguments told to `note` first."""

    def __init__(self, note: Callable[..., object]) -> None:
        super().__init__()
        self._note = note

    def __torch_function__(self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is F.scaled_dot_product_attention:
            self._note(*args, **kwargs or {})
        return func(*args, **kwargs or {})


def _chosen(
    kernel: str,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    **options: Any,
) -> str:
    """Which of KERNELS scaled_dot_product_attention, whose arguments these are, chooses where `kernel` was asked for.

    Raises UserError where none can.
    """
    tensors = (query, key, value)
    device = query.device.type
    if torch.is_autocast_enabled(device):  # which casts them where it is called
        tensors = tuple(t.to(torch.get_autocast_dtype(device)) for t in tensors)  # type: ignore[assignment]
    with warnings.catch_warnings(record=True) as why:
        warnings.simplefilter("always")
        try:
            chosen = torch._fused_sdp_choice(*tensors, attn_mask, dropout_p, is_causal, **options)
        except RuntimeError as error:
            raise UserError(f"SDPA_KERNEL_{kernel.upper()}=y: {_reason(why, error)}") from None
    return next(name for name, backend in KERNELS.items() if backend == SDPBackend(chosen))


def _reason(why: list[warnings.WarningMessage], error: RuntimeError) -> str:
    """Why no kernel can compute the attention that was called, from torch's warnings."""
    lines = [str(of.message).split(" (Triggered internally")[0].strip().rstrip(".") for of in why]
    reasons = "; ".join(dict.fromkeys(line for line in lines if not line.endswith("because:"))) or one_line(error)
    return f"it cannot compute this run's attention: {reasons}. SDPA_KERNEL_AUTO=y takes one that can"
