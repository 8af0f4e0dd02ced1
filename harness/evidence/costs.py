"""What the cost of a run depends on, beside the run itself: two costs are of the same if all of it is the same."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from gpt2.base.text import shown
from gpt2.run.records import Json
from harness.evidence.runs import RunRecord, compile_ran, device_name, processes_of

NOT_RECORDED = "not recorded"

_KEYS = {
    "threads": ("hardware", "threads"),
    "driver": ("hardware", "driver"),
    "torch": ("versions", "torch"),
    "CUDA": ("versions", "cuda"),
    "cuDNN": ("versions", "cudnn"),
    "Triton": ("versions", "triton"),
    "kernel of attention": ("sdpa", "ran"),
    "matrix products": ("products", "ran"),
}
"""Name -> section and key of provenance.json, and of each entry of its `resumed`."""


def cost_facts(run: RunRecord) -> dict[str, str | None]:
    """What a run's costs depend on, by name; None where a run has no records.

    What earlier versions did not record is `NOT_RECORDED`: the same in two runs without it, since nothing is known
    against them, and other than whatever a later run has recorded. A run that went on elsewhere has both.
    """
    facts = {"compile": compile_ran(run), "device": device_name(run)}
    if run.provenance is None:
        return facts | dict.fromkeys(_KEYS)
    return facts | {name: _over(processes_of(run.provenance), *keys) for name, keys in _KEYS.items()}


def _over(processes: Sequence[Json], section: str, key: str) -> str:
    """A fact of each process that a run has had, one after the other."""
    return shown(", then ".join(dict.fromkeys(_said(process.get(section, {}), key) for process in processes)))


def _said(section: dict[str, Any], key: str) -> str:
    if key not in section:
        return NOT_RECORDED
    return "none" if section[key] is None else str(section[key])
