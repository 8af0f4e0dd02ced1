"""Arms that were tuned to different values: what they differ by is those values' as well."""

from __future__ import annotations

from contextlib import suppress

from harness.configure.tuning import Tuned
from harness.evidence.references import fitting, reference_of
from harness.evidence.store import Arm, Experiment
from harness.evidence.tuned import tuned_of


def apart(tuned: Tuned | None, arm: Arm, other: Arm) -> dict[str, tuple[str, str]]:
    """Symbol -> the two values, of what was tuned for both and came to different ones."""
    choices = tuned.choices if tuned else {}
    if arm.step not in choices or other.step not in choices:
        return {}
    ours, theirs = choices[arm.step].settings, choices[other.step].settings
    both = {symbol: (value, theirs[symbol]) for symbol, value in ours.items() if symbol in theirs}
    return {symbol: values for symbol, values in both.items() if not _same(*values)}


def _same(value: str, other: str) -> bool:
    with suppress(ValueError):
        return float(value) == float(other)
    return value == other


def tuned_apart(experiment: Experiment) -> list[str]:
    """A sentence for each arm that others are held against, and each symbol that was tuned to other values for them."""
    tuned = tuned_of(experiment)
    found: dict[tuple[str, str, str], dict[str, dict[str, None]]] = {}
    for arm in experiment.compared:
        others = [reference_of(arm, experiment)[0], *(fitting(name, arm, experiment) for name in arm.beside)]
        for other in filter(None, others):
            for symbol, (value, of_other) in apart(tuned, arm, other).items():
                found.setdefault((symbol, of_other, other.title), {}).setdefault(value, {})[arm.title] = None
    said = []
    for (symbol, of_other, title), values in found.items():
        ours = "; to ".join(f"{value} for {', '.join(arms)}" for value, arms in values.items())
        said.append(f"{symbol}: tuned to {of_other} for {title}, and to {ours}: what they differ by is also {symbol}'s")
    return said
