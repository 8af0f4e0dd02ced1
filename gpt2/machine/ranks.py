"""The processes that train one run together, its ranks, and what they tell each other.

A run of one process is rank 0 of 1: everything here is then trivial, and torch.distributed is never imported. Ranks are
started with torchrun's environment (RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR, ...), by torchrun or by
gpt2/run/processes.py. Tensors on a GPU go through NCCL; everything else, and all there is on a CPU, through gloo.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch

from gpt2.base.errors import UserError

T = TypeVar("T")


def is_rank() -> bool:
    """Whether this process was started as one of those that train a run together."""
    return "RANK" in os.environ


class Ranks:
    """This process among those of its run. By itself: the only one."""

    rank = 0
    world_size = 1
    nodes = 1
    """Machines that they are on."""

    def gather(self, value: T) -> list[T]:
        """The value of each rank, in their order, on every rank."""
        return [value]

    def from_first(self, make: Callable[[], T]) -> T:
        """What `make` returns on rank 0, where alone it is called."""
        return make()

    def mean(self, values: Sequence[float]) -> list[float]:
        """The mean over ranks of each value; the same bits on every rank."""
        return list(values)

    def largest(self, value: float) -> float:
        """The largest of all ranks."""
        return max(self.gather(value))

    @property
    def is_first(self) -> bool:
        """Whether it is the one that writes."""
        return self.rank == 0


ALONE = Ranks()


class _Several(Ranks):
    """One of several."""

    def __init__(self, rank: int, world_size: int) -> None:
        self.rank = rank
        self.world_size = world_size
        self.nodes = len(set(self.gather(socket.gethostname())))

    def gather(self, value: T) -> list[T]:
        found: list[Any] = [None] * self.world_size
        torch.distributed.all_gather_object(found, value)
        return found

    def from_first(self, make: Callable[[], T]) -> T:
        found: list[Any] = [make() if self.is_first else None]
        torch.distributed.broadcast_object_list(found, src=0)
        value: T = found[0]
        return value

    def mean(self, values: Sequence[float]) -> list[float]:
        of_all = torch.tensor(values, dtype=torch.float64)
        torch.distributed.all_reduce(of_all)
        means: list[float] = (of_all / self.world_size).tolist()
        return means


def join(device: str, processes: int) -> Ranks:
    """Meet the other ranks of this process's run, and take the GPU that is this one's, where `device` has it train.

    `device`: DEVICE_* of the run's settings; `processes`: its PROCESSES_PER_RUN. Raises UserError where there are not
    as many ranks, or not as many GPUs.
    """
    rank, world_size = (int(os.environ[name]) for name in ("RANK", "WORLD_SIZE")) if is_rank() else (0, 1)
    if world_size != processes:
        raise UserError(
            f"PROCESSES_PER_RUN={processes}: torchrun has started {world_size} (WORLD_SIZE); it has to start as many "
            "as are asked for"
        )
    if world_size == 1:
        return ALONE
    if device == "mps":
        raise UserError(f"DEVICE_MPS=y: PROCESSES_PER_RUN={processes} train on GPUs of CUDA, or on a CPU")
    gpus = torch.cuda.device_count() if device != "cpu" else 0
    local = int(os.environ.get("LOCAL_RANK", "0"))
    if gpus and local >= gpus:
        here = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
        raise UserError(f"PROCESSES_PER_RUN={processes}: {here} of them are here, and torch finds {gpus} GPUs")
    if gpus:
        torch.cuda.set_device(local)
    torch.distributed.init_process_group("cpu:gloo,cuda:nccl" if gpus else "gloo", rank=rank, world_size=world_size)
    return _Several(rank, world_size)
