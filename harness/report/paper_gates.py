"""Where the gates of an experiment's arms ended, on text and on random tokens, as the technical report has it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import fmean

import numpy as np

from harness.evidence.gate_noise import Superiority, of_heads, superiority
from harness.evidence.quality import GATE, GATE_THRESHOLD
from harness.evidence.runs import RunRecord
from harness.evidence.store import Arm, Experiment
from harness.report.numbers import DASH


@dataclass(frozen=True, kw_only=True)
class Gates:
    """Where the gates of an arm, of one name, ended."""

    step: str
    arm: str
    """Its title."""

    name: str
    start: float
    finals: np.ndarray
    """[runs, heads]."""

    on_noise: np.ndarray | None
    """Those of the same arm trained on random tokens; None where that was not done."""

    superiority: Superiority | None
    """Over these; None where there are none."""

    @property
    def have_moved(self) -> bool:
        return bool((self.finals != self.start).any())

    @property
    def above(self) -> str:
        """Heads above the plan's threshold, of how many, over all runs; a dash for a gate that is not the plan's or
        starts there."""
        if self.name != GATE or self.start > GATE_THRESHOLD:
            return DASH
        return f"{int((self.finals > GATE_THRESHOLD).sum())} of {self.finals.size}"

    @property
    def has_risen(self) -> bool:
        """Whether gates are shown to end above those of the same arm on random tokens."""
        return self.superiority is not None and self.superiority.low is not None and self.superiority.low > 0.5


def gates_of(arm: Arm, noise: Experiment | None, title: str) -> Iterator[Gates]:
    """Of each name that an arm has gates of. `noise`: the experiment's runs on random tokens."""
    runs = [run for run in arm.done if (run.summary or {}).get("gates")]
    beside = [run for of in (noise.arms if noise else ()) if of.step == arm.step for run in of.done]
    for name in (runs[0].summary or {})["gates"] if runs else ():
        first = [of_heads(line["gates"][name]) for run in runs for line in run.metrics[:20] if line["kind"] == "gates"]
        finals, of_noise = _finals(runs, name), _finals(beside, name)
        yield Gates(
            step=arm.step,
            arm=title,
            name=name,
            start=fmean(first[0]),
            finals=finals,
            on_noise=of_noise if beside else None,
            superiority=superiority(finals.tolist(), of_noise.tolist()) if beside else None,
        )


def _finals(runs: Sequence[RunRecord], name: str) -> np.ndarray:
    return np.array([of_heads((run.summary or {})["gates"][name]) for run in runs], dtype=float)
