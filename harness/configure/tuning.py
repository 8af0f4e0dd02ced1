"""Tuning: every arm tries the same settings, by as many runs as every other, on seeds that judge nothing.

    results/<MODEL_NAME>/tuning/      the trials, an experiment of its own
    results/<MODEL_NAME>/tuned.json   what was chosen for each arm, and from what

What one arm was given more of, it would win by. An arm that a tuned symbol does not concern has fewer settings to try,
and tries each on further seeds instead, so that all have had the same number of runs.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from gpt2.base.errors import UserError
from gpt2.base.files import locked, read_json, write_json
from gpt2.base.text import shown
from gpt2.dotconfig import Resolved
from harness.configure.arms import Arm, labels, swept
from harness.configure.study import StudyConfig, Sweep

TRIALS = "tuning"
"""Name of the directory of trials in the experiment's."""

TUNED = "tuned.json"

MAX_RUNS = 10**6
"""An arm's, to be tuned: more is damage."""


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
    """Symbols of which the chosen value is the least or the greatest that was tried."""


@dataclass(frozen=True, kw_only=True)
class Tuned:
    """A tuned.json."""

    asked: Sweep
    seeds: tuple[int, ...]
    """Those that were asked for; an arm with few settings has more."""

    runs: int | None
    """How many each arm is chosen from; None in early records, where each arm has its lowest loss, on `seeds`."""

    choices: Mapping[str, Choice]
    """By arm."""

    def seeds_of(self, choice: Choice) -> tuple[int, ...]:
        """Those of each of an arm's trials."""
        return self.seeds if self.runs is None else trial_seeds(self.seeds, len(choice.trials), self.runs)


def trials_of(base: Resolved, arm: Arm, study: StudyConfig) -> list[Arm]:
    """An arm once for each setting to be tried. Raises UserError where there is one alone."""
    trials = swept(base, arm, study.tune, "STUDY_TUNE")
    if trials[0].name == arm.name:
        names = ", ".join(symbol for symbol, _ in study.tune)
        raise UserError(f"STUDY_TUNE: {names}: tunes nothing in {arm.name}: every arm has to be tuned")
    return trials


def runs_each(settings: Collection[int], seeds: int) -> int:
    """The fewest runs that each arm can have alike: `settings` of each arm, each tried on `seeds` at least."""
    unit = math.lcm(*settings)
    return unit * math.ceil(max(settings) * seeds / unit)


def trial_seeds(asked: tuple[int, ...], settings: int, runs: int) -> tuple[int, ...]:
    """The seeds on which an arm tries each of its settings, for so many `runs`: those asked for, and more behind."""
    last = max(asked)
    return (*asked, *range(last + 1, last + 1 + runs // settings - len(asked)))


def check_seeds(of_trials: Iterable[int], of_comparison: Iterable[int]) -> None:
    """Raise UserError where a seed is to choose settings and to judge them."""
    if both := sorted(set(of_trials) & set(of_comparison)):
        raise UserError(
            f"STUDY_TUNE_SEEDS: {', '.join(map(str, both))} {'is' if len(both) == 1 else 'are'} of ABLATION_SEEDS too: "
            "what was chosen for its luck with a seed cannot be judged by that seed, and arms with few settings to try "
            "go on to further seeds: name others"
        )


def check_runs(directory: Path, tuned: Tuned, settings: Mapping[str, int]) -> None:
    """Raise UserError where arms that are added cannot be tuned by as much as those before. `settings`: of each arm."""
    begun = f"{directory / TUNED}: "
    if tuned.runs is None and settings:
        raise UserError(
            f"{begun}is of an earlier version, in which each arm had its lowest loss: {', '.join(settings)} cannot be "
            "tuned beside: choose another CONFIG_MODEL_NAME"
        )
    for arm, n in settings.items():
        if tuned.runs is not None and (tuned.runs % n or tuned.runs < n * len(tuned.seeds)):
            raise UserError(
                f"{begun}each arm is chosen from {tuned.runs} runs, and {arm} has {n} settings to try on "
                f"{len(tuned.seeds)} seeds or more, each as often: what was tuned more would win by it: choose another "
                "CONFIG_MODEL_NAME"
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
        tuned = Tuned(
            asked=tuple((str(symbol), tuple(map(str, values))) for symbol, values in content["asked"].items()),
            seeds=tuple(map(int, content["seeds"])),
            runs=None if "runs" not in content else int(content["runs"]),
            choices={str(arm): _choice(of) for arm, of in content["arms"].items()},
        )
        if (tuned.runs is not None and not 0 < tuned.runs <= MAX_RUNS) or not tuned.seeds:
            raise ValueError(f"runs {tuned.runs}, seeds {list(tuned.seeds)}")
        if untried := [arm for arm, choice in tuned.choices.items() if not choice.trials]:
            raise ValueError(f"no trials of {', '.join(untried)}")
        return tuned
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise UserError(f"{path}: is not what docs/results.md says of it: {shown(repr(error), 200)}") from None


def add_choices(directory: Path, study: StudyConfig, runs: int, choices: Mapping[str, Choice]) -> None:
    """Keep what was chosen beside what was before, or by another make meanwhile. Of an arm the first choice stands.

    Without any it is kept what is asked for, and from how many `runs` each arm is chosen, so that nothing else can be
    from now on. Raises UserError as `read_tuned`, and where another make has begun with another number of runs.
    """
    with locked(directory / TUNED):
        known = read_tuned(directory, study)
        if known is not None and known.runs not in (None, runs):
            raise UserError(
                f"{directory / TUNED}: another make has begun to choose each arm from {known.runs} runs, and this one "
                f"would from {runs}: run make again"
            )
        merged = {**choices, **(known.choices if known else {})}
        if known is None or merged.keys() != known.choices.keys():
            write_tuned(directory, Tuned(asked=study.tune, seeds=study.tune_seeds, runs=runs, choices=merged))


def write_tuned(directory: Path, tuned: Tuned) -> None:
    """Write tuned.json, whatever was there before."""
    write_json(
        directory / TUNED,
        {
            "asked": {symbol: list(values) for symbol, values in tuned.asked},
            "seeds": list(tuned.seeds),
            **({} if tuned.runs is None else {"runs": tuned.runs}),
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
