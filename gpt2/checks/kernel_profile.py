"""What an attention variant runs: scaled_dot_product_attention calls and their backend, kernels, allocations, memory.

    for profile in profile_arms(torch.device("cuda"), shape("cuda")):
        print(profile.arm, profile.T, profile.sdpa_calls, profile.backends, profile.peak_mib)

`scripts/profile_kernels.py` is the command.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from gpt2.config import GPTConfig, OptimizerConfig
from gpt2.machine import products, sdpa
from gpt2.machine.compilation import compile_attention
from gpt2.machine.device import autocast, synchronize
from gpt2.model import GPT
from gpt2.optimizer import make_optimizer

ARMS: dict[str, dict[str, Any]] = {
    "baseline": {},
    "ra_v5 lerp": {"attention": "ra_v5"},
    "ra_v5 direct": {"attention": "ra_v5", "ra_v5_fold": "direct"},
    "ra_v5 lerp, d_bias": {"attention": "ra_v5", "ra_v5_d_bias": True},
    "mla": {"attention": "mla"},
    "ra_mla": {"attention": "ra_mla"},
}
"""Settings of GPTConfig by name."""

PASSES = ("forward", "train")
"""A forward pass in eval mode under no_grad; forward, backward and optimizer step."""

LENGTHS = (512, 1024, 2048)
"""The RA v5 plan's sequence lengths."""

TOP = 8


@dataclass(frozen=True, kw_only=True)
class Shape:
    """The model that is profiled, and its batch."""

    n_layer: int
    n_head: int
    n_embd: int
    vocab_size: int
    batch_size: int

    dtype: str
    """Of autocast."""


def shape(device_type: str) -> Shape:
    """GPT-2 (124M) on an accelerator, in bfloat16; on a CPU two small layers with heads of the same width."""
    if device_type == "cpu":
        return Shape(n_layer=2, n_head=2, n_embd=128, vocab_size=512, batch_size=1, dtype="float32")
    return Shape(n_layer=12, n_head=12, n_embd=768, vocab_size=50304, batch_size=4, dtype="bfloat16")


@dataclass(frozen=True, kw_only=True)
class Allocation:
    """Allocations of one size by one operator."""

    op: str
    """The outermost operator that was running."""

    mib: float
    """Size of each."""

    count: int
    """How many, over the pass."""


@dataclass(frozen=True, kw_only=True)
class Kernel:
    """A kernel of the device; on a CPU, an operator without those it calls."""

    name: str

    ms: float
    """Time over the pass."""

    count: int
    """Launches in the pass."""


@dataclass(frozen=True, kw_only=True)
class Profile:
    """One pass of one arm."""

    arm: str
    """Its name in ARMS."""

    what: str
    """One of PASSES."""

    T: int
    """Sequence length."""

    sdpa_calls: int
    """Calls of scaled_dot_product_attention, backward not counted."""

    expected_sdpa_calls: int
    """One per layer."""

    backends: tuple[str, ...]
    """Which of its implementations ran: "flash", "efficient", "cudnn", "math"."""

    peak_mib: float
    """Most memory held in the pass beyond what was held before it (weights, optimizer state)."""

    allocations: tuple[Allocation, ...]
    """The largest, largest first."""

    kernels: tuple[Kernel, ...]
    """Those that took longest, longest first."""


def profile_arms(
    device: torch.device,
    shape: Shape,
    *,
    lengths: tuple[int, ...] = LENGTHS,
    compiled: bool = False,
    arms: Mapping[str, Mapping[str, Any]] = ARMS,
) -> Iterator[Profile]:
    """Profile both PASSES of every arm at every length. `compiled`: with its attention modules compiled."""
    sdpa.request(sdpa.AUTO, device, shape.dtype)
    products.request(products.AUTO, device, shape.dtype)
    for arm, settings in arms.items():
        for T in lengths:
            config = GPTConfig(
                n_layer=shape.n_layer,
                n_head=shape.n_head,
                n_embd=shape.n_embd,
                vocab_size=shape.vocab_size,
                block_size=T,
                residual_bfloat16=shape.dtype == "bfloat16",
                ra_v5_compile=False,
                **settings,
            )
            model = GPT(config, seed=1).to(device)
            if compiled:
                compile_attention(model)
            for what in PASSES:
                run = _pass(model, what, device, shape)
                run()  # compilation, the optimizer's state, libraries that initialize themselves
                yield _profile(run, device, arm=arm, what=what, T=T, expected_sdpa_calls=shape.n_layer)
            if compiled:
                torch.compiler.reset()


def _pass(model: GPT, what: str, device: torch.device, shape: Shape) -> Callable[[], None]:
    T = model.config.block_size
    idx = torch.randint(shape.vocab_size, (shape.batch_size, T), generator=torch.Generator().manual_seed(1)).to(device)
    model.train(what == "train")
    if what == "forward":

        def forward() -> None:
            with torch.no_grad(), autocast(device, shape.dtype):
                model(idx)

        return forward

    optimizer = make_optimizer(model, OptimizerConfig(), device.type)

    def train() -> None:
        with autocast(device, shape.dtype):
            _, loss = model(idx, idx, keep_logits=False)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return train


def _profile(run: Callable[[], None], device: torch.device, **what: Any) -> Profile:
    on_cuda = device.type == "cuda"
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_cuda else [])]
    held = torch.cuda.memory_allocated(device) if on_cuda else 0
    if on_cuda:
        torch.cuda.reset_peak_memory_stats(device)
    with profile(activities=activities, profile_memory=True, acc_events=True) as prof:
        run()
        synchronize(device)
    allocations, peak = _memory(prof, device)
    if on_cuda:
        peak = torch.cuda.max_memory_allocated(device) - held

    averages = prof.key_averages()
    calls: Counter[str] = Counter()
    for e in averages:
        if found := sdpa.CALL.fullmatch(e.key):
            calls[found[1] or found[2]] += e.count
    times = [
        Kernel(name=e.key, ms=(e.self_device_time_total if on_cuda else e.self_cpu_time_total) / 1000, count=e.count)
        for e in averages
        if e.device_type == (DeviceType.CUDA if on_cuda else DeviceType.CPU) and not e.is_user_annotation
    ]
    return Profile(
        **what,
        sdpa_calls=calls.total(),
        backends=tuple(calls),
        peak_mib=peak / 2**20,
        allocations=tuple(allocations),
        kernels=tuple(sorted(times, key=lambda k: -k.ms)[:TOP]),
    )


def _memory(prof: profile, device: torch.device) -> tuple[list[Allocation], int]:
    """The largest allocations on the device, and the most bytes held at once of what was allocated in the pass."""
    assert prof.profiler is not None and prof.profiler.kineto_results is not None
    sizes: Counter[tuple[str, int]] = Counter()
    changes: list[tuple[int, int]] = []
    # The averages know the net change by operator only; single allocations are in the tree they are made of.
    todo = [(node, "") for node in prof.profiler.kineto_results.experimental_event_tree()]
    while todo:
        node, op = todo.pop()
        fields: Any = node.extra_fields
        if hasattr(fields, "alloc_size"):
            if fields.device.type == device.type:
                changes.append((node.start_time_ns, fields.alloc_size))
                if fields.alloc_size > 0:
                    sizes[op, fields.alloc_size] += 1
        elif not op and node.name.startswith("aten::"):
            op = node.name
        todo.extend((child, op) for child in node.children)
    held = peak = 0
    for _, change in sorted(changes):
        held += change
        peak = max(peak, held)
    largest = sorted(sizes.items(), key=lambda item: (-item[0][1], item[0][0]))[:TOP]
    return [Allocation(op=op, mib=size / 2**20, count=count) for (op, size), count in largest], peak
