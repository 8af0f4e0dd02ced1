"""One step of a run's real model on dummy tokens, on the CPU: does it build, trace, train and fit?"""

from __future__ import annotations

import dataclasses
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor
from torch._subclasses import fake_tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd.graph import saved_tensors_hooks

from gpt2.base.errors import UserError
from gpt2.base.numbers import decimal
from gpt2.checks.fake_ranks import step_as_rank
from gpt2.config import RunConfig, TrainConfig
from gpt2.loss import CHUNK_TOKENS
from gpt2.machine.compilation import compile_scope, uncompile
from gpt2.machine.device import autocast, slow_precision
from gpt2.model import GPT
from gpt2.optimizer import make_optimizer
from gpt2.run.checkpoint import bytes_held, bytes_kept
from gpt2.run.load import load_initial_weights

# Positions of the dummy sequence. What depends on its length is scaled from it.
DRY_RUN_TOKENS = 32

CPU = torch.device("cpu")

NEED_VALUES = (
    fake_tensor.DataDependentOutputException,
    fake_tensor.DynamicOutputShapeException,
    fake_tensor.UnsupportedFakeTensorException,
    fake_tensor.UnsupportedOperatorException,
)
"""What tracing raises where an arm looks at the values of its tensors, which it may as long as it is not compiled."""


@dataclass(frozen=True, kw_only=True)
class DryRun:
    """What one step on dummy tokens told."""

    params: int
    """Parameters, tied ones once."""

    loss: float
    """Of dummy tokens under the initial weights; close to ln(vocab_size)."""

    memory_gib: float
    """Estimated peak of GPU memory in training, of each rank, eager: compilation needs less."""

    processes: int
    """That train a run together, each with a GPU of its own."""

    checkpoint_bytes: int
    """Of a checkpoint with the optimizer's state."""

    flops_per_iter: float
    """Forward and backward."""

    def checkpoints_gib(self, train: TrainConfig) -> tuple[float, float]:
        """Disk that the checkpoints of such a run take when it is done, and how much more while it trains.

        `train` may differ from what was tried in its length, and in which checkpoints it writes and keeps.
        """
        sizes = {"whole": self.checkpoint_bytes, "weights": 4 * self.params}
        kept, held = bytes_kept(train, **sizes), bytes_held(train, **sizes)
        return kept / 2**30, (held - kept) / 2**30

    def describe(self, train: TrainConfig) -> str:
        """One line, of a run as for `checkpoints_gib`."""
        kept, more = self.checkpoints_gib(train)
        gpus = f" on each of {self.processes}" if self.processes > 1 else ""
        memory = f"GPU memory about {decimal(self.memory_gib, 1)} GiB{gpus}"
        return (
            f"{self.params:,} parameters, loss {self.loss:.2f}, {memory}, "
            f"checkpoints {decimal(kept, 1)} GiB, {decimal(more, 1)} GiB more while it trains, "
            f"{train.max_iters * self.flops_per_iter:.3g} FLOP"
        )


def dry_run(config: RunConfig) -> DryRun:
    """Build the run's model and take one forward and backward pass on dummy tokens on the CPU.

    The run's precision is traced, which computes nothing, and what autograd keeps in it is counted; the optimizer's
    step is traced too. The passes are in that precision as well; where the processor is slow at it a single layer's
    are, and the model's are in float32. Where several ranks train, one takes a step among others that are not there.

    A compiled run is traced as a whole (`fullgraph`), without generating code: a graph break raises. Raises UserError
    if the weights that it is to start from cannot be had, if the loss or a gradient is not finite, or if a parameter
    that is to learn gets no gradient.
    """
    T = min(config.model.block_size, DRY_RUN_TOKENS)
    try:
        bytes_per_token, bytes_per_pass = _kept(config, T, FakeTensorMode())
    except NEED_VALUES:
        bytes_per_token, bytes_per_pass = _kept(config, T, nullcontext())
    dtype = config.train.dtype
    if slow_precision(CPU, dtype):
        one_layer = config.model.shortened(1)
        from_scratch = dataclasses.replace(config.train, init_from="")
        _step(dataclasses.replace(config, model=one_layer, train=from_scratch), dtype, T=2)
        dtype = "float32"
    params, flops_per_token, loss = _step(config, dtype, T)
    if config.train.processes > 1:
        step_as_rank(config, dtype, T)
    return DryRun(
        params=params,
        loss=loss,
        memory_gib=_training_bytes(config, params, bytes_per_token, bytes_per_pass) / 2**30,
        processes=config.train.processes,
        # Weights, two moments and the average of weights.
        checkpoint_bytes=(16 if config.train.ema_decay else 12) * params,
        flops_per_iter=float(flops_per_token) * config.tokens_per_iter,
    )


def _step(config: RunConfig, dtype: str, T: int) -> tuple[int, int, float]:
    """A forward and backward pass over T dummy tokens. Parameters, operations per token, and the loss."""
    model = GPT(config.model, seed=config.train.seed)
    if config.train.init_from:
        load_initial_weights(model, config.train.init_from)
    tokens = torch.randint(config.data.vocab_size, (1, T + 1), generator=torch.Generator().manual_seed(0))
    loss = _loss(model, tokens, config.train, dtype)
    loss.backward()
    for name, p in model.named_parameters():
        if p.requires_grad and p.grad is None:
            raise UserError(f"parameter {name} learns nothing: the loss does not depend on it")
        if p.grad is not None and not bool(p.grad.isfinite().all()):
            raise UserError(f"the gradient of {name} is not finite in the first step")
    if not bool(loss.isfinite()):
        raise UserError(f"the loss is {loss.item()} in the first step")
    return model.num_params(), model.flops_per_token(), loss.item()


def _loss(model: GPT, tokens: Tensor, train: TrainConfig, dtype: str) -> Tensor:
    """The loss of tokens [1, T + 1]."""
    with autocast(CPU, dtype):
        _, loss = model(tokens[:, :-1], tokens[:, 1:], keep_logits=not train.fused_loss)
    return loss


def _kept(config: RunConfig, T: int, tensors: AbstractContextManager[object]) -> tuple[float, float]:
    """Bytes that autograd keeps for the backward pass: so many per token, and so many per pass.

    Two lengths tell them apart, T and half of it. On the way the passes, and what is compiled, are traced. `tensors`
    may make tensors that hold no values, so that nothing is computed.
    """
    train = config.train
    with tensors:
        model = GPT(config.model, seed=config.train.seed)
        if train.compile != "none":
            compile_scope(model, train.compile, backend="eager")
            _loss(model, _dummies(T), train, train.dtype)
            uncompile(model)
            torch.compiler.reset()
        _loss(model, _dummies(T), train, train.dtype).backward()
        make_optimizer(model, config.optimizer, "cpu").step()
        # On a GPU, autocast's norms are float32 and keep what comes in as such; on a CPU they would not.
        model.config = dataclasses.replace(config.model, residual_bfloat16=False)
        half, full = (_kept_of(model, tokens, train) for tokens in (T // 2, T))
    bytes_per_token = (full - half) / (T - T // 2)
    return bytes_per_token, full - T * bytes_per_token


def _dummies(T: int) -> Tensor:
    return torch.zeros(1, T + 1, dtype=torch.long)


def _kept_of(model: GPT, T: int, train: TrainConfig) -> int:
    """Bytes that autograd keeps of a forward pass over T tokens, parameters aside."""
    everything = _saved(model, T, train)
    if not train.activation_checkpointing:
        return everything
    model.recomputes_blocks = True
    inputs = _saved(model, T, train)
    model.recomputes_blocks = False
    # And what one block has kept when it has been computed again.
    return inputs + (everything - inputs) // model.config.n_layer


def _saved(model: GPT, T: int, train: TrainConfig) -> int:
    """Bytes of the tensors that are saved in a forward pass over T tokens, parameters aside."""
    counted = {storage._cdata: storage for storage in (p.untyped_storage() for p in model.parameters())}
    parameters = set(counted)

    def count(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        counted.setdefault(storage._cdata, storage)
        return tensor

    with saved_tensors_hooks(count, lambda tensor: tensor):
        _loss(model, _dummies(T), train, train.dtype)
    return sum(storage.nbytes() for key, storage in counted.items() if key not in parameters)


def _training_bytes(config: RunConfig, params: int, bytes_per_token: float, bytes_per_pass: float) -> float:
    """Weights, gradients and moments, what autograd keeps, and what there is of logits at a time.

    That is those of a chunk; or else, in float32, two gradients of all: with respect to log-softmax, and to its input.
    """
    tokens = config.train.batch_size * config.model.block_size
    chunk = min(tokens, CHUNK_TOKENS) * (4 if config.train.dtype == "float32" else 2)
    logits = (chunk if config.train.fused_loss else 8 * tokens) * config.model.vocab_size
    return _model_bytes(config, params) + bytes_per_pass + tokens * bytes_per_token + logits


def _model_bytes(config: RunConfig, params: int) -> float:
    """Weights, gradients, two moments and the average of weights in float32, as far as one rank has them."""
    share = 1 / config.train.processes
    average = 4 if config.train.ema_decay else 0
    if config.train.processes == 1 or config.train.parallel == "ddp":
        return (16 + average) * params
    if config.train.parallel == "zero1":
        return (8 + average + 8 * share) * params
    with torch.device("meta"):
        blocks = [sum(p.numel() for p in block.parameters()) for block in GPT(config.model, seed=0).blocks]
    around, block = params - sum(blocks), max(blocks)
    # What is around the blocks is whole, with its gradient, from the forward to the end of the backward pass; of the
    # blocks one is, with its gradient before and after it is shared, and the next one.
    return 16 * share * params + 8 * around + 16 * block
