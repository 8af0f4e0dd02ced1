"""Whether tuned.json says what the trials do, and the arms were trained with what it says.

An arm wins over a reference that was given a bad learning rate. So the choice is made again, from the trials that are
there.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import product
from pathlib import Path

from gpt2.base.errors import UserError
from harness.configure.arms import reference_among, references_of
from harness.configure.directories import seed_directory
from harness.configure.registration import REGISTRATION
from harness.configure.tuning import TRIALS, TUNED, Choice, Tuned, parse_tuned
from harness.evidence.registration import entries_of
from harness.evidence.runs import load_run
from harness.evidence.store import Arm, Experiment
from harness.evidence.tuning import Tried, at_edges, best_of, losses_of, mean


def tuned_of(experiment: Experiment) -> Tuned | None:
    """What was chosen for the arms of an experiment; None where nothing was, or nobody can read what."""
    path = experiment.path / TUNED
    with suppress(UserError):  # `tuning_errors` says so
        return parse_tuned(path) if path.exists() else None
    return None


def tuning_errors(experiment: Experiment) -> Iterator[str]:
    """What is not as tuned.json has it, a sentence each. Raises UserError where it is damaged."""
    path = experiment.path / TUNED
    asked = [entry.tuning for entry in entries_of(experiment) if entry.tuning]
    if not path.exists():
        if asked and any(run.provenance for run in experiment.runs):
            yield f"{path}: is not here, though arms were to be tuned: nothing says how their settings were chosen"
        return
    tuned = parse_tuned(path)
    said: dict[str, object] = {"symbols": {symbol: list(values) for symbol, values in tuned.asked}}
    said |= {"seeds": list(tuned.seeds), **({} if tuned.runs is None else {"runs": tuned.runs})}
    if asked and said not in asked:
        yield f"{path}: was chosen from other values or seeds than {REGISTRATION} has"
    if not (experiment.path / TRIALS).is_dir():
        yield f"{path}: the trials that it was chosen from ({experiment.path / TRIALS}) are not here any more"
    else:
        steps = {arm.step: arm.references for arm in experiment.arms}
        for name in tuned.choices:
            yield from _choice_errors(path, tuned, name, steps.get(name, references_of(name)))
    yield from _unlike_choices(experiment, tuned)


def _choice_errors(path: Path, tuned: Tuned, arm: str, references: Sequence[str]) -> Iterator[str]:
    """What another choice would have been made by. `references`: the steps that the arm is compared with."""
    choice = tuned.choices[arm]
    reference = None if tuned.runs is None else reference_among(arm, references, tuned.choices)
    if tuned.runs is not None and (missing := _not_tried(tuned, choice)):
        yield f"{path}: {arm} was not tried with {missing}"
        return
    tried, seeds = [], tuned.seeds_of(choice)
    for trial in choice.trials:
        of_arm = path.parent / TRIALS / trial.arm
        try:
            losses = losses_of([load_run(of_arm / seed_directory(seed), trial.arm, seed) for seed in seeds])
        except UserError as error:
            yield f"{path}: cannot be checked: {error}"
            return
        if mean(losses) != trial.val_loss:
            yield f"{path}: {trial.arm} came to {trial.val_loss}, and {mean(losses)} by its runs in {TRIALS}/"
        tried.append(Tried(arm=trial.arm, settings=trial.settings, losses=losses))
    best = best_of(tried, tuned.choices[reference].settings if reference else {})
    if best is None or best.settings != choice.settings:
        found = "none" if best is None else _said(best.settings)
        yield f"{path}: {arm} has {_said(choice.settings)}, and by its trials it is {found}"
    elif (edges := at_edges(best.settings, [of.settings for of in tried])) != list(choice.at_edge):
        yield f"{path}: {arm}: at_edge is {list(choice.at_edge)}, and {edges} by its trials"


def _not_tried(tuned: Tuned, choice: Choice) -> str:
    """A setting that was asked for and is not among an arm's trials; empty where there is none."""
    tried = [dict(trial.settings) for trial in choice.trials]
    concern = [(symbol, values) for symbol, values in tuned.asked if any(symbol in of for of in tried)]
    names = [symbol for symbol, _ in concern]
    asked = [dict(zip(names, values, strict=True)) for values in product(*(values for _, values in concern))]
    missing = next((of for of in asked if of not in tried), None)
    return "" if missing is None else _said(missing)


def _unlike_choices(experiment: Experiment, tuned: Tuned) -> Iterator[str]:
    """Runs with other settings than were chosen for their arm; lengths and reruns have those of what they are of."""
    arms = {arm.step: arm for arm in experiment.arms}
    for name, choice in tuned.choices.items():
        arm = arms.get(name, Arm(step=name, runs=()))
        for of in (arm, *experiment.lengths_of(arm), *experiment.reruns_of(arm)):
            for run in of.runs:
                for symbol, value in choice.settings.items():
                    found = run.settings.get(symbol, value)
                    if found != value:
                        yield f"{run.name}: {symbol} is {found}, and {value} was chosen for it in {TUNED}"


def _said(settings: Mapping[str, str]) -> str:
    return " ".join(f"{symbol}={value}" for symbol, value in settings.items())
