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


def host_copy(state: Any) -> Any:
    """A copy on the CPU of tensors in dicts, lists and tuples; other values as they are.

    Tensors that were one, as tied weights are, are one in the copy.
    """
    copies: dict[tuple[Any, ...], Tensor] = {}

    def copy(value: Any) -> Any:
        if isinstance(value, Tensor):
            key = (value.device, value.data_ptr(), value.shape, value.stride(), value.dtype)
            if value.numel() == 0 or key not in copies:
                copies[key] = value.detach().to("cpu", copy=True)
            return copies[key]
        if isinstance(value, dict):
            return {name: copy(item) for name, item in value.items()}
        if isinstance(value, list | tuple):
            return type(value)(copy(item) for item in value)
        return value

    with torch.no_grad():
        return copy(state)
