"""What each `make` took: <experiment>/launches.jsonl, a line for each that trained something.

Its figure of merit is efficiency: the share of the devices' time that went into training steps.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from gpt2.base.files import naming, read_file
from gpt2.run.records import is_finite
from harness.evidence.store import parts

NAME = "launches.jsonl"
MAX_LAUNCHES = 1 << 26
"""Bytes of a launches.jsonl: some hundred thousand makes."""


@dataclass(frozen=True, kw_only=True)
class Launch:
    """One `make`, on devices of its own or with jobs in Slurm's queue."""

    devices: int | None = None
    """None for jobs, as is `slots`: how many run at once is the queue's affair."""

    slots: int | None = None
    """How many runs could be trained at once: each has a device, a share of one, or several."""

    device_s: float | None = None
    """Of jobs: seconds that the runs of `done` had their devices, from their beginning on, times the devices of each.
    None where it is `devices` that were had, all the time."""

    runs: int
    """How many it trained, to the end or not."""

    train_s: float
    """Seconds of training steps, all runs together, each as fast as it is with its device to itself; of jobs, those of
    `done`."""

    wall_s: float
    """Seconds from the start of `make` to its end, without preparing data."""

    ready_s: float | None = None
    """Of these, those before any run trained: imports, building, compiling."""

    predicted_s: float | None = None
    """The wall time that `make estimate` foretold, where it did so of the same runs on the same devices."""

    done: Mapping[str, float | None] = field(default_factory=dict)
    """Of each run that it brought to its end, by name: the validation loss. Nothing trains such a run again, unless
    somebody takes it away."""

    @property
    def efficiency(self) -> float | None:
        """Training steps' time / (slots x wall time). None of jobs: a queue's devices are not idle while they wait."""
        return None if self.slots is None else self.train_s / (self.slots * self.wall_s)

    def describe(self, what: str) -> str:
        """One line. `what`: the slots, such as "GPU 0, GPU 1", or "Slurm"."""
        share = "" if self.efficiency is None else f"efficiency {self.efficiency:.2f}: "
        foretold = "" if self.error is None else f"; `make estimate` had said {self.predicted_s:.1f} s"
        begun = "" if self.ready_s is None else f", the first of them after {self.ready_s:.1f} s"
        return f"{share}{self.train_s:.1f} s of training steps in {self.wall_s:.1f} s on {what}{begun}{foretold}"

    def record(self, experiment: Path) -> None:
        """Add a line to launches.jsonl."""
        ended = datetime.now(timezone.utc).isoformat(timespec="seconds")
        values = asdict(self) | {"efficiency": self.efficiency}
        rounded = {name: round(value, 4) if isinstance(value, float) else value for name, value in values.items()}
        path = experiment / NAME
        with naming(path), path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"ended": ended} | rounded) + "\n")

    @property
    def error(self) -> float | None:
        """How far the estimate was off, as a share of what it took: +0.1 is a tenth too long."""
        return None if self.predicted_s is None else self.predicted_s / self.wall_s - 1


def read_launches(experiment: Path) -> list[Launch]:
    """The makes of one directory of runs, oldest first; none where the file is not there.

    Lines that are none of a runner's, such as half a last one, are left out: nothing else relies on them. Raises
    UserError where the file cannot be read.
    """
    path = experiment / NAME
    if not path.exists():
        return []
    lines = (_launch(line) for line in read_file(path, MAX_LAUNCHES).split(b"\n"))
    return [launch for launch in lines if launch]


def launches_of(experiment: Path) -> list[Launch]:
    """The makes that trained something of an experiment, its trials or its runs on noise. Raises UserError."""
    return [launch for part in parts(experiment) for launch in read_launches(part) if launch.runs]


def _launch(text: bytes) -> Launch | None:
    try:
        line = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if not isinstance(line, Mapping):
        return None
    shares = ("devices", "slots") if line.get("device_s") is None else ("device_s",)
    values: dict[str, Any] = {name: line.get(name) for name in (*shares, "runs", "train_s", "wall_s")}
    if not all(is_finite(value) and value >= 0 for value in values.values()) or not values["wall_s"]:
        return None
    if "slots" in shares and not values["slots"]:
        return None
    maybe: dict[str, Any] = {name: line.get(name) for name in ("predicted_s", "ready_s")}
    if not all(value is None or (is_finite(value) and value > 0) for value in maybe.values()):
        return None
    if maybe["predicted_s"] is not None and not 1e-9 < maybe["predicted_s"] / values["wall_s"] < 1e9:
        return None
    done = line.get("done")
    if not isinstance(done, Mapping) or not all(loss is None or is_finite(loss) for loss in done.values()):
        done = {}  # of an earlier version
    return Launch(**maybe, **values, done=done)


def device_hours(launches: Sequence[Launch]) -> float:
    """Hours of devices that they had, busy or not."""
    return sum((of.devices or 0) * of.wall_s if of.device_s is None else of.device_s for of in launches) / 3600


def mean_efficiency(launches: Sequence[Launch]) -> float | None:
    """Training steps' time / (slots x wall time) of all together that had slots; None where none had."""
    slots_s = [(of.train_s, of.slots * of.wall_s) for of in launches if of.slots is not None]
    return sum(train_s for train_s, _ in slots_s) / sum(had_s for _, had_s in slots_s) if slots_s else None


def mean_error(launches: list[Launch]) -> tuple[int, float] | None:
    """How many makes had been foretold, and by how much the estimates were off: geometric mean of the ratios, which
    takes twice as long and half as long for equally wrong, as a share. None where none was."""
    ratios = [abs(math.log1p(error)) for launch in launches if (error := launch.error) is not None]
    return (len(ratios), math.expm1(sum(ratios) / len(ratios))) if ratios else None
