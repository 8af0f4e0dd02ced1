"""Mirrors of metrics.jsonl in trackers that people already look at. Both are optional (extra `tracking`)."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from gpt2.base.errors import UserError
from gpt2.config import RunConfig


class Trackers:
    """The trackers a run's configuration asks for. UserError if the package of one is not installed."""

    def __init__(self, config: RunConfig, out: Path) -> None:
        self._tensorboard: Any = None
        self._wandb: Any = None
        if config.train.track_tensorboard:
            try:
                from torch.utils.tensorboard import SummaryWriter
            except ImportError:
                raise _missing("TRACK_TENSORBOARD", "tensorboard") from None
            self._tensorboard = SummaryWriter(str(out / "tensorboard"))
        if config.train.track_wandb:
            try:
                import wandb
            except ImportError:
                raise _missing("TRACK_WANDB", "wandb") from None
            self._wandb = wandb.init(
                project="gpt2-attention",
                group=config.name,
                name="/".join(out.parts[-2:]),
                dir=str(out),
                config=dataclasses.asdict(config),
            )

    def write(self, kind: str, step: int, **values: Any) -> None:
        """Pass on the numbers of one line of metrics.jsonl, named kind/key."""
        numbers = {f"{kind}/{key}": value for key, value in values.items() if isinstance(value, int | float)}
        if self._tensorboard is not None:
            for name, value in numbers.items():
                self._tensorboard.add_scalar(name, value, step)
        if self._wandb is not None:
            self._wandb.log(numbers, step=step)

    def close(self) -> None:
        if self._tensorboard is not None:
            self._tensorboard.close()
        if self._wandb is not None:
            self._wandb.finish()


def _missing(symbol: str, package: str) -> UserError:
    return UserError(f"CONFIG_{symbol}=y: {package} is not installed; `pip install {package}`, or say n")
