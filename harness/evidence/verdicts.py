"""From the numbers of comparisons to their verdicts. What the words mean: harness/evidence/stats.py."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from gpt2.base.errors import UserError
from harness.evidence.comparison import Comparison
from harness.evidence.looks import nominal_levels
from harness.evidence.paired import ALPHA, MIN_SEEDS, detectable_difference, holm
from harness.evidence.pooled import equal_variances, pooled_test
from harness.evidence.store import Experiment

COST_MARGIN = 0.01
"""A relative difference below which two costs count as the same."""

MARGIN = 0.01
"""The same of losses, as a share of compute, where neither a registration nor STUDY_MARGIN says another."""

SURVIVOR = "better on the seeds it survived, failed"
"""What is said of an arm that would be better, had it not failed on some seeds."""

_SHOWN = ("better", "worse")


def margin_of(experiment: Experiment) -> float:
    """The share of compute below which a difference is too small to matter, as it was registered, or as STUDY_MARGIN.

    UserError where it is no number.
    """
    if experiment.registration:
        return experiment.registration[0].margin
    text = experiment.settings.get("STUDY_MARGIN")
    try:
        return MARGIN if text is None else float(text) / 100
    except ValueError:
        where = experiment.path / "config"
        raise UserError(f'{where}: STUDY_MARGIN="{text}": must be a number, in % of compute, such as 1.0') from None


def judge(found: Sequence[Comparison], before: Sequence[Comparison], margin: float) -> list[Comparison]:
    """Fill in p_holm, detectable and verdict of all comparisons of a family of metrics at one look. `before`: the same
    comparisons as they were judged at the look before, in the same order; none at the first."""
    metrics = len({c.metric.name for c in found})
    earlier: Sequence[Comparison | None] = before or [None] * len(found)
    stands = [was if was is not None and was.verdict in _SHOWN else None for was in earlier]
    current = [c if was is None else replace(c, p_overall=was.p_overall) for c, was in zip(found, stands, strict=True)]
    tested = [c for c in current if c.p_overall is not None and c.verdict != "not comparable"]
    adjusted: dict[int, float] = {}
    families: dict[int, int] = {}
    for order in {c.block.order for c in tested}:
        # Later entries know the outcome of earlier ones, so they are corrected for these, and not the other way round.
        members = [c for c in tested if c.block.order <= order]
        families[order] = max(len(members), *(metrics * c.block.family for c in members))
        p_values = holm([c.p_overall or 0.0 for c in members], families[order])
        adjusted |= {id(c): p for c, p in zip(members, p_values, strict=True) if c.block.order == order}

    def judged(c: Comparison, was: Comparison | None) -> Comparison:
        if id(c) not in adjusted:
            return c
        family = families[c.block.order]
        level = nominal_levels(c.block.sizes, ALPHA / family)[c.look_number - 1]
        c = replace(c, p_holm=adjusted[id(c)], detectable=detectable_difference(list(c.deltas.values()), level))
        return _verdict(c, family, margin) if was is None else _as_shown(replace(c, verdict=was.verdict))

    return [judged(c, was) for c, was in zip(current, stands, strict=True)]


def _as_shown(c: Comparison) -> Comparison:
    """A comparison whose verdict is an earlier look's, and a note where it would not be this one's."""
    if not c.was_shown_earlier:
        return c
    note = "shown at an earlier look, which stays; the interval of this one does not leave out 0"
    return replace(c, note="; ".join(filter(None, [c.note, note])))


def _verdict(c: Comparison, family: int, margin: float) -> Comparison:
    """A tested comparison with its verdict; `family` is the number of comparisons that p_holm was adjusted for."""
    assert c.delta_mean is not None and c.p_value is not None and c.p_holm is not None
    if c.n < MIN_SEEDS:
        return c
    if _is_within(c, margin):
        return replace(c, verdict="equivalent")
    if c.p_holm < ALPHA:
        is_better = (c.delta_mean > 0) == c.metric.higher_is_better
        return replace(c, verdict="better" if is_better else "worse")
    if c.p_value < c.level:
        note = f"p < {c.level:.2g} by itself, but not as one of {family} comparisons"
        return replace(c, note="; ".join(filter(None, [c.note, note])))
    return c


def _is_within(c: Comparison, margin: float) -> bool:
    """Whether the whole interval of a difference is too small to matter."""
    if c.metric.is_cost:
        most = COST_MARGIN * abs(c.reference_mean or 0.0)
        return c.ci_low is not None and c.ci_high is not None and -most <= c.ci_low and c.ci_high <= most
    if not any(c.deltas.values()):
        return True
    return (
        c.compute_low is not None
        and c.compute_high is not None
        and -margin <= c.compute_low
        and c.compute_high <= margin
    )


def with_pooled_error(c: Comparison, column: Sequence[Comparison]) -> Comparison:
    """A comparison of losses with what the error of all arms of the same reference, seeds and look says."""
    if c.p_value is None or c.verdict == "not comparable":
        return c
    beside = [
        o
        for o in column
        if (o.reference, o.block.seeds, o.look_number) == (c.reference, c.block.seeds, c.look_number)
        and o.verdict != "not comparable"
        and c.deltas.keys() <= o.deltas.keys()
    ]
    # The reference's own row is 0: what a seed does to all arms drops out.
    losses = np.array([[0.0] * c.n, *([o.deltas[seed] for seed in c.deltas] for o in beside)])
    test = pooled_test(losses, arm=1 + beside.index(c), reference=0, alpha=c.level)
    c = replace(c, p_pooled=test.p_value, pooled_low=test.ci_low, pooled_high=test.ci_high)
    unequal = equal_variances(losses)
    if unequal is None or unequal >= ALPHA:
        return c
    note = f"the pooled error does not hold: arms are not equally noisy (p = {unequal:.2g})"
    return replace(c, note="; ".join(filter(None, [c.note, note])))


def of_survivors(c: Comparison) -> Comparison:
    """What is better where it did not fail is not better."""
    if c.verdict != "better" or not c.failed_seeds:
        return c
    note = f"{SURVIVOR} on {c.failed}"
    return replace(c, verdict="undecided", note="; ".join(filter(None, [note, c.note])))
