"""How much of the devices' time went into training: the figure of merit of an ablation.

<experiment>/launches.jsonl     a line for each `make` that trained something
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from gpt2.base.files import naming


@dataclass(frozen=True, kw_only=True)
class Launch:
    """What one `make` took."""

    runs: int
    """Trained, to the end or not."""

    devices: int
    slots: int
    """Runs that could be trained side by side."""

    train_s: float
    """Seconds of training steps, all runs together, each as fast as it is with its device to itself."""

    wall_s: float
    """Seconds from the start of `make` to its end, without preparing data."""

    @property
    def efficiency(self) -> float:
        """The share of the slots' time that went into training steps."""
        return self.train_s / (self.slots * self.wall_s)

    def describe(self, what: str) -> str:
        """One line. `what`: the slots, such as "2 GPUs"."""
        return (
            f"efficiency {self.efficiency:.2f}: {self.train_s:.1f} s of training steps in {self.wall_s:.1f} s on {what}"
        )

    def record(self, experiment: Path, predicted_s: float | None = None) -> None:
        """Add a line to launches.jsonl. `predicted_s`: what `make estimate` said of `wall_s`."""
        line: dict[str, Any] = {
            "ended": datetime.now(timezone.utc).isoformat(timespec="seconds"),
            "devices": self.devices,
            "slots": self.slots,
            "runs": self.runs,
            "train_s": round(self.train_s, 3),
            "wall_s": round(self.wall_s, 3),
            "efficiency": round(self.efficiency, 4),
            "predicted_s": predicted_s,
        }
        path = experiment / "launches.jsonl"
        with naming(path), path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
