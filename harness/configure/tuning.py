"""Tuning: every arm tries as many settings as every other, on seeds of their own, and is compared at its best.

    results/<MODEL_NAME>/tuning/      the trials, an experiment of its own
    results/<MODEL_NAME>/tuned.json   what was chosen for each arm, and from what

What one arm was given more of, it would win by. An arm that a tuned symbol does not concern tries values between those
of another symbol instead, so that all have had the same number of trials.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from gpt2.assignments import Assignment
from gpt2.base.errors import UserError
from gpt2.base.files import locked, read_json, write_json
from gpt2.base.text import shown
from gpt2.dotconfig import Resolved
from harness.configure.arms import Arm, labels, swept
from harness.configure.study import StudyConfig, Sweep

TRIALS = "tuning"
"""Name of the directory of trials in the experiment's."""

TUNED = "tuned.json"


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One way that an arm was tried."""

    arm: str
    """Of its directory below tuning/."""

    settings: Mapping[str, str]
    """Symbol -> value of what is tuned."""

    val_loss: float | None
    """Mean over the seeds of the trials; None where one of them diverged."""


@dataclass(frozen=True, kw_only=True)
class Choice:
    """What was chosen for an arm."""

    settings: Mapping[str, str]
    trials: tuple[Trial, ...]
    at_edge: tuple[str, ...]
    """Symbols of which the best value is the least or the greatest that was tried."""


@dataclass(frozen=True, kw_only=True)
class Tuned:
    """A tuned.json."""

    asked: Sweep
    seeds: tuple[int, ...]
    choices: Mapping[str, Choice]
    """By arm."""


def trials_of(base: Resolved, arm: Arm, study: StudyConfig, most: int = 0) -> list[Arm]:
    """An arm once for each setting to be tried, `most` times at least. Raises UserError."""
    trials = swept(base, arm, study.tune, "STUDY_TUNE")
    if trials[0].name == arm.name:
        names = ", ".join(symbol for symbol, _ in study.tune)
        raise UserError(f"STUDY_TUNE: {names}: tunes nothing in {arm.name}: every arm has to have as many trials")
    if len(trials) >= most:
        return trials
    tried = [(symbol, values) for symbol, values in study.tune if any(f"@{symbol}=" in t.name for t in trials)]
    symbol, values = tried[0]
    more = between(symbol, values, most - len(trials))
    others = [Assignment(other, of_other[0], "STUDY_TUNE") for other, of_other in tried[1:]]
    label = "".join(f"@{a.symbol}={a.value}" for a in others)
    return trials + [
        arm.with_settings(Assignment(symbol, value, "STUDY_TUNE"), *others, label=f"@{symbol}={value}{label}")
        for value in more
    ]


def between(symbol: str, values: Sequence[str], n: int) -> list[str]:
    """`n` more values of a symbol, each in the middle, as factors go, of the widest gap; whole where all are.

    Raises UserError where there are none.
    """
    try:
        known = sorted(float(value) for value in values)
    except ValueError:
        known = []
    whole = all(value.isdecimal() for value in values)
    more: list[str] = []
    while len(known) > 1 and known[0] > 0 and len(more) < n:
        gap = max(range(len(known) - 1), key=lambda i: known[i + 1] / known[i])
        middle = math.sqrt(known[gap] * known[gap + 1])
        middle = round(middle) if whole else float(f"{middle:.3g}")
        if middle in known:
            break
        known.insert(gap + 1, middle)
        more.append(f"{middle:g}")
    if len(more) < n:
        raise UserError(
            f"STUDY_TUNE: {symbol}={','.join(values)}: to give every arm as many trials, two numbers above 0 are "
            f"needed, with {n} more between them"
        )
    return more


def check_equal(directory: Path, choices: Mapping[str, Choice], trials: int) -> None:
    """Raise UserError where arms were tuned by another number of trials than the others will be."""
    for arm, choice in choices.items():
        if len(choice.trials) != trials:
            raise UserError(
                f"{directory / TUNED}: {arm} is the best of {len(choice.trials)} trials, and each arm that is added "
                f"would be of {trials}: what was tuned more would win by it: choose another CONFIG_MODEL_NAME"
            )


def settings_of(trial: Arm, study: StudyConfig) -> dict[str, str]:
    """What is tuned, as a trial has it; of what does not concern its arm nothing."""
    tuned = labels(trial.name).keys() & {symbol for symbol, _ in study.tune}
    return {a.symbol: a.value for layer in trial.layers for a in layer if a.symbol in tuned}


def read_tuned(directory: Path, study: StudyConfig) -> Tuned | None:
    """What was chosen in an experiment; None where nothing is yet.

    Raises UserError where it was chosen from something else than what is asked for now, or the file is damaged.
    """
    path = directory / TUNED
    if not path.exists():
        return None
    tuned = parse_tuned(path)
    if (tuned.asked, tuned.seeds) != (study.tune, study.tune_seeds):
        raise UserError(
            f"{path}: is chosen from {_asked(tuned.asked)} on seeds {_listed(tuned.seeds)}, and STUDY_TUNE asks for "
            f"{_asked(study.tune)} on seeds {_listed(study.tune_seeds)}: that is another experiment: choose another "
            "CONFIG_MODEL_NAME"
        )
    return tuned


def parse_tuned(path: Path) -> Tuned:
    """A tuned.json. Raises UserError where it is none."""
    content = read_json(path)
    try:
        return Tuned(
            asked=tuple((str(symbol), tuple(map(str, values))) for symbol, values in content["asked"].items()),
            seeds=tuple(map(int, content["seeds"])),
            choices={str(arm): _choice(of) for arm, of in content["arms"].items()},
        )
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise UserError(f"{path}: is not what docs/results.md says of it: {shown(repr(error), 200)}") from None


def add_choices(directory: Path, study: StudyConfig, choices: Mapping[str, Choice]) -> None:
    """Keep what was chosen beside what was before, or by another make meanwhile. Of an arm the first choice stands.

    Without any it is kept what is asked for, so that nothing else can be from now on. Raises UserError as `read_tuned`.
    """
    with locked(directory / TUNED):
        known = read_tuned(directory, study)
        merged = {**choices, **(known.choices if known else {})}
        if known is None or merged.keys() != known.choices.keys():
            write_tuned(directory, Tuned(asked=study.tune, seeds=study.tune_seeds, choices=merged))


def write_tuned(directory: Path, tuned: Tuned) -> None:
    """Write tuned.json, whatever was there before."""
    write_json(
        directory / TUNED,
        {
            "asked": {symbol: list(values) for symbol, values in tuned.asked},
            "seeds": list(tuned.seeds),
            "arms": {
                arm: {
                    "settings": dict(choice.settings),
                    "at_edge": list(choice.at_edge),
                    "trials": [
                        {"arm": t.arm, "settings": dict(t.settings), "val_loss": t.val_loss} for t in choice.trials
                    ],
                }
                for arm, choice in tuned.choices.items()
            },
        },
    )


def _choice(of: Mapping[str, object]) -> Choice:
    return Choice(
        settings=_texts(of["settings"]),
        at_edge=tuple(map(str, of["at_edge"])),  # type: ignore[call-overload]
        trials=tuple(
            Trial(
                arm=str(t["arm"]),
                settings=_texts(t["settings"]),
                val_loss=None if t["val_loss"] is None else float(t["val_loss"]),
            )
            for t in of["trials"]  # type: ignore[attr-defined]
        ),
    )


def _texts(of: object) -> dict[str, str]:
    return {str(symbol): str(value) for symbol, value in dict(of).items()}  # type: ignore[call-overload]


def _asked(tune: Sweep) -> str:
    return '"' + ";".join(f"{symbol}={','.join(values)}" for symbol, values in tune) + '"'


def _listed(seeds: Sequence[int]) -> str:
    return ",".join(map(str, seeds))
