"""How the ranks of a run share its model: each has all of it (DDP), all but the optimizer's moments (ZeRO-1), or a part
of everything (FSDP2).

Whichever it is, a checkpoint is what one process writes: whole tensors by their plain names, AdamW's state by the
number of the parameter. So a run may go on with other processes, shared otherwise.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from gpt2.config import OptimizerConfig
from gpt2.machine.compilation import compile_blocks, compile_scope
from gpt2.machine.ranks import Ranks
from gpt2.model import GPT
from gpt2.optimizer import make_optimizer

State = dict[str, Any]


class Alone:
    """The only process: nothing is shared."""

    def __init__(self, model: GPT, optimizer: OptimizerConfig, device: torch.device) -> None:
        self.model = model
        self.forward: Callable[..., Any] = model
        """The model, as it is called in training and evaluation."""
        self.optimizer = self._make_optimizer(optimizer, device)

    def _make_optimizer(self, config: OptimizerConfig, device: torch.device) -> Any:
        return make_optimizer(self.model, config, device.type)

    @property
    def stepping(self) -> Any:
        """The optimizer whose kernel takes the steps."""
        return self.optimizer

    def compile(self, scope: str, **options: Any) -> None:
        """Compile what `scope` says when it is first called. `options`: as for `compile_scope`."""
        compile_scope(self.model, scope, **options)

    def micro_batch(self, *, is_last: bool) -> AbstractContextManager[Any]:
        """Around the forward and backward pass of a micro-batch: gradients are exchanged in the last one alone."""
        return nullcontext()

    def in_vain(self) -> AbstractContextManager[Any]:
        """Around a pass whose gradients nobody wants: they are exchanged only where it cannot do without."""
        return nullcontext()

    def whole(self, tensor: Tensor) -> Tensor:
        """A tensor made of parameters or gradients, not a share of it. To be called by all ranks."""
        return tensor

    def state_dicts(self) -> tuple[State, State]:
        """The model's and the optimizer's, whole, where this is rank 0. To be called by all ranks."""
        return self.model.state_dict(), self.optimizer.state_dict()

    def load_model(self, weights: State) -> None:
        """Take up whole weights."""
        self.model.load_state_dict(weights)

    def load_optimizer(self, state: State) -> None:
        """Take up an optimizer's whole state."""
        self.optimizer.load_state_dict(state)

    def plain_model(self) -> GPT:
        """The model with all its weights, to be looked at by this process alone. To be called by all ranks."""
        return self.model


class DDP(Alone):
    """Every rank has all of it, and gradients are averaged."""

    def __init__(self, model: GPT, optimizer: OptimizerConfig, device: torch.device) -> None:
        super().__init__(model, optimizer, device)
        # The gradients need no second place beside the buckets.
        self.forward = self._ddp = nn.parallel.DistributedDataParallel(model, gradient_as_bucket_view=True)

    def compile(self, scope: str, **options: Any) -> None:
        # In a piece for each bucket, whose gradients are sent while the next piece computes; or else whole, as pieces
        # would draw other dropout than the whole does in one process.
        dynamo: Any = torch._dynamo.config
        dynamo.optimize_ddp = self.model.config.dropout == 0
        super().compile(scope, **options)

    def micro_batch(self, *, is_last: bool) -> AbstractContextManager[Any]:
        return nullcontext() if is_last else self._ddp.no_sync()

    def in_vain(self) -> AbstractContextManager[Any]:
        return self._ddp.no_sync()


class ZeRO1(DDP):
    """As DDP, with each rank keeping the moments of, and updating, its share of the parameters (arXiv:1910.02054)."""

    def _make_optimizer(self, config: OptimizerConfig, device: torch.device) -> Any:
        from torch.distributed.optim import ZeroRedundancyOptimizer

        sharded = functools.partial(ZeroRedundancyOptimizer, optimizer_class=torch.optim.AdamW)
        return make_optimizer(self.model, config, device.type, kind=sharded)

    @property
    def stepping(self) -> Any:
        return self.optimizer.optim

    def state_dicts(self) -> tuple[State, State]:
        self.optimizer.consolidate_state_dict(to=0)
        return self.model.state_dict(), self.optimizer.state_dict() if torch.distributed.get_rank() == 0 else {}

    def load_optimizer(self, state: State) -> None:
        # It takes out what is another rank's, keeps what it has been given besides, and has counts of steps on the CPU,
        # where the fused kernel does not look for them.
        self.optimizer.load_state_dict({**state, "state": dict(state["state"])})
        self.optimizer.state.clear()
        for p, moments in self.stepping.state.items():
            moments["step"] = moments["step"].to(p.device)


class FSDP2(Alone):
    """Each rank has a share of every tensor; a block's are put together while it computes (arXiv:2304.11277)."""

    def __init__(self, model: GPT, optimizer: OptimizerConfig, device: torch.device) -> None:
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import fully_shard

        mesh = init_device_mesh(device.type, (torch.distributed.get_world_size(),))
        for block in model.blocks:
            fully_shard(block, mesh=mesh)
        fully_shard(model, mesh=mesh)
        super().__init__(model, optimizer, device)

    def compile(self, scope: str, **options: Any) -> None:
        # Where a block's weights are put together nothing can be compiled: around the blocks, that is.
        if scope == "model":
            compile_blocks(self.model, **options)
        else:
            super().compile(scope, **options)

    def micro_batch(self, *, is_last: bool) -> AbstractContextManager[Any]:
        self.model.set_requires_gradient_sync(is_last)  # type: ignore[operator]
        return nullcontext()

    def whole(self, tensor: Tensor) -> Tensor:
        from torch.distributed.tensor import DTensor

        return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor

    def state_dicts(self) -> tuple[State, State]:
        keep = torch.distributed.get_rank() == 0
        model = {name: self._gathered(value, keep) for name, value in self.model.state_dict().items()}
        model["lm_head.weight"] = model["transformer.wte.weight"]  # one tensor under two names, as it is in one process
        optimizer = self.optimizer.state_dict()
        state = {
            index: {name: self._gathered(value, keep) for name, value in moments.items()}
            for index, moments in optimizer["state"].items()
        }
        return (model, optimizer | {"state": state}) if keep else ({}, {})

    def _gathered(self, value: Tensor, keep: bool) -> Tensor | None:
        whole = self.whole(value)
        return whole.cpu() if keep else None

    def load_model(self, weights: State) -> None:
        ours = self.model.state_dict()
        self.model.load_state_dict({name: _share(value, ours[name]) for name, value in weights.items()})

    def load_optimizer(self, state: State) -> None:
        parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        shared = {
            index: {name: _share(value, parameters[index]) for name, value in moments.items()}
            for index, moments in state["state"].items()
        }
        self.optimizer.load_state_dict(state | {"state": shared})

    def plain_model(self) -> GPT:
        device = next(self.model.parameters()).device
        weights = {name: self.whole(value) for name, value in self.model.state_dict().items()}
        model = GPT(self.model.config, seed=0).to(device)
        model.load_state_dict(weights)
        return model


def _share(value: Tensor, like: Tensor) -> Tensor:
    """This rank's share of a whole tensor that is of a parameter's shape; anything else as it is."""
    from torch.distributed.tensor import DTensor, distribute_tensor

    if not isinstance(like, DTensor) or value.shape != like.shape:
        return value
    return distribute_tensor(value.to(like.device), like.device_mesh, like.placements)


STRATEGIES: dict[str, type[Alone]] = {"ddp": DDP, "zero1": ZeRO1, "fsdp2": FSDP2}
"""PARALLEL_* in lower case."""


def share(model: GPT, optimizer: OptimizerConfig, device: torch.device, strategy: str, ranks: Ranks) -> Alone:
    """A model as the ranks of its run share it, with its optimizer."""
    kind = Alone if ranks.world_size == 1 else STRATEGIES[strategy]
    return kind(model, optimizer, device)
