"""What each `make` took: <experiment>/launches.jsonl, a line for each, written by the runner at its end."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gpt2.base.files import read_file
from gpt2.run.records import is_finite

MAX_LAUNCHES = 1 << 26
"""Bytes of a launches.jsonl: some hundred thousand makes."""


@dataclass(frozen=True, kw_only=True)
class Launch:
    """One `make`."""

    devices: int
    slots: int
    """How many runs it had going at once."""

    runs: int
    """How many it trained."""

    train_s: float
    """The sum of their steps, by the clean time of a step."""

    wall_s: float
    predicted_s: float | None
    """The wall time that `make estimate` foretold, where it did so of the same runs on the same devices."""

    @property
    def error(self) -> float | None:
        """How far the estimate was off, as a share of what it took: +0.1 is a tenth too long."""
        return None if self.predicted_s is None else self.predicted_s / self.wall_s - 1


def read_launches(experiment: Path) -> list[Launch]:
    """The makes of an experiment, oldest first; none where the file is not there. Raises UserError where it cannot be
    read. Lines that are none of a runner's, such as half a last one, are left out: nothing else relies on them."""
    path = experiment / "launches.jsonl"
    if not path.exists():
        return []
    lines = (_launch(line) for line in read_file(path, MAX_LAUNCHES).split(b"\n"))
    return [launch for launch in lines if launch]


def _launch(text: bytes) -> Launch | None:
    try:
        line = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if not isinstance(line, Mapping):
        return None
    numbers = ("devices", "slots", "runs", "train_s", "wall_s")
    values: dict[str, Any] = {name: line.get(name) for name in numbers}
    if not all(is_finite(value) and value >= 0 for value in values.values()) or not values["wall_s"]:
        return None
    predicted_s: Any = line.get("predicted_s")
    if not (predicted_s is None or (is_finite(predicted_s) and predicted_s > 0)):
        return None
    return Launch(predicted_s=predicted_s, **values)


def mean_error(launches: list[Launch]) -> tuple[int, float] | None:
    """How many makes had been foretold, and by how much the estimates were off: geometric mean of the ratios, which
    takes twice as long and half as long for equally wrong, as a share. None where none was."""
    ratios = [abs(math.log1p(error)) for launch in launches if (error := launch.error) is not None]
    return (len(ratios), math.expm1(sum(ratios) / len(ratios))) if ratios else None
