"""A rank among ranks that are not there: does a model let itself be shared as a run's settings say, and train so?"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from gpt2.config import RunConfig
from gpt2.machine.device import autocast
from gpt2.machine.ranks import Ranks
from gpt2.model import GPT
from gpt2.run.parallel import share

CPU = torch.device("cpu")

BLOCKS = 2
"""Of the model's, taken as all alike: two, for what happens between them."""


def step_as_rank(config: RunConfig, dtype: str, T: int) -> None:
    """Take the first rank's step, of two micro-batches of T dummy tokens each, with a few of the model's blocks.

    torch's fake process group stands for the other ranks. What they would send is anything, so that the numbers say
    nothing; whatever is raised on the way says something.
    """
    from torch.distributed.algorithms.ddp_comm_hooks import debugging_hooks

    few = config.model.shortened(min(BLOCKS, config.model.n_layer))
    with _fake_ranks(config.train.processes) as ranks:
        model = GPT(few, seed=config.train.seed)
        model.recomputes_blocks = config.train.activation_checkpointing
        shared = share(model, config.optimizer, CPU, config.train.parallel, ranks)
        if config.train.compile != "none":
            shared.compile(config.train.compile, backend="eager")
        if isinstance(shared.forward, nn.parallel.DistributedDataParallel):
            # It waits for an answer, which the fake group does not give.
            shared.forward.register_comm_hook(None, debugging_hooks.noop_hook)
        tokens = torch.zeros(1, T, dtype=torch.long)
        for is_last in (False, True):
            with shared.micro_batch(is_last=is_last):
                with autocast(CPU, dtype):
                    _, loss = shared.forward(tokens, tokens, keep_logits=not config.train.fused_loss)
                loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), config.optimizer.grad_clip or float("inf"))
        shared.optimizer.step()
    torch.compiler.reset()


@contextmanager
def _fake_ranks(world_size: int) -> Iterator[Ranks]:
    """This process as the first of `world_size` ranks."""
    from torch.testing._internal.distributed.fake_pg import FakeStore

    ranks = Ranks()
    ranks.world_size = world_size
    torch.distributed.init_process_group("fake", rank=0, world_size=world_size, store=FakeStore())
    try:
        yield ranks
    finally:
        torch.distributed.destroy_process_group()
