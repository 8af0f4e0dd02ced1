"""From a configuration to the runs it asks for: steps, sweep and seeds, each with a configuration of its own.

A step is data, a fragment laid over the base configuration. There is no list of steps in code. What is asked for and
would be no run's is refused here, before anything is saved or trained.
"""

from __future__ import annotations

import hashlib
import itertools
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from gpt2.base.errors import UserError
from gpt2.base.files import write_text
from gpt2.base.settings import check_path
from gpt2.base.text import shown
from gpt2.config import DATA_PATHS, RunConfig, does_something, is_of_a_run
from gpt2.dotconfig import Assignment, Resolved, file_of, resolve_each
from gpt2.run.records import read_summary
from gpt2.symbols import Symbols
from harness.configure.kconfig import (
    DOTCONFIG,
    Step,
    command_line_assignments,
    load_dotconfig,
    named_experiment,
    note,
    overlay,
)
from harness.configure.lists import parse_seeds, parse_steps, parse_sweep
from harness.configure.slurm import slurm_config

LAST_EXPERIMENT = Path(".last-experiment")
"""Holds the directory of the experiment that `make` ran last."""

PATHS = (*DATA_PATHS, "INIT_FROM")
"""Settings whose values are paths, and what is found there other data or another start."""

MAX_NAME_BYTES = 255
"""Of a directory's name, on the file systems there are."""


@dataclass(frozen=True, kw_only=True)
class AblationConfig:
    """Which runs a configuration asks for."""

    steps: tuple[Step, ...]
    """Ablation steps in the order given; none outside ablation mode, where the configuration itself is run."""

    seeds: tuple[int, ...]
    """Seeds; every step is run with each."""

    sweep: tuple[tuple[str, tuple[str, ...]], ...]
    """Symbols and the values to try, every combination of them."""

    directory: Path
    """The experiment's: <RESULTS_DIR>/<MODEL_NAME>."""


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
    def shape(self) -> str:
        """What decides the code that it runs, as far as settings tell: all of them but the seed."""
        return repr(sorted((symbol, value) for symbol, value in self.config.identity().items() if symbol != "SEED"))

    @property
    def is_done(self) -> bool:
        """Whether it has finished."""
        path = self.path / "summary.json"
        return path.exists() and read_summary(path)["status"] == "done"


@dataclass(frozen=True, kw_only=True)
class Plan:
    """All runs of an experiment, seeds outermost: an ablation that is stopped early is still paired."""

    base: Resolved
    """The configuration it was made from."""

    directory: Path
    """The experiment's directory."""

    runs: tuple[PlannedRun, ...]
    """In the order in which they are to be run."""

    @property
    def arms(self) -> list[PlannedRun]:
        """The first run of each step: the others are the same but for their seed."""
        first: dict[str, PlannedRun] = {}
        for run in self.runs:
            first.setdefault(run.step, run)
        return list(first.values())


def ablation_config(symbols: Symbols) -> AblationConfig:
    """The typed ablation settings. Raises UserError, naming the symbol, the value and what would be right."""
    steps: tuple[Step, ...] = ()
    if symbols["RA_MLA_ABLATION_MODE"]:
        text = str(symbols["RA_MLA_ABLATION_STEPS"])
        steps = parse_steps(f'RA_MLA_ABLATION_STEPS="{text}"', text)
    seeds = str(symbols["ABLATION_SEEDS"])
    sweep = parse_sweep(str(symbols["ABLATION_SWEEP"]))
    for symbol, values in sweep:
        _refuse_sweep(symbol, values)
    return AblationConfig(
        steps=steps,
        seeds=parse_seeds(f'ABLATION_SEEDS="{seeds}"', seeds),
        sweep=sweep,
        directory=_experiment_directory(symbols),
    )


def make_plan(base: Resolved, asked: Iterable[Assignment] | None = None) -> Plan:
    """The runs that a configuration asks for.

    `asked` are the settings that have to hold in a run, each in one at least: by default all that differ from the
    defaults. Raises UserError where one does not, or a run cannot be resolved.
    """
    ablation = ablation_config(base.symbols)
    slurm_config(base.symbols)  # a mistake in it is told here too, though it is of no run
    arms: list[tuple[str, list[Assignment]]] = []
    for step in ablation.steps or (None,):
        arms += _arms(base, step, ablation)
    _refuse_idle_sweep(ablation, [name for name, _ in arms])
    of_arms = [_runs_of_arm(base, name, assignments, ablation) for name, assignments in arms]
    _refuse_what_no_run_takes(base.minimal() if asked is None else asked, ablation, [runs[0] for runs in of_arms])
    runs = tuple(run for of_seed in zip(*of_arms, strict=True) for run in of_seed)
    return Plan(base=base, directory=ablation.directory, runs=runs)


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
        if not any(does_something(setting.symbol, run.config.identity()) for run in plan.arms):
            note(f"{setting.symbol}={shown(setting.value)} does nothing in any of the runs that are asked for")
    return plan


def save(plan: Plan, path: Path = DOTCONFIG) -> None:
    """Write the configuration that a plan was made from as a `.config`, and keep what it replaces as `.config.old`.

    A plan, so that nothing is saved that could not be run.
    """
    text = plan.base.text()
    if path.exists() and path.read_bytes() != text.encode():
        write_text(path.with_name(path.name + ".old"), path.read_text(encoding="utf-8", errors="replace"))
    plan.base.write(path)


def run_directory(results_dir: Path, model_name: str, step: str, seed: int) -> Path:
    """Where a run lives."""
    return results_dir / model_name / step / seed_directory(seed)


def seed_directory(seed: int) -> str:
    """Name of the directory of an arm's run."""
    return f"seed-{seed}"


def configured_experiment(environ: Mapping[str, str] = os.environ) -> Path:
    """The directory of the experiment that make's RESULTS names, or `.config` and the settings of make's command line.

    Raises UserError, also for settings of the command line that name no experiment.
    """
    if named := named_experiment(environ):
        return named
    settings = command_line_assignments(environ)
    if others := [a.symbol for a in settings if a.symbol not in ("RESULTS_DIR", "MODEL_NAME")]:
        raise UserError(
            f"command line: {', '.join(others)}: what is already trained is only read here: "
            "RESULTS_DIR and MODEL_NAME say where it is"
        )
    return _experiment_directory(overlay(load_dotconfig(), settings).symbols)


def remember_experiment(plan: Plan) -> None:
    """Note down that this experiment is the last one, for `make continue`."""
    write_text(LAST_EXPERIMENT, f"{plan.directory}\n")


def last_experiment() -> Path:
    """The directory of the experiment that was run last. UserError if there is none."""
    try:
        name = LAST_EXPERIMENT.read_text(encoding="utf-8").strip()
    except FileNotFoundError:
        raise UserError("there is nothing to continue: `make` starts an ablation") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{LAST_EXPERIMENT}: cannot be read: {error}") from None
    if not name:
        raise UserError(f"{LAST_EXPERIMENT}: is empty, and should name the last experiment's directory: run `make`")
    return Path(name)


def _experiment_directory(symbols: Symbols) -> Path:
    """<RESULTS_DIR>/<MODEL_NAME>."""
    results = str(symbols["RESULTS_DIR"])
    check_path("RESULTS_DIR", results)
    return Path(results, str(symbols["MODEL_NAME"]))


def _arms(base: Resolved, step: Step | None, ablation: AblationConfig) -> list[tuple[str, list[Assignment]]]:
    """Names of a step's arms, one per combination of the swept values that it depends on, and what they set."""
    fragment = step.assignments() if step else []
    runs: dict[tuple[str, ...], dict[str, Any]] = {}
    settings: dict[tuple[str, ...], list[Assignment]] = {}
    name = step.name if step else ""
    for values in itertools.product(*(values for _, values in ablation.sweep)):
        swept = [
            Assignment(symbol, value, "ABLATION_SWEEP")
            for (symbol, _), value in zip(ablation.sweep, values, strict=True)
        ]
        # A swept value wins over the fragment's own.
        own = {assignment.symbol for assignment in swept}
        settings[values] = [a for a in fragment if a.symbol not in own] + swept
        config = overlay(base, settings[values]).run_config()
        runs[values] = _what_is_run(config)
        name = name or config.model.attention.replace("_", "-")

    def matters(i: int, values: tuple[str, ...]) -> bool:
        """Whether another value of the i-th swept symbol would make another run of these."""
        others = ((*values[:i], other, *values[i + 1 :]) for other in ablation.sweep[i][1])
        return any(runs[other] != runs[values] for other in others)

    arms: dict[str, tuple[str, ...]] = {}
    for values in settings:
        relevant = [(symbol, values[i]) for i, (symbol, _) in enumerate(ablation.sweep) if matters(i, values)]
        arm = name + "".join(f"@{symbol}={_label(symbol, value)}" for symbol, value in relevant)
        if len(arm.encode()) > MAX_NAME_BYTES:
            raise UserError(f"ABLATION_SWEEP: {arm[:60]}...: too long to name a directory: sweep less at a time")
        for known, of_known in arms.items():
            if known != arm and runs[of_known] == runs[values]:
                raise UserError(f"ABLATION_SWEEP: {known} and {arm} would be the same run: name each value once")
        arms.setdefault(arm, values)
    return [(arm, settings[values]) for arm, values in arms.items()]


def _runs_of_arm(base: Resolved, name: str, fragment: list[Assignment], ablation: AblationConfig) -> list[PlannedRun]:
    """An arm's runs, by seed. They differ in SEED alone, so that its other settings are worked out once."""
    seeds = [Assignment("SEED", str(seed), "ABLATION_SEEDS") for seed in ablation.seeds]
    each = resolve_each([base.minimal(), fragment], seeds)
    config = each[0].run_config()
    folder = run_directory(ablation.directory.parent, ablation.directory.name, name, ablation.seeds[0]).parent
    return [
        PlannedRun(
            step=name,
            seed=seed,
            resolved=resolved,
            config=replace(config, train=replace(config.train, seed=seed)),
            path=folder / seed_directory(seed),
        )
        for seed, resolved in zip(ablation.seeds, each, strict=True)
    ]


def _what_is_run(config: RunConfig) -> dict[str, Any]:
    """What makes a run another one, as far as can be told without opening its data."""
    return config.identity() | {"DATASET_TEXT_PATHS": config.data.text_paths, "DATASET_BIN_DIR": config.data.bin_dir}


def _label(symbol: str, value: str) -> str:
    """A swept value as part of a directory's name. Of a path the last component, and a hash of the whole."""
    if symbol not in PATHS:
        return value
    last = re.sub(r"[^A-Za-z0-9._+-]+", "-", Path(value).name).strip("-.")[:40]
    return f"{last or 'path'}-{hashlib.sha256(value.encode()).hexdigest()[:8]}"


def _refuse_sweep(symbol: str, values: Sequence[str]) -> None:
    """Raise UserError for a symbol that does not make runs different, or a value that cannot name a directory."""
    where = f'ABLATION_SWEEP="{symbol}={",".join(values)}"'
    for value in values:
        if symbol not in PATHS and any(c in "/\\@" or not c.isprintable() for c in value):
            raise UserError(f"{where}: {value!r} cannot be part of a directory's name")
    if symbol == "SEED":
        raise UserError(f"{where}: SEED cannot be swept: ABLATION_SEEDS={','.join(values)} says the seeds")
    if file_of(symbol) in ("Kconfig", "harness/Kconfig"):
        raise UserError(f"{where}: {symbol} cannot be swept: it names or plans the experiment, and is of no single run")
    if symbol not in PATHS and not is_of_a_run(symbol):
        raise UserError(
            f"{where}: {symbol} cannot be swept: a name, a place or a pace of logging, it changes no number of a run"
        )


def _refuse_idle_sweep(ablation: AblationConfig, arms: Sequence[str]) -> None:
    """Raise UserError for a swept symbol that makes no difference to any step."""
    for symbol, values in ablation.sweep:
        if len(values) > 1 and not any(f"@{symbol}=" in arm for arm in arms):
            raise UserError(
                f'ABLATION_SWEEP="{symbol}={",".join(values)}": {symbol} does nothing in any of the runs: '
                f"{', '.join(arms)}"
            )


def _refuse_what_no_run_takes(
    asked: Iterable[Assignment], ablation: AblationConfig, arms: Sequence[PlannedRun]
) -> None:
    """Raise UserError for a setting that was asked for and that every run has otherwise: of a step, or of a seed.

    `arms`: a run of each.
    """
    swept = {symbol for symbol, _ in ablation.sweep}
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
                f"{assignment.origin}: {assignment}: every step that is to be run sets this itself: leave it out, "
                "name a step that takes it, or set RA_MLA_ABLATION_MODE=n"
            )
