"""What `make estimate` foretold of an ablation, kept where `make` records beside it what came to be.

<experiment>/estimate.json: of which runs, on how many devices, how long. What a runner did is a line each of
<experiment>/launches.jsonl (harness/evidence/launches.py). Trials and runs on noise have both of their own, in tuning/
and noise/.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from gpt2.base.errors import UserError
from gpt2.base.files import read_json, write_json
from gpt2.run.records import is_finite

NAME = "estimate.json"


def hash_of_runs(names: Iterable[str]) -> str:
    """SHA-256, as hex, of the names of the runs that are to be trained, whatever their order."""
    return hashlib.sha256("\n".join(sorted(names)).encode()).hexdigest()


def write_prediction(experiment: Path, *, runs: Iterable[str], devices: int, slots: int, **values: Any) -> None:
    """Keep a prediction for the runs that are not done; `values` have to hold "wall_s"."""
    experiment.mkdir(parents=True, exist_ok=True)
    of = {"runs_hash": hash_of_runs(runs), "devices": devices, "slots": slots}
    write_json(experiment / NAME, of | values)


def predicted_wall_s(experiment: Path, *, runs: Iterable[str], devices: int, slots: int) -> float | None:
    """The wall time that was foretold for these runs on these devices and slots; None where none was, or of others."""
    path = experiment / NAME
    if not path.exists():
        return None
    try:
        found = read_json(path)
    except UserError:  # it is no record of a run, and whoever damaged it can estimate again
        return None
    of = {"runs_hash": hash_of_runs(runs), "devices": devices, "slots": slots}
    wall_s: Any = found.get("wall_s")
    return float(wall_s) if is_finite(wall_s) and of.items() <= found.items() else None
