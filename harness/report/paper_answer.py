"""The technical report's answer: what RA v5 is worth by one experiment, or, where a control of it failed, what of it
still counts."""

from __future__ import annotations

from collections.abc import Container, Iterator, Sequence

from gpt2.base.errors import UserError
from harness.evidence.comparison import Comparison
from harness.report.numbers import effect_interval, percent
from harness.report.paper_study import RA_V5, Study

RECIPROCAL = "ra-"
"""How names of steps with reciprocity begin."""


def answer(study: Study) -> str:
    """One to three sentences. UserError where no arm of RA v5 has been compared."""
    if not study.ra_v5:
        raise UserError(f"{study.path}: no arm of RA v5 has been compared")
    return " ".join(_what_counts(study, study.ra_v5_failed)) if study.ra_v5_failed else _effects(study)


def _effects(study: Study) -> str:
    first, *others = study.ra_v5
    effects = [
        f"{study.name(first)} is worth {percent(first.compute)} of compute (95 % interval "
        f"{effect_interval(first)}, n = {first.n}): {first.verdict}",
        *(f"{study.name(c)} {percent(c.compute)} ({effect_interval(c)}, n = {c.n}): {c.verdict}" for c in others),
    ]
    how = "each arm tuned alike" if study.is_tuned else "not tuned"
    return f"At {study.size}, {how}, {'; '.join(effects)}."


def _what_counts(study: Study, failed: Sequence[Comparison]) -> Iterator[str]:
    """That controls failed; RA v5 beside others that were tuned to the same; and verdicts that no failure touches."""
    said = "; ".join(
        f"{study.name(c)} is {c.verdict} ({percent(c.compute)} of compute, 95 % interval {effect_interval(c)}, "
        f"n = {c.n}), where it has to be {study.arms[c.step].control}"
        for c in failed
    )
    references = " or ".join(dict.fromkeys(study.reference(c) for c in failed))
    yield (
        f"At {study.size} {'a control' if len(failed) == 1 else 'controls'} failed: {said}, so that no verdict against "
        f"{references} counts, RA v5's included."
    )
    touched = {c.reference for c in study.failed}
    besides = [c for c in study.besides if c.step.startswith(RA_V5) and not study.apart(c)]
    how = "tuned to the same values" if study.is_tuned else "not tuned either"
    for reference, members in _by_reference(study, besides, touched):
        yield f"Beside {reference}, {how} and without verdict, {_worth(study, members)}."
    reciprocal = [c for c in study.losses if c.step.startswith(RECIPROCAL)]
    for reference, members in _by_reference(study, reciprocal, touched):
        yield f"Against {reference}, which no failed control touches, {_worth(study, members, with_verdict=True)}."


def _by_reference(
    study: Study, found: Sequence[Comparison], touched: Container[str]
) -> Iterator[tuple[str, list[Comparison]]]:
    """The title of each reference that is not touched, and the comparisons with it."""
    for reference in dict.fromkeys(c.reference for c in found if c.reference not in touched):
        members = [c for c in found if c.reference == reference]
        yield study.reference(members[0]), members


def _worth(study: Study, members: Sequence[Comparison], *, with_verdict: bool = False) -> str:
    return "; ".join(
        f"{study.name(c)} {'is worth ' * (c is members[0])}{percent(c.compute)} ({effect_interval(c)})"
        + f": {c.verdict}" * with_verdict
        for c in members
    )
