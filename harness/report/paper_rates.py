"""Two studies of the same arms and seeds, tuned to different learning rates: what the rates come to."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations
from statistics import fmean, stdev

from gpt2.base.numbers import decimal
from harness.report.pages import escape_markdown
from harness.report.paper_study import Study
from harness.report.tables import Table

RATE = "LEARNING_RATE"


def rates_table(first: Study, again: Study) -> Table:
    """Of each arm that both have tuned: rate, mean and spread of the final validation loss over seeds, in each."""
    rows = []
    for step in _shared(first, again):
        cells = [first.arms[step].title]
        for study in (first, again):
            losses = _losses(study, step)
            spread = decimal(stdev(losses), 4) if len(losses) > 1 else "0"
            cells += [f"`{_rate(study, step)}`", decimal(fmean(losses), 4), spread]
        rows.append([escape_markdown(cells[0]), *cells[1:]])
    columns = ["arm", "first: rate", "loss", "sd", "second: rate", "loss", "sd"]
    return Table(title="", columns=columns, rows=rows, text_columns=1)


def lower_at_higher_rate(first: Study, again: Study) -> list[str]:
    """Titles of the arms that had a higher rate in the first study, and came to less loss at it."""
    return [
        first.arms[step].title
        for step in _shared(first, again)
        if float(_rate(first, step)) > float(_rate(again, step))
        and fmean(_losses(first, step)) < fmean(_losses(again, step))
    ]


def pairs_won(study: Study, symbol: str, value: str, other: str) -> tuple[int, int]:
    """Of the pairs of an arm's trials that differ in one symbol alone: in how many it is lower in loss by `value` than
    by `other`, and how many there are."""
    won = [ours < theirs for ours, theirs in _pairs(study, symbol, value, other)]
    return sum(won), len(won)


def _pairs(study: Study, symbol: str, value: str, other: str) -> Iterator[tuple[float, float]]:
    for choice in study.tuned.choices.values() if study.tuned else ():
        for pair in combinations(choice.trials, 2):
            of = {trial.settings.get(symbol): trial for trial in pair}
            rest = [{k: v for k, v in trial.settings.items() if k != symbol} for trial in pair]
            if set(of) != {value, other} or rest[0] != rest[1]:
                continue
            ours, theirs = of[value].val_loss, of[other].val_loss
            if ours is not None and theirs is not None:
                yield ours, theirs


def _shared(first: Study, again: Study) -> list[str]:
    tuned = [study.tuned.choices if study.tuned else {} for study in (first, again)]
    return [step for step in first.arms if all(step in of and RATE in of[step].settings for of in tuned)]


def _rate(study: Study, step: str) -> str:
    return study.tuned.choices[step].settings[RATE] if study.tuned else ""


def _losses(study: Study, step: str) -> list[float]:
    return [loss for run in study.arms[step].done if (loss := run.value("val_loss")) is not None]
