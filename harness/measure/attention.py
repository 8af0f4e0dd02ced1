"""What one attention layer costs: the baseline and RA v5, eager and compiled, forward and with backward.

Weights are float32 and matrix products run under autocast, as in training. "forward" is eval mode without gradients;
"forward+backward" is train mode. RA v5 folds and casts its weights in every call, as the baseline casts its own. Inputs
rotate among several buffers, and the variants take turns. The baseline stands there twice: what the two differ by is
noise.
`scripts/benchmark_attention.py` is the command.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from gpt2.attention.baseline import CausalSelfAttention
from gpt2.attention.ra_ultimate_v5 import FOLDS, UltimateRAv5, fold_in_torch
from gpt2.attention.shared import causal_attention, merge_heads, split_heads
from gpt2.base.progress import Progress, part, silent
from gpt2.machine import products, sdpa
from gpt2.machine.compilation import compile_model
from gpt2.machine.device import DTYPES, autocast
from harness.measure.timing import Times, calls_lasting, capture, replay_ms, round_robin, wall_ms

MODES = ("forward", "forward+backward")
REFERENCE = "baseline"

_BUFFERS = 8
"""Inputs to rotate among: 100 MB at the smallest shape of interest, twice an H100's cache."""

_SAMPLE_MS = 10.0
"""Calls are repeated within a sample for about so long."""

_MAX_ERROR = 0.02
"""Variants compute one function, up to rounding to bfloat16: relative distance from the baseline's output."""


@dataclass(frozen=True, kw_only=True)
class Layer:
    """The layer's shape and precision."""

    n_head: int = 12
    head_dim: int = 64
    block_size: int = 1024
    R: int = 4
    dtype: str = "bfloat16"
    """Of autocast and of the input."""

    @property
    def n_embd(self) -> int:
        return self.n_head * self.head_dim


@dataclass(frozen=True, kw_only=True)
class Row:
    """One variant at one batch size in one mode. Times are per call."""

    variant: str
    compiled: bool
    batch_size: int
    mode: str
    """One of MODES."""

    wall: Times
    device: Times | None
    """By CUDA-graph replay; None on devices without."""

    sdpa: str | None
    """Which kernel computes its attention (gpt2/machine/sdpa.py)."""

    ratio: float
    """Device time (else wall time) over that of the baseline, both compiled or both eager: ratio of medians."""

    ratio_to_eager: float
    """The same over that of the eager baseline."""


class CopyingAttention(CausalSelfAttention):
    """The RA v5 plan's own baseline: q, k and v are copied so that each is contiguous, which SDPA does not need."""

    def forward(self, x: Tensor, cache: object = None) -> Tensor:
        q, k, v = (split_heads(t, self.n_head).contiguous() for t in self.qkv(x).chunk(3, dim=-1))
        y: Tensor = self.c_proj(merge_heads(causal_attention(q, k, v, scale=self.scale)))
        return y


class TorchFold(UltimateRAv5):
    """RA v5 without the fold's kernel: what torch makes of its operations."""

    def folded(self, dtype: torch.dtype | None = None) -> tuple[Tensor, Tensor | None]:
        weight, bias = self.c_attn.weight, self.c_attn.bias
        return fold_in_torch(FOLDS[self.fold], weight, bias, self.w_std, self.w_rec, self.R, dtype or weight.dtype)


def _baseline(layer: Layer) -> nn.Module:
    return CausalSelfAttention(layer.n_embd, layer.n_head)


def _copying(layer: Layer) -> nn.Module:
    return CopyingAttention(layer.n_embd, layer.n_head)


def _ra_v5(layer: Layer, fold: str, kind: type[UltimateRAv5] = UltimateRAv5) -> nn.Module:
    return kind(layer.n_embd, layer.n_head, layer.block_size, R=layer.R, fold=fold)


VARIANTS: dict[str, Callable[[Layer], nn.Module]] = {
    REFERENCE: _baseline,
    "baseline, again": _baseline,
    "baseline with copies": _copying,
    "RA v5 lerp": partial(_ra_v5, fold="lerp"),
    "RA v5 direct": partial(_ra_v5, fold="direct"),
    "RA v5 lerp, no kernel": partial(_ra_v5, fold="lerp", kind=TorchFold),
}
"""What is timed: one function of the same weights. "with copies" is the baseline as the RA v5 plan timed it."""


def benchmark_attention(
    device: torch.device,
    layer: Layer,
    batch_size: int,
    mode: str,
    *,
    compiled: bool,
    compile_mode: str = "default",
    repeats: int,
    report: Progress = silent,
) -> list[Row]:
    """Time every variant, eager and (with `compiled`) compiled, in turns."""
    sdpa.request(sdpa.AUTO, device, layer.dtype)
    products.request(products.AUTO, device, layer.dtype)
    # Compiled code is counted by the function it came from, and here every variant comes from a few.
    torch.compiler.reset()
    generator = torch.Generator().manual_seed(1)
    shape = (batch_size, layer.block_size, layer.n_embd)
    inputs = [torch.randn(shape, generator=generator).to(device, DTYPES[layer.dtype]) for _ in range(_BUFFERS)]
    weights = _baseline(layer).state_dict()
    passes: dict[tuple[str, bool], Callable[[], None]] = {}
    expected: Tensor | None = None
    for place, (name, make) in enumerate(VARIANTS.items()):
        for is_compiled in (False, True) if compiled else (False,):
            report(0.5 * place / len(VARIANTS), f"making {name}{', compiled' * is_compiled}")
            module = make(layer).to(device).train(mode != "forward")
            module.load_state_dict(weights, strict=False)
            if is_compiled:
                compile_model(module, mode=compile_mode)
            x = inputs[0].detach().requires_grad_(module.training)
            y = _forward(module, x, device, layer.dtype).detach().float()
            expected = y if expected is None else expected
            error = ((y - expected).norm() / expected.norm()).item()
            if not error < _MAX_ERROR:
                raise RuntimeError(f"{name}: output differs from the baseline's by {error:.2g}, relatively")
            passes[name, is_compiled] = _pass(module, inputs, device, layer.dtype)
    ran = {key: sdpa.called(one_pass) for key, one_pass in passes.items()}
    return _rows(_times(passes, device, repeats, part(report, 0.5, 1.0)), ran, batch_size, mode)


def _pass(module: nn.Module, inputs: list[Tensor], device: torch.device, dtype: str) -> Callable[[], None]:
    """A function that calls the layer on each of the inputs."""

    def forward() -> None:
        for x in inputs:
            _forward(module, x, device, dtype)

    def forward_backward() -> None:
        for x, dy in zip(inputs, reversed(inputs), strict=True):
            leaf = x.detach().requires_grad_()
            y = _forward(module, leaf, device, dtype)
            torch.autograd.grad(y, [leaf, *parameters], dy)

    parameters = list(module.parameters())
    return forward_backward if module.training else forward


def _forward(module: nn.Module, x: Tensor, device: torch.device, dtype: str) -> Tensor:
    with torch.set_grad_enabled(module.training), autocast(device, dtype):
        y: Tensor = module(x)
    return y


def _times(
    passes: dict[tuple[str, bool], Callable[[], None]], device: torch.device, repeats: int, report: Progress
) -> dict[tuple[str, bool], tuple[Times, Times | None]]:
    """Wall and device times per call of each variant."""
    measures: dict[tuple[tuple[str, bool], str], Callable[[], float]] = {}
    for key, one_pass in passes.items():
        n = calls_lasting(_SAMPLE_MS, one_pass, device)
        measures[key, "wall"] = partial(wall_ms, one_pass, n, device)
        if device.type == "cuda":
            measures[key, "device"] = partial(replay_ms, capture(one_pass), n)
    samples = {key: [ms / _BUFFERS for ms in of] for key, of in round_robin(measures, repeats, report).items()}
    return {
        key: (Times.of(samples[key, "wall"]), Times.of(samples[key, "device"]) if device.type == "cuda" else None)
        for key in passes
    }


def _rows(
    times: dict[tuple[str, bool], tuple[Times, Times | None]],
    ran: dict[tuple[str, bool], str | None],
    batch_size: int,
    mode: str,
) -> list[Row]:
    best = {key: device or wall for key, (wall, device) in times.items()}
    return [
        Row(
            variant=variant,
            compiled=compiled,
            batch_size=batch_size,
            mode=mode,
            wall=wall,
            device=device,
            sdpa=ran[variant, compiled],
            ratio=best[variant, compiled].median / best[REFERENCE, compiled].median,
            ratio_to_eager=best[variant, compiled].median / best[REFERENCE, False].median,
        )
        for (variant, compiled), (wall, device) in times.items()
    ]
