"""What an arm's trials show to be best: the lowest mean loss over the seeds of the trials. A tie goes to the first."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence

from gpt2.base.errors import UserError
from gpt2.run.records import NONFINITE
from harness.configure.plan import Trials
from harness.configure.tuning import Choice, Trial
from harness.evidence.runs import RunRecord, load_run


def choose(trials: Trials) -> dict[str, Choice]:
    """The choice for each arm of these trials.

    One that diverged on a seed is not chosen. Raises UserError where another has not ended with a loss, or none of an
    arm's has.
    """
    runs: dict[str, list[RunRecord]] = {}
    for run in trials.plan.runs:
        runs.setdefault(run.step, []).append(load_run(run.path, run.step, run.seed))
    choices = {}
    for arm, settings in trials.arms.items():
        tried = [Trial(arm=name, settings=of, val_loss=loss_over_seeds(runs[name])) for name, of in settings.items()]
        choice = choice_from(tried)
        if choice is None:
            raise UserError(f"{trials.plan.directory}: every trial of {arm} diverged: give STUDY_TUNE other values")
        choices[arm] = choice
    return choices


def choice_from(trials: Sequence[Trial]) -> Choice | None:
    """The choice that trials of an arm make; None where all of them diverged."""
    losses = {i: trial.val_loss for i, trial in enumerate(trials) if trial.val_loss is not None}
    if not losses:
        return None
    best = trials[min(losses, key=lambda i: losses[i])].settings
    edges = at_edges(best, [trial.settings for trial in trials])
    return Choice(settings=best, trials=tuple(trials), at_edge=tuple(edges))


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


def loss_over_seeds(runs: Sequence[RunRecord]) -> float | None:
    """The mean loss of a trial's runs; None where one diverged. Raises UserError where one has not ended with a loss,
    or cannot be read."""
    losses = [loss for run in runs if (loss := _loss(run)) is not None]
    return statistics.fmean(losses) if len(losses) == len(runs) else None


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
