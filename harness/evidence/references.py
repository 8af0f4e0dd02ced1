"""Which arm another is compared with, and how the loss of that one falls with compute."""

from __future__ import annotations

from harness.configure import arms
from harness.evidence.effects import Slope, slope_of
from harness.evidence.store import Arm, Experiment


def reference_of(arm: Arm, experiment: Experiment) -> tuple[Arm | None, str]:
    """The reference of an arm in an experiment, and a note where it is not the best one or there is none.

    A reference is the first of the arm's references that is in the experiment, as `arms.fitting` has it.
    """
    wanted = [name for name in arm.references if name != arm.base]
    compared = {other.step: other for other in experiment.compared}
    found = arms.reference_among(arm.step, wanted, compared)
    if found is None:
        return None, f"not compared: {' and '.join(wanted)} not run" if wanted else ""
    name = compared[found].base
    note = "" if name == wanted[0] else f"compared with {name}: {wanted[0]}, its fair reference, was not run"
    return compared[found], note


def fitting(name: str, arm: Arm, experiment: Experiment) -> Arm | None:
    """The arm of a step that another may be compared with; None where there is none."""
    compared = {other.step: other for other in experiment.compared}
    found = arms.fitting(name, arm.step, compared)
    return None if found is None else compared[found]


def effective_slope(arm: Arm, experiment: Experiment, metric: str) -> Slope | None:
    """How a reference's loss falls with compute: by its own lengths, or else those of its own reference, and so on."""
    passed: list[Arm] = []
    at: Arm | None = arm
    while at is not None and at not in passed:
        if slope := slope_of(at, experiment, metric):
            return slope
        passed.append(at)
        at, _ = reference_of(at, experiment)
    return None
