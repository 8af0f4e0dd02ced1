"""Our trainer's loss, step by step, beside nanoGPT's: the same initial weights, batches and learning rates.

    curves = train_curves(config, torch.device("cuda"))
    print(difference(curves, OURS).mean_abs, difference(curves, YARDSTICK).mean_abs)

Two correct implementations differ in what they round, and where, and training carries that on. How far is told by a
yardstick, nanoGPT beside itself: eager beside compiled or, where nothing is compiled, a batch in two halves beside a
batch at once. `scripts/compare_loss_curves.py` is the command, `harness/measure/loss_curves_figure.py` draws.
"""

from __future__ import annotations

import gc
import itertools
import statistics
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from gpt2.base.errors import UserError
from gpt2.config import GPTConfig, OptimizerConfig, RunConfig, TrainConfig
from gpt2.data.batches import Batch, batches, eval_set
from gpt2.data.dataset import Dataset, open_dataset
from gpt2.machine import sdpa
from gpt2.machine.device import autocast, set_precision
from gpt2.model import GPT
from gpt2.optimizer import learning_rate, set_lr
from gpt2.run.parts import Parts
from gpt2.train_ra_mla import train_step
from harness.measure.nanogpt import NanoGPT
from harness.measure.timing import Stopwatch
from harness.measure.training import Load, NanoGPTStep

OURS, NANOGPT, YARDSTICK = "ours", "nanogpt", "yardstick"

LAST = 50
"""Steps at the end whose mean difference is reported: a difference that grows shows there."""

_NANOGPTS = (
    *("ATTENTION", "BIAS", "DROPOUT", "INIT_FROM", "GRADIENT_ACCUMULATION_STEPS", "WEIGHT_DECAY", "BETA1", "BETA2"),
    "GRAD_CLIP",
)
"""Settings that are not free: nanoGPT's step, as harness/measure/nanogpt.py has it, is our default in these."""


@dataclass(frozen=True, kw_only=True)
class Curves:
    """One seed's training, by arm."""

    seed: int
    losses: Mapping[str, list[float]]
    """Of the batch of each step, before that step's update."""

    val_loss: Mapping[str, float]
    """After the last step."""


@dataclass(frozen=True, kw_only=True)
class Difference:
    """An arm's losses minus nanoGPT's."""

    seed: int | None
    """None: over all seeds."""

    arm: str
    mean_abs: float
    """Over the steps."""

    max_abs: float
    last: float
    """Mean over the `LAST` steps, with its sign."""

    val_loss: float


class _OurStep:
    """The trainer's own step."""

    def __init__(self, config: RunConfig) -> None:
        self._parts = Parts(config)
        self.model: nn.Module = self._parts.model
        self.optimizer = self._parts.optimizer
        self._parts.compile(config.train.compile, config.train.compile_mode)
        self._parts.zero_grad()  # CUDA graphs want the memory of the gradients before the first step

    def step(self, batch: Batch) -> Tensor:
        """Take one step; returns its loss on the device."""
        return train_step(self._parts, [batch], step=0)[0]


class _HalvesStep(NanoGPTStep):
    """nanoGPT's step on a batch in two halves: the same gradient, summed in another order."""

    def loss(self, x: Tensor, y: Tensor) -> Tensor:
        first, second = (super(_HalvesStep, self).loss(*half) for half in zip(x.chunk(2), y.chunk(2), strict=True))
        return (first + second) / 2


def labels(config: RunConfig) -> dict[str, str]:
    """The arms, and what they are in words."""
    plain, other = ("eager", "in halves") if config.train.compile == "none" else ("compiled", "eager")
    return {OURS: f"ours, {plain}", NANOGPT: f"nanoGPT, {plain}", YARDSTICK: f"nanoGPT, {other}"}


def check_comparable(config: RunConfig) -> None:
    """Raise UserError if nanoGPT's step cannot do what a run does, or the yardstick cannot be had."""
    fixed = RunConfig(name="", model=GPTConfig(), data=config.data, optimizer=OptimizerConfig(), train=TrainConfig())
    ours, theirs = config.identity(), fixed.identity()
    for symbol in _NANOGPTS:
        if ours[symbol] != theirs[symbol]:
            raise UserError(
                f"{symbol}={ours[symbol]}: cannot be compared with nanoGPT's step, which has {theirs[symbol]}"
            )
    if config.train.compile == "none" and config.train.batch_size % 2:
        raise UserError(f"BATCH_SIZE={config.train.batch_size}: must be even, as the yardstick takes a batch in halves")


def train_curves(
    config: RunConfig, device: torch.device, on_start: Callable[[str], object] = lambda arm: None
) -> Curves:
    """Train each arm as `config` says, one after another; `on_start` hears of each.

    Raises UserError if they cannot be compared, or the data set cannot be had or does not fill a batch.
    """
    check_comparable(config)
    set_precision(config.train.tf32)
    sdpa.request(config.train.sdpa_kernel, device, config.train.dtype)
    dataset = open_dataset(config.data)
    losses, val_loss = {}, {}
    for arm in labels(config):
        on_start(arm)
        losses[arm], val_loss[arm] = _train(arm, config, dataset, device)
        # One arm's model, and what was compiled for it, are gone before the next one comes.
        torch.compiler.reset()
        gc.collect()
        if device.type == "cuda":
            torch.cuda.empty_cache()
    return Curves(seed=config.train.seed, losses=losses, val_loss=val_loss)


def difference(curves: Curves, arm: str) -> Difference:
    """An arm's losses minus nanoGPT's."""
    differences = [a - b for a, b in zip(curves.losses[arm], curves.losses[NANOGPT], strict=True)]
    return Difference(
        seed=curves.seed,
        arm=arm,
        mean_abs=statistics.fmean(map(abs, differences)),
        max_abs=max(map(abs, differences)),
        last=statistics.fmean(differences[-LAST:]),
        val_loss=curves.val_loss[arm] - curves.val_loss[NANOGPT],
    )


def over_seeds(differences: Sequence[Difference]) -> Difference:
    """One arm's differences: the mean of the means, and the greatest."""
    return Difference(
        seed=None,
        arm=differences[0].arm,
        mean_abs=statistics.fmean(d.mean_abs for d in differences),
        max_abs=max(d.max_abs for d in differences),
        last=statistics.fmean(d.last for d in differences),
        val_loss=statistics.fmean(d.val_loss for d in differences),
    )


def _train(arm: str, config: RunConfig, dataset: Dataset, device: torch.device) -> tuple[list[float], float]:
    """The losses of an arm's steps, and its validation loss after them."""
    t = config.train
    losses = []  # on the device: reading one would make every step wait for it
    trainee = _OurStep(config) if arm == OURS else _their_step(arm, config, device)
    stream = batches(
        dataset,
        seed=t.seed,
        start_step=0,
        batch_size=t.batch_size,
        block_size=config.model.block_size,
        device=device,
    )
    with closing(stream):
        for step, (batch,) in enumerate(itertools.islice(stream, t.max_iters)):
            set_lr(trainee.optimizer, learning_rate(step, t.max_iters, config.optimizer))
            losses.append(trainee.step(batch))
    return torch.stack(losses).tolist(), _evaluate(trainee.model, config, dataset, device)


def _their_step(arm: str, config: RunConfig, device: torch.device) -> NanoGPTStep:
    """nanoGPT's step from our initial weights; the parameters have the same names."""
    compiled = config.train.compile != "none"
    shape = {name: getattr(config.model, name) for name in ("n_layer", "n_head", "n_embd", "block_size", "vocab_size")}
    load = Load(
        **shape,
        batch_size=config.train.batch_size,
        dtype=config.train.dtype,
        compiled=compiled and arm == NANOGPT,
    )
    model = NanoGPT(config.model)
    model.load_state_dict(GPT(config.model, seed=config.train.seed).state_dict())
    kind = _HalvesStep if arm == YARDSTICK and not compiled else NanoGPTStep
    trainee = kind(load, model, device, Stopwatch(device))
    for group in trainee.optimizer.param_groups:
        group["lr_mult"] = 1.0  # which `set_lr` asks for
    return trainee


@torch.no_grad()
def _evaluate(trained: nn.Module, config: RunConfig, dataset: Dataset, device: torch.device) -> float:
    """Validation loss of an arm's weights. All take one forward pass, nanoGPT's, eager: the weights alone differ."""
    model = NanoGPT(config.model).to(device)
    model.load_state_dict(trained.state_dict())
    t = config.train
    chosen = eval_set(
        dataset, batch_size=t.batch_size, block_size=config.model.block_size, eval_tokens=t.eval_tokens
    ).to(device)
    losses = []
    for x, y in chosen.batches:
        with autocast(device, t.dtype):
            losses.append(model(x, y)[1])
    return chosen.mean(torch.stack(losses).tolist())
