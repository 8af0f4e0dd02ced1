"""From a configuration to the runs it asks for: steps, sweep and seeds, each with a configuration of its own.

A step is data, a fragment laid over the base configuration. There is no list of steps in code. What is asked for and
would be no run's is refused here, before anything is saved or trained.
"""

from __future__ import annotations

import os
import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from itertools import chain, zip_longest
from pathlib import Path

from gpt2.assignments import Assignment
from gpt2.base.errors import UserError
from gpt2.base.files import write_text
from gpt2.base.text import shown
from gpt2.config import OptimizerConfig, RunConfig, does_something
from gpt2.dotconfig import Resolved, resolve_each, settable_symbols
from gpt2.model_config import BUILT_IN
from gpt2.run.records import read_summary
from harness.configure.ablation import AblationConfig, ablation_config
from harness.configure.arms import (
    Arm,
    beside,
    compared_arms,
    reference_among,
    references,
    refuse_the_same_twice,
)
from harness.configure.directories import run_directory, seed_directory
from harness.configure.gate_noise import NOISE, learns_gates, on_noise
from harness.configure.kconfig import (
    DOTCONFIG,
    command_line_assignments,
    load_dotconfig,
    note,
    overlay,
)
from harness.configure.slurm import slurm_config
from harness.configure.study import StudyConfig
from harness.configure.tuning import (
    TRIALS,
    TUNED,
    Tuned,
    check_runs,
    check_seeds,
    read_tuned,
    runs_each,
    settings_of,
    trial_seeds,
    trials_of,
)

_NO_CODE = {"SEED", "MAX_ITERS", *(str(f.metadata["symbol"]) for f in fields(OptimizerConfig))}
"""Settings with any value of which a run is the same code: they are numbers in it."""


@dataclass(frozen=True, kw_only=True)
class PlannedRun:
    """One run to be: a step, what is swept, a seed."""

    step: str
    """Name of the step, with `@SYMBOL=value` for each swept symbol that the step depends on."""

    seed: int
    """The seed."""

    resolved: Resolved
    """Its complete configuration."""

    config: RunConfig
    """The same, typed."""

    path: Path
    """Its directory."""

    @property
    def name(self) -> str:
        """<step>/seed-<seed>"""
        return f"{self.step}/seed-{self.seed}"

    @property
    def results_dir(self) -> Path:
        """Where all experiments are."""
        return Path(str(self.resolved.symbols["RESULTS_DIR"]))

    @property
    def shape(self) -> str:
        """What decides the code that it runs, as far as settings tell: all but seed, length, and the optimizer's."""
        return repr(sorted(item for item in self.config.identity().items() if item[0] not in _NO_CODE))

    @property
    def is_done(self) -> bool:
        """Whether it has finished."""
        path = self.path / "summary.json"
        return path.exists() and read_summary(path)["status"] == "done"


@dataclass(frozen=True, kw_only=True)
class Trials:
    """What is tried to tune the arms of a plan that are not tuned yet."""

    plan: Plan
    """The runs of it."""

    arms: Mapping[str, Mapping[str, Mapping[str, str]]]
    """Of each arm to be tuned: the names of its trials' arms, and the settings that each tries."""

    runs: int
    """How many each arm has, of all its settings and seeds."""

    references: Mapping[str, str]
    """Of each arm that has one: the arm whose settings it keeps where nothing else is shown to be better."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """All runs of an experiment, seeds outermost: an ablation that is stopped early is still paired."""

    base: Resolved
    """The configuration it was made from."""

    directory: Path
    """The experiment's directory."""

    runs: tuple[PlannedRun, ...]
    """By seed and arm. Where arms are still to be tuned, what is tuned is as the configuration has it."""

    study: StudyConfig | None = None
    """What was asked besides; None of trials, which are no study of their own."""

    seeds: tuple[int, ...] = ()
    """Those asked for, in their order."""

    references: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Of each arm that is compared: the steps that it may be compared with, best first."""

    trials: Trials | None = None
    """What has to be trained first, to tune the arms; None where they are, or nothing is tuned."""

    also_on_noise: frozenset[str] = frozenset()
    """Names of the runs that are trained on random tokens too (STUDY_GATE_NOISE)."""

    @cached_property
    def gate_noise(self) -> Plan | None:
        """Those runs on random tokens; None where there are none."""
        runs = [run for run in self.runs if run.name in self.also_on_noise]
        return _on_noise(self, runs) if runs else None

    @property
    def stages(self) -> tuple[Plan, ...]:
        """What is trained one after another."""
        return (*([self.trials.plan] if self.trials else []), self, *([self.gate_noise] if self.gate_noise else []))

    @property
    def all_runs(self) -> list[PlannedRun]:
        """The runs of all stages."""
        return [run for stage in self.stages for run in stage.runs]

    @property
    def runs_on_data(self) -> list[PlannedRun]:
        """The same without those on random tokens, which are written when it is their turn."""
        return [run for stage in self.stages if stage is not self.gate_noise for run in stage.runs]

    @property
    def keeps_going(self) -> bool:
        """Whether other runs go on when one fails. That a trial diverges is an outcome: always, of trials."""
        return self.study is None or bool(self.base.symbols["KEEP_GOING"])

    @property
    def arms(self) -> list[PlannedRun]:
        """The first run of each step: the others are the same but for their seed."""
        first: dict[str, PlannedRun] = {}
        for run in self.runs:
            first.setdefault(run.step, run)
        return list(first.values())


def make_plan(base: Resolved, asked: Iterable[Assignment] | None = None) -> Plan:
    """The runs that a configuration asks for.

    `asked` are the settings that have to hold in a run, each in one at least: by default all that differ from the
    defaults. Raises UserError where one does not, or a run cannot be resolved.
    """
    with _origins(base):
        ablation = ablation_config(base.symbols)
        slurm_config(base.symbols)  # a mistake in it is told here too, though it is of no run
        return _make_plan(base, ablation, asked)


@contextmanager
def _origins(base: Resolved) -> Iterator[None]:
    """Have what is wrong with a study's settings name the file and the line too."""
    try:
        yield
    except UserError as error:
        origins = {a.symbol: a.origin for a in base.minimal()}
        symbol = str(error).partition("=")[0].partition(":")[0]
        if symbol.startswith("STUDY_") and symbol in origins:
            raise UserError(f"{origins[symbol]}: CONFIG_{error}") from None
        raise


def _make_plan(base: Resolved, ablation: AblationConfig, asked: Iterable[Assignment] | None) -> Plan:
    study = ablation.study
    compared = compared_arms(base, ablation.steps, study.sizes, ablation.sweep)
    tuned = read_tuned(ablation.directory, study) if study.tune else None
    choices = tuned.choices if tuned else {}
    trials = _trials(base, compared, tuned, ablation)
    if tuned:
        check_seeds(chain.from_iterable(map(tuned.seeds_of, choices.values())), ablation.seeds)
    compared = [
        arm.with_settings(*(Assignment(*of, TUNED) for of in choices[arm.name].settings.items()))
        if arm.name in choices
        else arm
        for arm in compared
    ]
    others = beside(base, compared, study)
    of_arms = [_runs_of_arm(base, arm, ablation.directory, ablation.seeds) for arm in (*compared, *others)]
    refuse_the_same_twice({runs[0].step: runs[0].config for runs in of_arms[: len(compared)]})
    _refuse_what_no_run_takes(base.minimal() if asked is None else asked, ablation, [runs[0] for runs in of_arms])
    return Plan(
        base=base,
        directory=ablation.directory,
        runs=_by_seed(of_arms),
        study=study,
        seeds=ablation.seeds,
        references={arm.name: references(runs[0].resolved) for arm, runs in zip(compared, of_arms, strict=False)},
        trials=trials,
        also_on_noise=_also_on_noise(of_arms[: len(compared)], ablation.study.gate_noise),
    )


def running_order(runs: Sequence[PlannedRun]) -> list[PlannedRun]:
    """Runs in the order in which they are trained: seed by seed, and of a seed the arms as they are drawn.

    In a fixed order a machine that gets slower, or faster, makes the arms that come late look so: with a drift of 0.3 %
    a run, three verdicts on a cost out of four are false (docs/evidence.md). Each seed has a draw of its own, so that a
    plan that goes on goes on in the same order.
    """
    of_seeds: dict[int, list[PlannedRun]] = {}
    for run in runs:
        of_seeds.setdefault(run.seed, []).append(run)
    for seed, of_seed in of_seeds.items():
        random.Random(f"turn/{seed}").shuffle(of_seed)
    return [run for of_seed in of_seeds.values() for run in of_seed]


def configured_plan(environ: Mapping[str, str] = os.environ) -> Plan:
    """The runs that `.config`, with the settings of make's command line over it, asks for. Raises UserError."""
    return plan_with(load_dotconfig(), command_line_assignments(environ))


def plan_with(base: Resolved, settings: Sequence[Assignment]) -> Plan:
    """The runs of a configuration with settings of a command line over it, all of which have to be taken.

    Raises UserError.
    """
    resolved = overlay(base, settings)
    plan = make_plan(resolved, [*resolved.minimal(), *settings])
    for setting in settings:
        if setting.value and not _does_something(setting.symbol, plan.arms):
            note(f"{setting.symbol}={shown(setting.value)} does nothing in any of the runs that are asked for")
    _note_less_noise(plan)
    return plan


def _does_something(symbol: str, arms: Sequence[PlannedRun]) -> bool:
    """Whether a setting can make a difference to a run of any of these arms."""
    variants = [name.removeprefix("ATTENTION_") for name in settable_symbols() if name.startswith("ATTENTION_")]
    whose = max((name for name in variants if symbol.startswith(f"{name}_")), key=len, default="").lower()
    if whose and whose not in BUILT_IN:
        return any(run.config.model.attention == whose for run in arms)
    return any(does_something(symbol, run.config.identity()) for run in arms)


def _note_less_noise(plan: Plan) -> None:
    """Say where fewer gates are trained on noise than STUDY_GATE_NOISE asks for."""
    asked = plan.study.gate_noise if plan.study else 0
    if asked and not plan.also_on_noise:
        note(f"STUDY_GATE_NOISE={asked}: no arm that is compared has gates that learn")
    elif asked > len(plan.seeds):
        note(f"STUDY_GATE_NOISE={asked}: with {len(plan.seeds)}, which is as many seeds as there are")


def save(plan: Plan, path: Path = DOTCONFIG) -> None:
    """Write the configuration that a plan was made from as a `.config`, and keep what it replaces as `.config.old`.

    A plan, so that nothing is saved that could not be run.
    """
    text = plan.base.text()
    if path.exists() and path.read_bytes() != text.encode():
        write_text(path.with_name(path.name + ".old"), path.read_text(encoding="utf-8", errors="replace"))
    plan.base.write(path)


def _trials(base: Resolved, compared: Sequence[Arm], tuned: Tuned | None, ablation: AblationConfig) -> Trials | None:
    """What tunes the arms that are not yet, each by as many runs as all others; None where all are."""
    study = ablation.study
    known = tuned.choices if tuned else {}
    arms = [arm for arm in compared if arm.name not in known]
    if not study.tune or not arms:
        return None
    of_arms = {arm.name: trials_of(base, arm, study) for arm in arms}
    settings = {arm: len(trials) for arm, trials in of_arms.items()}
    if tuned:
        check_runs(ablation.directory, tuned, settings)
    each = (tuned.runs if tuned else None) or runs_each(settings.values(), len(study.tune_seeds))
    directory = ablation.directory / TRIALS
    runs = [
        _runs_of_arm(base, trial, directory, trial_seeds(study.tune_seeds, len(trials), each))
        for trials in of_arms.values()
        for trial in trials
    ]
    check_seeds((run.seed for of_trial in runs for run in of_trial), ablation.seeds)
    steps = {arm.name: references(overlay(base, *arm.layers)) for arm in arms}
    names = {arm.name for arm in compared} | known.keys()
    return Trials(
        plan=Plan(base=base, directory=directory, runs=_by_seed(runs)),
        arms={arm: {t.name: settings_of(t, study) for t in trials} for arm, trials in of_arms.items()},
        runs=each,
        references={arm: name for arm, of in steps.items() if (name := reference_among(arm, of, names))},
    )


def _also_on_noise(of_arms: Sequence[Sequence[PlannedRun]], seeds: int) -> frozenset[str]:
    """The names of the first so many runs of each arm whose gates learn."""
    return frozenset(run.name for runs in of_arms if learns_gates(runs[0].config) for run in runs[:seeds])


def _on_noise(plan: Plan, runs: Sequence[PlannedRun]) -> Plan:
    directory = plan.directory / NOISE
    made = []
    for run in runs:
        resolved = on_noise(run.resolved)
        path = run_directory(directory.parent, directory.name, run.step, run.seed)
        made.append(replace(run, resolved=resolved, config=resolved.run_config(), path=path))
    return Plan(base=plan.base, directory=directory, runs=tuple(made))


def _by_seed(of_arms: Sequence[Sequence[PlannedRun]]) -> tuple[PlannedRun, ...]:
    """Some trials have more seeds than others."""
    return tuple(run for of_seed in zip_longest(*of_arms) for run in of_seed if run)


def _runs_of_arm(base: Resolved, arm: Arm, directory: Path, of_seeds: Sequence[int]) -> list[PlannedRun]:
    """An arm's runs, by seed. They differ in SEED alone, so that its other settings are worked out once."""
    seeds = [Assignment("SEED", str(seed), "ABLATION_SEEDS") for seed in of_seeds]
    each = resolve_each([base.minimal(), *arm.layers], seeds)
    config = each[0].run_config()
    folder = run_directory(directory.parent, directory.name, arm.name, of_seeds[0]).parent
    return [
        PlannedRun(
            step=arm.name,
            seed=seed,
            resolved=resolved,
            config=replace(config, train=replace(config.train, seed=seed)),
            path=folder / seed_directory(seed),
        )
        for seed, resolved in zip(of_seeds, each, strict=True)
    ]


def _refuse_what_no_run_takes(
    asked: Iterable[Assignment], ablation: AblationConfig, arms: Sequence[PlannedRun]
) -> None:
    """Raise UserError for a setting that was asked for and that every run has otherwise: of a step, or of a seed.

    `arms`: a run of each.
    """
    swept = {symbol for symbol, _ in (*ablation.sweep, *ablation.study.tune)}
    sizes = ablation.study.sizes
    for assignment in asked:
        symbol = assignment.symbol
        taken = [run.resolved.value(symbol) == assignment.value for run in arms]
        if symbol == "SEED" and ablation.seeds != (int(assignment.value),):
            raise UserError(
                f"{assignment.origin}: {assignment}: it is ABLATION_SEEDS that says the seeds of runs, "
                f"{','.join(map(str, ablation.seeds))} here: give ABLATION_SEEDS={assignment.value} instead"
            )
        if not any(taken) and symbol not in swept:
            raise UserError(
                f"{assignment.origin}: {assignment}: every step{' and size' * bool(sizes)} that is to be run sets this "
                f"itself: leave it out{' (`make alldefconfig` begins with nothing set)' * bool(sizes)}, name a step "
                f"that takes it, or {'leave ABLATION_SIZES empty' if sizes else 'set RA_MLA_ABLATION_MODE=n'}"
            )
