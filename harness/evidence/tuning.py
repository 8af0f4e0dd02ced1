"""What an arm's trials show to be best.

Of an arm without a reference it is the lowest mean loss over the seeds of the trials; a tie goes to the first. Any
other keeps its reference's settings, at the best of what it does not share with it, unless a trial with others is shown
to be better: arms that are tuned apart get different learning rates by luck, and then differ by these. A placebo came
out at -5.2 % of compute so (docs/log.md).
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from gpt2.base.errors import UserError
from gpt2.run.records import NONFINITE
from harness.configure.plan import Trials
from harness.configure.tuning import Choice, Trial
from harness.evidence.paired import ALPHA, paired_test
from harness.evidence.pooled import equal_variances, pooled_test
from harness.evidence.runs import RunRecord, load_run

LEVEL = 0.05
"""At which a trial has to be better than what an arm keeps of its reference, to be chosen in its place."""


@dataclass(frozen=True, kw_only=True)
class Tried:
    """A setting, and what it came to."""

    arm: str
    """The trial's, of its directory below tuning/."""

    settings: Mapping[str, str]

    losses: tuple[float, ...] | None
    """By seed; None where one diverged."""

    @property
    def trial(self) -> Trial:
        """As tuned.json has it."""
        return Trial(arm=self.arm, settings=self.settings, val_loss=mean(self.losses))


def choose(trials: Trials, known: Mapping[str, Choice] | None = None) -> dict[str, Choice]:
    """The choice for each arm of these trials. `known`: of arms that were tuned before.

    One that diverged on a seed is not chosen. Raises UserError where another has not ended with a loss, or none of an
    arm's has.
    """
    runs: dict[str, list[RunRecord]] = {}
    for run in trials.plan.runs:
        runs.setdefault(run.step, []).append(load_run(run.path, run.step, run.seed))
    choices = dict(known or {})
    waiting = [arm for arm in trials.arms if arm not in choices]
    while waiting:
        ready = [arm for arm in waiting if trials.references.get(arm) not in waiting]
        if not ready:
            raise UserError(f"{', '.join(waiting)}: each is another's STEP_REFERENCE: one has to be chosen first")
        for arm in ready:
            choices[arm] = _choice(trials, arm, runs, choices)
            waiting.remove(arm)
    return {arm: choices[arm] for arm in trials.arms}


def _choice(trials: Trials, arm: str, runs: Mapping[str, Sequence[RunRecord]], known: Mapping[str, Choice]) -> Choice:
    settings = trials.arms[arm]
    tried = [Tried(arm=name, settings=settings[name], losses=losses_of(runs[name])) for name in settings]
    reference = known.get(trials.references.get(arm, ""))
    best = best_of(tried, reference.settings if reference else {})
    if best is None:
        raise UserError(f"{trials.plan.directory}: every trial of {arm} diverged: give STUDY_TUNE other values")
    edges = at_edges(best.settings, [of.settings for of in tried])
    return Choice(settings=best.settings, trials=tuple(of.trial for of in tried), at_edge=tuple(edges))


def best_of(tried: Sequence[Tried], keeps: Mapping[str, str]) -> Tried | None:
    """What an arm's trials show to be best. `keeps`: what its reference has. None where all of them diverged.

    Where a trial has what the reference has, in all that both tune, another is chosen only if it is better by a
    one-sided t-test at LEVEL, with Bonferroni's correction for as many others as there are. Its error is pooled over
    all that did not diverge, two seeds being too few for a pair's own, unless one is noisier than the rest: near the
    edge of what trains a single setting would hide all others.
    """
    ended = [of for of in tried if of.losses is not None]
    best = min(ended, key=_mean, default=None)
    kept = [of for of in ended if all(of.settings.get(symbol, value) == value for symbol, value in keeps.items())]
    if best is None or not kept or best in kept:
        return best
    own = min(kept, key=_mean)
    losses = np.array([of.losses for of in ended])
    if losses.shape[1] < 2:
        return own
    at_own, at_best = ended.index(own), ended.index(best)
    noisier = equal_variances(losses)
    if noisier is None or noisier >= ALPHA:
        test = pooled_test(losses, arm=at_own, reference=at_best)
    else:
        test = paired_test((losses[at_own] - losses[at_best]).tolist())
    others = len(ended) - len(kept)
    assert test.p_value is not None
    return best if test.p_value / 2 < LEVEL / others else own


def at_edges(best: Mapping[str, str], tried: Sequence[Mapping[str, str]]) -> list[str]:
    """Symbols of which the best value is the least or the greatest of several numbers that were tried."""
    found = []
    for symbol, value in best.items():
        try:
            values = {float(of[symbol]) for of in tried if symbol in of}
        except ValueError:  # no numbers have no edge
            continue
        if len(values) > 1 and float(value) in (min(values), max(values)):
            found.append(symbol)
    return found


def losses_of(runs: Sequence[RunRecord]) -> tuple[float, ...] | None:
    """The losses of a trial's runs; None where one diverged. Raises UserError where one has not ended with a loss, or
    cannot be read."""
    losses = tuple(loss for run in runs if (loss := _loss(run)) is not None)
    return losses if len(losses) == len(runs) else None


def mean(losses: Sequence[float] | None) -> float | None:
    """Of a trial's losses; None where one diverged."""
    return None if losses is None else statistics.fmean(losses)


def _mean(of: Tried) -> float:
    assert of.losses is not None
    return statistics.fmean(of.losses)


def _loss(run: RunRecord) -> float | None:
    """The loss of a trial; None where it diverged."""
    if run.damage is not None:
        raise UserError(run.damage)
    loss = run.value("val_loss")
    if run.status == "done" and loss is not None:
        return loss
    events = (line for line in run.metrics if line["kind"] == "event")
    if run.status == "failed" and any(line["event"] in NONFINITE for line in events):
        return None
    status = run.status if run.summary else "not finished"
    raise UserError(f"{run.path}: the trial is {status}, and did not diverge: tuning waits for it; run make again")
