"""Checkpoints written behind the training, from a copy: the device goes on while the disk is slow."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import torch
from torch import Tensor


class Behind:
    """Does one thing at a time, in a thread. What goes wrong there is raised by whatever is called next."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, "checkpoint")
        self._pending: Future[Any] | None = None

    def do(self, work: Callable[[], Any]) -> None:
        """Begin something, when what was begun before is done."""
        self.wait()
        self._pending = self._thread.submit(work)

    def check(self) -> None:
        """Raise what has gone wrong, if anything has."""
        if self._pending is not None and self._pending.done():
            self.wait()

    def wait(self) -> None:
        """Wait until what was begun is done."""
        pending, self._pending = self._pending, None
        if pending is not None:
            pending.result()


class HostCopy:
    """Copies of a state on the CPU, each in the memory of the one before: what takes time is to get hold of memory."""

    def __init__(self) -> None:
        self._buffers: dict[tuple[Any, ...], Tensor] = {}

    def of(self, state: Any) -> Any:
        """A copy of the tensors in dicts, lists and tuples; other values as they are. It lasts until the next one.

        Tensors that were one, as tied weights are, are one in the copy.
        """
        copies: dict[tuple[Any, ...], Tensor] = {}
        places: dict[tuple[Any, ...], int] = {}
        used: dict[tuple[Any, ...], Tensor] = {}

        def copy(value: Any) -> Any:
            if isinstance(value, Tensor):
                same = (value.device, value.data_ptr(), value.shape, value.stride(), value.dtype)
                if value.numel() == 0 or same not in copies:
                    kind = (value.shape, value.dtype, value.is_cuda)
                    places[kind] = places.get(kind, -1) + 1  # the how manyeth of its kind
                    key = (*kind, places[kind])
                    used[key] = self._buffer(key, value)
                    used[key].copy_(value.detach(), non_blocking=True)
                    copies[same] = used[key]
                return copies[same]
            if isinstance(value, dict):
                return {name: copy(item) for name, item in value.items()}
            if isinstance(value, list | tuple):
                return type(value)(copy(item) for item in value)
            return value

        with torch.no_grad():
            copied = copy(state)
        self._buffers = used
        if any(tensor.is_pinned() for tensor in used.values()):
            torch.cuda.synchronize()
        return copied

    def _buffer(self, key: tuple[Any, ...], like: Tensor) -> Tensor:
        found = self._buffers.get(key)
        # Pinned memory is what a GPU writes to by itself, at several times the speed.
        return torch.empty(like.shape, dtype=like.dtype, pin_memory=like.is_cuda) if found is None else found
