"""Tuning: every arm tries the same settings, by as many runs as every other, on seeds that judge nothing.

    results/<MODEL_NAME>/tuning/      the trials, an experiment of its own
    results/<MODEL_NAME>/tuned.json   what was chosen for each arm, and from what

What one arm was given more of, it would win by. An arm that a tuned symbol does not concern has fewer settings to try,
and tries each on further seeds instead, so that all have had the same number of runs.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
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

    seeds: tuple[int, ...]
    """Of each of the trials."""

    reference: str | None = None
    """The arm whose settings it keeps where none of its own trials is shown to be better (evidence/tuning.py)."""

    @property
    def runs(self) -> int:
        """How many runs it was chosen from."""
        return len(self.trials) * len(self.seeds)


@dataclass(frozen=True, kw_only=True)
class Tuned:
    """A tuned.json."""

    asked: Sweep
    seeds: tuple[int, ...]
    """Those that were asked for; an arm's own may be more."""

    choices: Mapping[str, Choice]
    """By arm."""


def trials_of(base: Resolved, arm: Arm, study: StudyConfig) -> list[Arm]:
    """An arm once for each setting to be tried. Raises UserError where there is one alone."""
    trials = swept(base, arm, study.tune, "STUDY_TUNE")
    if trials[0].name == arm.name:
        names = ", ".join(symbol for symbol, _ in study.tune)
        raise UserError(f"STUDY_TUNE: {names}: tunes nothing in {arm.name}: every arm has to be tuned")
    return trials


def trial_seeds(study: StudyConfig, settings: int, runs: int) -> tuple[int, ...]:
    """The seeds on which an arm tries each of its settings, for `runs` runs in all: those asked for, or more where that
    takes more, which come behind the greatest of them."""
    more = -(-runs // settings) - len(study.tune_seeds)
    last = max(study.tune_seeds)
    return (*study.tune_seeds, *range(last + 1, last + 1 + more))


def check_seeds(of_trials: Iterable[int], of_comparison: Iterable[int]) -> None:
    """Raise UserError where a seed is to choose settings and to judge them."""
    if both := sorted(set(of_trials) & set(of_comparison)):
        raise UserError(
            f"STUDY_TUNE_SEEDS: {', '.join(map(str, both))} is one of ABLATION_SEEDS too: what was chosen for its luck "
            "with a seed cannot be judged by that seed, and arms with less to tune go on to further seeds: name others"
        )


def check_equal(directory: Path, choices: Mapping[str, Choice], runs: int) -> None:
    """Raise UserError where arms were tuned by less than the others need. `runs`: the fewest that these can have."""
    for arm, choice in choices.items():
        if choice.runs < runs:
            raise UserError(
                f"{directory / TUNED}: {arm} was chosen from {choice.runs} runs, and each arm that is added would be "
                f"from {runs}: what was tuned more would win by it: choose another CONFIG_MODEL_NAME"
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
        seeds = tuple(map(int, content["seeds"]))
        return Tuned(
            asked=tuple((str(symbol), tuple(map(str, values))) for symbol, values in content["asked"].items()),
            seeds=seeds,
            choices={str(arm): _choice(of, seeds) for arm, of in content["arms"].items()},
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
                    "seeds": list(choice.seeds),
                    "reference": choice.reference,
                    "trials": [
                        {"arm": t.arm, "settings": dict(t.settings), "val_loss": t.val_loss} for t in choice.trials
                    ],
                }
                for arm, choice in tuned.choices.items()
            },
        },
    )


def _choice(of: Mapping[str, object], seeds: tuple[int, ...]) -> Choice:
    """`seeds`: the experiment's, which all arms have in early records, where they keep to no reference."""
    reference = of.get("reference")
    return Choice(
        seeds=tuple(map(int, of.get("seeds", seeds))),  # type: ignore[call-overload]
        reference=None if reference is None else str(reference),
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
