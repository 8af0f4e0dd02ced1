"""What a report says in a sentence: the verdict, and what the controls came out as."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from gpt2.base.numbers import decimal
from harness.evidence.comparison import Comparison
from harness.evidence.effects import gain
from harness.evidence.paired import MIN_SEEDS
from harness.evidence.references import effective_slope
from harness.evidence.store import Experiment
from harness.evidence.verdicts import SURVIVOR
from harness.report.numbers import DASH, count, effect_interval, mean_and_spread, percent, signed

FEW = 3
"""Of more arms than these that are undecided, what each may be worth is left to the table."""

DECIDED = ("better", "worse", "equivalent")
"""Verdicts that a control fails by, where another is due."""


def verdict(experiment: Experiment, losses: Sequence[Comparison]) -> str:
    """A few plain sentences on the final validation loss, first of all that a control failed, where one did. That
    nothing can be said yet is a verdict too."""
    titles = {arm.step: arm.title for arm in experiment.arms}
    tested = [c for c in losses if c.n > 0]
    if not tested:
        return _verdict_without_pairs(experiment)
    if max(c.n for c in tested) < MIN_SEEDS:
        seeds = max(c.n for c in tested)
        return (
            f"Undecided: {count(seeds, 'seed')} cannot show a difference, the spread between seeds being as large as "
            f"what is looked for. At least {MIN_SEEDS} are needed, 5 are better."
        )
    groups = []
    # What so few seeds could have shown is nothing: they are no part of what the rest would have.
    few = [c for c in tested if c.verdict == "undecided" and c.n < MIN_SEEDS]
    for word in ("better", "worse", "equivalent", "undecided", "not comparable"):
        members = [c for c in tested if c.verdict == word and c not in few]
        if members:
            in_short = word == "undecided" and len(members) > FEW
            named = [titles[c.step] + (_failed_behind(c) if in_short else _behind(c, titles)) for c in members]
            groups.append(f"{_WORDS[word]}: {'; '.join(named)}.")
    if few:
        said = "; ".join(f"{titles[c.step]} ({', '.join(filter(None, [count(c.n, 'seed'), _failed(c)]))})" for c in few)
        groups.append(f"Undecided with fewer than {MIN_SEEDS} seeds, which can show no difference: {said}.")
    open_ones = [c for c in tested if c.verdict == "undecided" and c.detectable is not None and c not in few]
    if open_ones:
        sizes = [c.detectable or 0.0 for c in open_ones]
        low, high = (decimal(limit(sizes), 4) for limit in (min, max))
        size = low if low == high else f"{low} to {high}"
        where = f"Where undecided{f' with {MIN_SEEDS} seeds or more' * bool(few)}"
        worth = _worth(open_ones, experiment)
        groups.append(f"{where}, these seeds would probably have shown a difference of {size} nats/token{worth}.")
    return " ".join([*_failures(experiment, losses), *groups, *_waits(tested, titles)])


def _worth(open_ones: Sequence[Comparison], experiment: Experiment) -> str:
    """What differences that would have been shown are worth in compute; nothing where that is not known of all."""
    arms = {arm.step: arm for arm in experiment.arms}
    slopes = [effective_slope(arms[c.reference], experiment, c.metric.name) for c in open_ones]
    worth = [
        gain(-(c.detectable or 0.0) / slope.mean)
        for c, slope in zip(open_ones, slopes, strict=True)
        if slope is not None and slope.mean > 0
    ]
    if len(worth) < len(open_ones):
        return ""
    ends = (f"{100 * limit(worth):.2g}" for limit in (min, max))
    return f", which is {' to '.join(dict.fromkeys(ends))} % of compute"


def _waits(tested: Sequence[Comparison], titles: dict[str, str]) -> Iterator[str]:
    """That planned looks are still to come."""
    if before := dict.fromkeys(titles[c.step] for c in tested if not c.look_number):
        yield f"Before its first planned look nothing is decided: {'; '.join(before)}."
    if looks := dict.fromkeys(c.look for c in tested if 0 < c.look_number < len(c.block.sizes)):
        yield f"This is look {' and '.join(looks)}: a later one may decide what is undecided."


_WORDS = {
    "better": "Lower validation loss",
    "worse": "Higher validation loss",
    "equivalent": "Equivalent in validation loss",
    "undecided": "Undecided",
    "not comparable": "Not comparable",
}


def _verdict_without_pairs(experiment: Experiment) -> str:
    if not any(arm.done for arm in experiment.arms):
        return "No verdict yet: no run has finished."
    if len(experiment.arms) > 1:
        return "No verdict yet: no arm and its reference have both finished with the same seed."
    arm = experiment.arms[0]
    loss = mean_and_spread([v for run in arm.done if (v := run.value("val_loss")) is not None], 4)
    return f"Nothing to compare: {arm.title} is the only arm. Its final validation loss is {loss} nats/token."


def _behind(c: Comparison, titles: dict[str, str]) -> str:
    """In parentheses, what a verdict rests on: the effect, and at how many seeds the arm failed."""
    parts = []
    if c.compute is not None and c.verdict != "not comparable":
        within = f", {effect_interval(c)}" * (effect_interval(c) != DASH)
        parts.append(f"worth {percent(c.compute)} of compute{within}")
    if c.verdict in ("better", "worse"):
        parts.append(f"{_amount(c)} against {titles[c.reference]}")
    if c.was_shown_earlier:
        parts.append("shown at an earlier look, which stays")
    if failed := _failed(c):
        parts.append(failed)
    return f" ({'; '.join(parts)})" if parts else ""


def _failed_behind(c: Comparison) -> str:
    return f" ({failed})" if (failed := _failed(c)) else ""


def _failed(c: Comparison) -> str:
    """That an arm failed on some of its seeds: the others may be those that were easy."""
    if not c.failed_seeds:
        return ""
    survived = c.verdict == "undecided" and SURVIVOR in c.note
    return f"{SURVIVOR if survived else 'failed'} on {c.failed} seeds"


def _amount(c: Comparison) -> str:
    """A difference in loss in absolute and relative terms."""
    assert c.delta_mean is not None
    relative = "" if c.relative is None else f", {signed(100 * c.relative, 2)} %"
    return f"{signed(c.delta_mean, 4)} nats/token{relative}"


def failed_controls(experiment: Experiment, losses: Sequence[Comparison]) -> list[Comparison]:
    """Those of the controls that came out as something else than they have to. One that is undecided did not fail: the
    seeds were too few."""
    due = {arm.step: arm.control for arm in experiment.arms}
    return [c for c in losses if due[c.step] and c.verdict in DECIDED and c.verdict != due[c.step]]


def _failures(experiment: Experiment, losses: Sequence[Comparison]) -> Iterator[str]:
    """What controls failed, a sentence for each reference: comparisons with another are not touched by it."""
    arms = {arm.step: arm for arm in experiment.arms}
    failed = failed_controls(experiment, losses)
    for reference in dict.fromkeys(c.reference for c in failed):
        found = [_control(c, arms[c.step].title, arms[c.step].control) for c in failed if c.reference == reference]
        yield (
            f"{'A control' if len(found) == 1 else 'Controls'} failed: {'; '.join(found)}: whatever made it so may be "
            f"behind every verdict against {arms[reference].title}, and none of them counts."
        )


def controls(experiment: Experiment, losses: Sequence[Comparison]) -> str:
    """What became of the arms whose effect is known: what the experiment could see. Empty where nothing is compared."""
    if not losses:
        return ""
    arms = {arm.step: arm for arm in experiment.arms}
    found = [_control(c, arms[c.step].title, arms[c.step].control) for c in losses if arms[c.step].control]
    if not found:
        return "What this experiment could see is not shown: none of its arms is a control, whose effect is known."
    return f"What this experiment could see: {'; '.join(found)}."


def _control(c: Comparison, title: str, due: str) -> str:
    worth = "" if c.compute is None else f" ({percent(c.compute)} of compute, {effect_interval(c)})"
    as_due = "as it has to be" if c.verdict == due else f"where it has to be {due}"
    return f"{title} is {c.verdict}{worth}, {as_due}"
