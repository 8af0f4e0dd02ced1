"""Which arm another is compared with, and how the loss of that one falls with compute."""

from __future__ import annotations

from harness.configure.kconfig import SIZE
from harness.evidence.effects import Slope, slope_of
from harness.evidence.store import Arm, Experiment


def reference_of(arm: Arm, experiment: Experiment) -> tuple[Arm | None, str]:
    """The reference of an arm in an experiment, and a note where it is not the best one or there is none.

    A reference is the first of the arm's references that is in the experiment. Where values are swept, they have to
    agree in what both sweep: ra-v5@LEARNING_RATE=1e-3@RA_V5_R=8 is compared with baseline@LEARNING_RATE=1e-3. Sizes are
    never mixed.
    """
    wanted = [name for name in arm.references if name != arm.base]
    for name in wanted:
        if other := fitting(name, arm, experiment):
            note = "" if name == wanted[0] else f"compared with {name}: {wanted[0]}, its fair reference, was not run"
            return other, note
    return None, f"not compared: {' and '.join(wanted)} not run" if wanted else ""


def fitting(name: str, arm: Arm, experiment: Experiment) -> Arm | None:
    """The arm of a step that another may be compared with; None where there is none."""
    named = [other for other in experiment.compared if other.base == name]
    found = [other for other in named if other.swept <= arm.swept and _size(other) == _size(arm)]
    return max(found, key=lambda other: len(other.swept), default=None)


def _size(arm: Arm) -> set[str]:
    return {label for label in arm.swept if label.startswith(f"{SIZE}=")}


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
