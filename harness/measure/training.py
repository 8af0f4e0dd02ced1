"""What a training step costs, and its phases: every attention variant, nanoGPT and transformers, eager and compiled.

Our arms take `gpt2.train_ra_mla.train_step`, the trainer's own, on random tokens that already lie on the device. The
phases are forward (with the loss), backward, and optimizer: clipping, update, and setting the gradients to None. The
arms take turns of a few steps, so that a change of the device's clock changes all of them, and the baseline stands
there twice: what the two differ by is noise. All are asked to compute attention by the same kernel, and each row says
which did.
`scripts/benchmark_training.py` is the command.
"""

from __future__ import annotations

import gc
import importlib.util
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from gpt2.base.errors import one_line
from gpt2.base.progress import Progress, part, silent
from gpt2.config import DataConfig, GPTConfig, OptimizerConfig, RunConfig, TrainConfig
from gpt2.data.batches import Batch, train_batch
from gpt2.data.dataset import open_dataset
from gpt2.data.token_files import write_random_tokens
from gpt2.machine import products, sdpa
from gpt2.machine.compilation import compile_model
from gpt2.machine.device import autocast, peak_flops, set_precision
from gpt2.model import GPT
from gpt2.run.parts import Parts
from gpt2.train_ra_mla import train_step
from harness.measure.nanogpt import NanoGPT, nanogpt_optimizer
from harness.measure.step_profile import StepProfile, profile_step
from harness.measure.timing import Stopwatch, Times, round_robin


@dataclass(frozen=True, kw_only=True)
class Arm:
    """What is particular to an arm that our trainer takes."""

    model: Mapping[str, Any] = field(default_factory=dict)
    """Settings of GPTConfig."""

    train: Mapping[str, Any] = field(default_factory=dict)
    """Settings of TrainConfig."""


OURS = {
    "baseline": Arm(),
    "baseline-again": Arm(),
    "ra_v5": Arm(model={"attention": "ra_v5"}),
    "ra_v5-direct": Arm(model={"attention": "ra_v5", "ra_v5_fold": "direct"}),
    "mla": Arm(model={"attention": "mla"}),
    "ra_mla": Arm(model={"attention": "ra_mla"}),
    "chunked-loss": Arm(train={"fused_loss": True}),
    "whole-loss": Arm(train={"fused_loss": False}),
    "float32-residual": Arm(model={"residual_bfloat16": False}),
    "torch-products": Arm(train={"products": "torch"}),
    "plain": Arm(model={"residual_bfloat16": False}, train={"fused_loss": False, "products": "torch"}),
}
"""Arms that our trainer takes. From chunked-loss on they are the baseline with speed-ups set otherwise than `Load` has
them, or the baseline again."""

SPEED_UPS = ("whole-loss", "float32-residual", "torch-products", "plain")
"""Arms that differ from the baseline on a GPU, in bfloat16, and with GPT-2's vocabulary alone."""

THEIRS = {
    "nanogpt": "nanoGPT step, re-implemented",
    "transformers": "transformers' GPT2LMHeadModel, nanoGPT's step",
}
"""Arms to compare with, and what they are."""

_BATCHES = 4
"""Batches to rotate among."""

_WARM_UP_STEPS = 3
_TURN = 5
"""Steps that are timed in a turn; one that is not comes before them."""


@dataclass(frozen=True, kw_only=True)
class Load:
    """What every arm does the same: shape, batch, precision, compilation."""

    n_layer: int = 12
    n_head: int = 12
    n_embd: int = 768
    block_size: int = 1024
    vocab_size: int = 50304
    batch_size: int = 32
    dtype: str = "bfloat16"
    fused_loss: bool = True
    """Of our arms, unless they say otherwise."""

    compiled: bool = False
    """torch.compile over the whole model with its loss."""

    compile_mode: str = "default"

    def model(self, **settings: Any) -> GPTConfig:
        """The model's configuration, as an arm has it."""
        shape = {name: getattr(self, name) for name in ("n_layer", "n_head", "n_embd", "block_size", "vocab_size")}
        defaults = {"ra_v5_compile": False, "residual_bfloat16": self.dtype == "bfloat16"}
        return GPTConfig(**shape, **{**defaults, **settings})


@dataclass(frozen=True, kw_only=True)
class Row:
    """One arm's step."""

    arm: str
    compiled: bool
    forward: Times
    backward: Times
    optimizer: Times
    total: Times
    tokens_per_s: float
    mfu: float | None
    """None where the device's peak is not known."""

    peak_mem_gib: float | None
    """Of the device's allocator, for this arm alone: weights, optimizer state, a step. None where there is none."""

    sdpa: str | None = None
    """Which kernel computes its attention (gpt2/machine/sdpa.py); None where CUDA graphs do not tell."""

    products: str = "torch"
    """Who makes its matrix products (gpt2/machine/products.py)."""

    ratio_to_baseline: float | None = None
    """Median of the total over the baseline's; None if that was not timed."""

    ratio_to_nanogpt: float | None = None
    """Likewise."""

    kernels: Mapping[str, float] | None = None
    """ms of kernels in a step by kind (harness/measure/step_profile.py); None without CUDA."""

    gaps: float | None = None
    """ms of a step in which no kernel ran; None without CUDA."""


@dataclass(frozen=True, kw_only=True)
class Failure:
    """An arm that could not be timed."""

    arm: str
    compiled: bool
    reason: str


class Trainee(Protocol):
    """Something that takes training steps, marking the end of each phase."""

    flops_per_token: int
    products: str
    """Who makes its matrix products: "torch" or "cublaslt"."""

    def step(self, batch: Batch) -> Tensor:
        """Take one step; returns its loss on the device."""


class OurTrainer:
    """The trainer itself. Its calls to its gradient scaler tell the phases apart."""

    def __init__(self, load: Load, arm: Arm, device: torch.device, folder: Path, watch: Stopwatch) -> None:
        self.parts = Parts(_run_config(load, arm, device, folder))
        self.parts.scaler = _MarkingScaler(watch, device.type, enabled=load.dtype == "float16")
        self.flops_per_token = self.parts.flops_per_token
        self.products = self.parts.products_ran
        self._watch = watch
        if load.compiled:
            self.parts.compile("model", load.compile_mode)

    def step(self, batch: Batch) -> Tensor:
        products.use(self.products)
        self._watch.start()
        loss = train_step(self.parts, [batch], step=0)[0]
        self._watch.mark("optimizer")
        return loss


class _MarkingScaler(torch.amp.GradScaler):
    """A gradient scaler that marks where the forward and the backward pass end: it is called right there."""

    def __init__(self, watch: Stopwatch, device_type: str, *, enabled: bool) -> None:
        super().__init__(device_type, enabled=enabled)
        self._watch = watch

    def scale(self, outputs: Any) -> Any:
        self._watch.mark("forward")
        return super().scale(outputs)

    def unscale_(self, optimizer: torch.optim.Optimizer) -> None:
        self._watch.mark("backward")
        super().unscale_(optimizer)


class NanoGPTStep:
    """nanoGPT's step, of its own model or of transformers'."""

    products = "torch"

    def __init__(self, load: Load, model: nn.Module, device: torch.device, watch: Stopwatch) -> None:
        self.model = model.to(device)
        self.optimizer = nanogpt_optimizer(model, device.type)
        self.scaler = torch.amp.GradScaler(device.type, enabled=load.dtype == "float16")
        with torch.device("meta"):
            self.flops_per_token = GPT(load.model(), seed=1).flops_per_token()
        self._load, self._device, self._watch = load, device, watch
        if load.compiled:
            # transformers' model has breaks in its graph.
            compile_model(model, fullgraph=False, mode=load.compile_mode)

    def step(self, batch: Batch) -> Tensor:
        self._watch.start()
        with autocast(self._device, self._load.dtype):
            loss = self.loss(*batch)
        self._watch.mark("forward")
        self.scaler.scale(loss).backward()
        self._watch.mark("backward")
        self.scaler.unscale_(self.optimizer)
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        self._watch.mark("optimizer")
        return loss.detach()

    def loss(self, x: Tensor, y: Tensor) -> Tensor:
        """Mean cross-entropy of a batch."""
        loss: Tensor = self.model(x, y)[1]
        return loss


class TransformersStep(NanoGPTStep):
    """The same step of transformers' GPT-2, which shifts the labels itself."""

    def loss(self, x: Tensor, y: Tensor) -> Tensor:
        loss: Tensor = self.model(input_ids=x, labels=x, use_cache=False).loss
        return loss


def arms_here() -> list[str]:
    """The arms that can be timed with what is installed."""
    return [*OURS, *(arm for arm in THEIRS if arm != "transformers" or importlib.util.find_spec("transformers"))]


def benchmark_training(
    device: torch.device, load: Load, arms: Sequence[str], *, repeats: int, report: Progress = silent
) -> tuple[list[Row], list[Failure]]:
    """Time `repeats` steps (rounded up to whole turns) of each arm. An arm that fails does not stop the others."""
    set_precision(tf32=True)
    sdpa.request(sdpa.AUTO, device, load.dtype)
    torch.compiler.reset()
    with TemporaryDirectory() as folder:
        _write_tokens(load, Path(folder))
        watch = Stopwatch(device)
        trainees: dict[str, Trainee] = {}
        memory: dict[str, float | None] = {}
        failures = []
        batches = _batches(load, device, Path(folder))
        for place, arm in enumerate(arms):
            report(0.5 * place / len(arms), f"making {arm}, first steps")
            try:
                trainees[arm], memory[arm] = _prepare(arm, load, device, Path(folder), watch, batches)
            except Exception as error:  # out of memory, or whatever a compiler may raise: the row says so
                failures.append(Failure(arm=arm, compiled=load.compiled, reason=one_line(error)))
                watch.laps()
            _free(device)
        turns = {arm: partial(_turn, trainee, batches, watch) for arm, trainee in trainees.items()}
        samples = round_robin(turns, math.ceil(repeats / _TURN), part(report, 0.5, 1.0))
        laps = {arm: [lap for turn in of for lap in turn] for arm, of in samples.items()}
        flops = {arm: trainee.flops_per_token for arm, trainee in trainees.items()}
        ran = {arm: sdpa.called(partial(trainee.step, batches[0])) for arm, trainee in trainees.items()}
        made_by = {arm: trainee.products for arm, trainee in trainees.items()}
        profiles = {}
        if device.type == "cuda":
            profiles = {arm: profile_step(partial(trainee.step, batches[0])) for arm, trainee in trainees.items()}
        watch.laps()
        del trainees, turns
        _free(device)
    return _rows(load, laps, flops, memory, ran, made_by, profiles, peak_flops(device)), failures


def _prepare(
    arm: str, load: Load, device: torch.device, folder: Path, watch: Stopwatch, batches: Sequence[Batch]
) -> tuple[Trainee, float | None]:
    """A trainee that has taken its first steps, and the most memory that it alone needs, in GiB."""
    before = torch.cuda.memory_allocated() if device.type == "cuda" else 0
    trainee = _make(arm, load, device, folder, watch)
    for batch in batches[:_WARM_UP_STEPS]:
        loss = trainee.step(batch)
    watch.laps()
    if not loss.isfinite():
        raise RuntimeError(f"the loss is {loss.item()}")
    del loss
    if device.type != "cuda":
        return trainee, None
    torch.cuda.reset_peak_memory_stats()
    trainee.step(batches[0])
    watch.laps()
    return trainee, (torch.cuda.max_memory_allocated() - before) / 2**30


def _make(arm: str, load: Load, device: torch.device, folder: Path, watch: Stopwatch) -> Trainee:
    if arm in OURS:
        return OurTrainer(load, OURS[arm], device, folder, watch)
    torch.manual_seed(1)
    if arm == "nanogpt":
        return NanoGPTStep(load, NanoGPT(load.model()), device, watch)
    from transformers import GPT2Config, GPT2LMHeadModel

    shape: dict[str, Any] = dict(
        n_layer=load.n_layer, n_head=load.n_head, n_embd=load.n_embd, n_positions=load.block_size
    )
    config = GPT2Config(
        **shape,
        vocab_size=load.vocab_size,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        resid_pdrop=0.0,
        bos_token_id=0,
        eos_token_id=0,
    )
    return TransformersStep(load, GPT2LMHeadModel(config), device, watch)


def _run_config(load: Load, arm: Arm, device: torch.device, folder: Path) -> RunConfig:
    train = {"fused_loss": load.fused_loss, **arm.train}
    return RunConfig(
        name="benchmark",
        model=load.model(**arm.model),
        data=_data_config(load, folder),
        optimizer=OptimizerConfig(),
        train=TrainConfig(batch_size=load.batch_size, device=device.type, dtype=load.dtype, eval_tokens=1, **train),
    )


def _data_config(load: Load, folder: Path) -> DataConfig:
    return DataConfig(dataset="bin", bin_dir=str(folder), vocab_size=load.vocab_size, data_dir=str(folder))


def _write_tokens(load: Load, folder: Path) -> None:
    """Random tokens, as files that the trainer reads."""
    tokens = load.batch_size * load.block_size
    n_train, n_val = (_BATCHES + 1) * tokens + 1, tokens + 1
    write_random_tokens(folder, vocab_size=load.vocab_size, n_tokens=n_train, n_val=n_val)


def _batches(load: Load, device: torch.device, folder: Path) -> list[Batch]:
    """Batches on the device."""
    dataset = open_dataset(_data_config(load, folder))
    made = (
        train_batch(dataset, seed=1, step=step, batch_size=load.batch_size, block_size=load.block_size)
        for step in range(_BATCHES)
    )
    return [(x.to(device), y.to(device)) for x, y in made]


def _turn(trainee: Trainee, batches: Sequence[Batch], watch: Stopwatch) -> list[dict[str, float]]:
    """The phases of a few steps in a row. The first, in which memory changes hands, does not count."""
    for i in range(1 + _TURN):
        trainee.step(batches[i % len(batches)])
    return watch.laps()[1:]


def _free(device: torch.device) -> None:
    """Give back what is not in use, so that the next arm meets the memory that the first one met."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


def _rows(
    load: Load,
    laps: Mapping[str, Sequence[Mapping[str, float]]],
    flops_per_token: Mapping[str, int],
    memory: Mapping[str, float | None],
    ran: Mapping[str, str | None],
    made_by: Mapping[str, str],
    profiles: Mapping[str, StepProfile],
    peak: float | None,
) -> list[Row]:
    times = {
        arm: {phase: Times.of([lap[phase] for lap in of]) for phase in ("forward", "backward", "optimizer", "total")}
        for arm, of in laps.items()
    }

    def ratio(arm: str, reference: str) -> float | None:
        return times[arm]["total"].median / times[reference]["total"].median if reference in times else None

    rows = []
    for arm, phases in times.items():
        tokens_per_s = 1000 * load.batch_size * load.block_size / phases["total"].median
        row = Row(
            arm=arm,
            compiled=load.compiled,
            **phases,
            tokens_per_s=tokens_per_s,
            mfu=None if peak is None else tokens_per_s * flops_per_token[arm] / peak,
            peak_mem_gib=memory[arm],
            sdpa=ran[arm],
            products=made_by[arm],
            ratio_to_baseline=ratio(arm, "baseline"),
            ratio_to_nanogpt=ratio(arm, "nanogpt"),
            kernels=profiles[arm].kernels if arm in profiles else None,
            gaps=profiles[arm].gaps if arm in profiles else None,
        )
        rows.append(row)
    return rows
