"""One step of a run's real model on dummy tokens, on the CPU: does it build, trace, train and fit?"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from gpt2.base.errors import UserError
from gpt2.config import RunConfig, TrainConfig
from gpt2.loss import CHUNK_TOKENS
from gpt2.machine.compilation import compile_scope, uncompile
from gpt2.machine.device import autocast
from gpt2.model import GPT
from gpt2.optimizer import make_optimizer
from gpt2.run.checkpoint import KEEP
from gpt2.run.load import load_initial_weights

# Positions of the dummy sequence. What depends on its length is scaled from it.
DRY_RUN_TOKENS = 32


@dataclass(frozen=True, kw_only=True)
class DryRun:
    """What one step on dummy tokens told."""

    params: int
    """Parameters, tied ones once."""

    loss: float
    """Of dummy tokens under the initial weights; close to ln(vocab_size)."""

    memory_gib: float
    """Estimated peak of GPU memory in training, eager: compilation needs less."""

    checkpoint_gib: float
    """Disk that a run's checkpoints take."""

    flops: float
    """Of the whole run, forward and backward."""

    def describe(self) -> str:
        """One line."""
        return (
            f"{self.params:,} parameters, loss {self.loss:.2f}, GPU memory about {self.memory_gib:.1f} GiB, "
            f"checkpoints {self.checkpoint_gib:.1f} GiB, {self.flops:.3g} FLOP"
        )


def dry_run(config: RunConfig) -> DryRun:
    """Build the run's model and take one forward, backward and optimizer step on dummy tokens on the CPU.

    A compiled run is traced as a whole (`fullgraph`), without generating code: a graph break raises. Raises UserError
    if the weights that it is to start from cannot be had, if the loss or a gradient is not finite, or if a parameter
    that is to learn gets no gradient.
    """
    model = GPT(config.model, seed=config.train.seed)
    if config.train.init_from:
        load_initial_weights(model, config.train.init_from)
    params = model.num_params()
    T = min(config.model.block_size, DRY_RUN_TOKENS)
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(config.data.vocab_size, (1, T + 1), generator=generator)
    x, y = tokens[:, :-1], tokens[:, 1:]
    device = torch.device("cpu")

    if config.train.compile != "none":
        compile_scope(model, config.train.compile, backend="eager")
        with autocast(device, config.train.dtype):
            model(x, y, keep_logits=not config.train.fused_loss)
        uncompile(model)
        torch.compiler.reset()

    # What autograd keeps for the backward pass is so much per token and so much per pass: two lengths tell them apart.
    # On a GPU, autocast's norms are float32 and keep what comes in as such; on a CPU they would not.
    model.config = dataclasses.replace(config.model, residual_bfloat16=False)
    half_bytes, _ = _forward(model, x[:, : T // 2], y[:, : T // 2], config.train)
    full_bytes, loss = _forward(model, x, y, config.train)
    model.config = config.model
    if config.model.residual_bfloat16:
        _, loss = _forward(model, x, y, config.train)
    bytes_per_token = (full_bytes - half_bytes) / (T - T // 2)
    bytes_per_pass = full_bytes - T * bytes_per_token
    loss.backward()
    for name, p in model.named_parameters():
        if p.requires_grad and p.grad is None:
            raise UserError(f"parameter {name} learns nothing: the loss does not depend on it")
        if p.grad is not None and not bool(p.grad.isfinite().all()):
            raise UserError(f"the gradient of {name} is not finite in the first step")
    if not bool(loss.isfinite()):
        raise UserError(f"the loss is {loss.item()} in the first step")
    make_optimizer(model, config.optimizer, "cpu").step()

    return DryRun(
        params=params,
        loss=loss.item(),
        memory_gib=_training_bytes(config, params, bytes_per_token, bytes_per_pass) / 2**30,
        # Weights and two moments; while the newest is written there is one more.
        checkpoint_gib=(KEEP + 1) * 12 * params / 2**30,
        flops=float(model.flops_per_token()) * config.tokens_per_iter * config.train.max_iters,
    )


def _forward(model: GPT, x: Tensor, y: Tensor, train: TrainConfig) -> tuple[int, Tensor]:
    """Bytes that autograd keeps of a forward pass, parameters aside, and the loss."""
    seen = {p.untyped_storage().data_ptr() for p in model.parameters()}
    sizes = [0]

    def count(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in seen:
            seen.add(storage.data_ptr())
            sizes.append(storage.nbytes())
        return tensor

    with saved_tensors_hooks(count, lambda tensor: tensor), autocast(torch.device("cpu"), train.dtype):
        _, loss = model(x, y, keep_logits=not train.fused_loss)
    return sum(sizes), loss


def _training_bytes(config: RunConfig, params: int, bytes_per_token: float, bytes_per_pass: float) -> float:
    """Weights, gradients and two moments in float32, what autograd keeps, and what there is of logits at a time.

    That is those of a chunk; or else, in float32, two gradients of all: with respect to log-softmax, and to its input.
    """
    tokens = config.train.batch_size * config.model.block_size
    chunk = min(tokens, CHUNK_TOKENS) * (4 if config.train.dtype == "float32" else 2)
    logits = (chunk if config.train.fused_loss else 8 * tokens) * config.model.vocab_size
    return 16 * params + bytes_per_pass + tokens * bytes_per_token + logits
