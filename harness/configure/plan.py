"""From a configuration to the runs it asks for: steps, sweep and seeds, each with a configuration of its own.

A step is data, a fragment laid over the base configuration. There is no list of steps in code.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from gpt2.base.errors import UserError
from gpt2.base.files import read_json, write_text
from gpt2.config import RunConfig
from gpt2.dotconfig import Assignment, Resolved
from gpt2.symbols import Symbols
from harness.configure.kconfig import Step, configuration, find_step, named_experiment, overlay

LAST_EXPERIMENT = Path(".last-experiment")
"""Holds the directory of the experiment that `make` ran last."""

T = TypeVar("T")


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
    def is_done(self) -> bool:
        """Whether it has finished."""
        path = self.path / "summary.json"
        return path.exists() and read_json(path)["status"] == "done"


@dataclass(frozen=True, kw_only=True)
class Plan:
    """All runs of an experiment, seeds outermost: an ablation that is stopped early is still paired."""

    base: Resolved
    """The configuration it was made from."""

    directory: Path
    """The experiment's directory."""

    runs: tuple[PlannedRun, ...]
    """In the order in which they are to be run."""


def ablation_config(symbols: Symbols) -> AblationConfig:
    """The typed ablation settings. Raises UserError, naming the symbol, the value and what would be right."""
    steps: tuple[Step, ...] = ()
    if symbols["RA_MLA_ABLATION_MODE"]:
        text = str(symbols["RA_MLA_ABLATION_STEPS"])
        expected = "expected numbers or names of steps, such as 1,2,3,4"
        steps = _split(f'RA_MLA_ABLATION_STEPS="{text}"', text, find_step, expected)
    seeds = str(symbols["ABLATION_SEEDS"])
    return AblationConfig(
        steps=steps,
        seeds=parse_seeds(f'ABLATION_SEEDS="{seeds}"', seeds),
        sweep=_sweep(str(symbols["ABLATION_SWEEP"])),
        directory=Path(str(symbols["RESULTS_DIR"]), str(symbols["MODEL_NAME"])),
    )


def make_plan(base: Resolved) -> Plan:
    """The runs that a configuration asks for. Raises UserError where one of them cannot be resolved."""
    ablation = ablation_config(base.symbols)
    arms: list[tuple[str, list[Assignment]]] = []
    for step in ablation.steps or (None,):
        arms += _arms(base, step, ablation)
    runs = []
    for seed in ablation.seeds:
        for name, assignments in arms:
            resolved = overlay(base, [*assignments, Assignment("SEED", str(seed), "ABLATION_SEEDS")])
            path = run_directory(ablation.directory.parent, ablation.directory.name, name, seed)
            config = resolved.run_config()
            runs.append(PlannedRun(step=name, seed=seed, resolved=resolved, config=config, path=path))
    return Plan(base=base, directory=ablation.directory, runs=tuple(runs))


def run_directory(results_dir: Path, model_name: str, step: str, seed: int) -> Path:
    """Where a run lives."""
    return results_dir / model_name / step / f"seed-{seed}"


def configured_experiment() -> Path:
    """The directory of the experiment that make's RESULTS names, or `.config` and the settings of make's command line.

    Raises UserError.
    """
    if named := named_experiment():
        return named
    symbols = configuration().symbols
    return Path(str(symbols["RESULTS_DIR"])) / str(symbols["MODEL_NAME"])


def remember_experiment(plan: Plan) -> None:
    """Note down that this experiment is the last one, for `make continue`."""
    write_text(LAST_EXPERIMENT, f"{plan.directory}\n")


def last_experiment() -> Path:
    """The directory of the experiment that was run last. UserError if there is none."""
    try:
        return Path(LAST_EXPERIMENT.read_text().strip())
    except FileNotFoundError:
        raise UserError("there is nothing to continue: `make` starts an ablation") from None


def _arms(base: Resolved, step: Step | None, ablation: AblationConfig) -> list[tuple[str, list[Assignment]]]:
    """Names of a step's arms, one per combination of the swept values that it depends on, and what they set."""
    fragment = step.assignments() if step else []
    identities: dict[tuple[str, ...], dict[str, Any]] = {}
    settings: dict[tuple[str, ...], list[Assignment]] = {}
    for values in itertools.product(*(values for _, values in ablation.sweep)):
        swept = [
            Assignment(symbol, value, "ABLATION_SWEEP")
            for (symbol, _), value in zip(ablation.sweep, values, strict=True)
        ]
        # A swept value wins over the fragment's own.
        own = {assignment.symbol for assignment in swept}
        settings[values] = [a for a in fragment if a.symbol not in own] + swept
        config = overlay(base, settings[values]).run_config()
        identities[values] = config.identity()
        name = step.name if step else config.model.attention.replace("_", "-")

    def matters(i: int) -> bool:
        """Whether the i-th swept symbol makes any difference to this step."""
        by_rest: dict[tuple[str, ...], list[dict[str, Any]]] = {}
        for values, identity in identities.items():
            by_rest.setdefault(values[:i] + values[i + 1 :], []).append(identity)
        return any(identity != group[0] for group in by_rest.values() for identity in group)

    relevant = [i for i in range(len(ablation.sweep)) if matters(i)]
    arms: dict[str, list[Assignment]] = {}
    for values, assignments in settings.items():
        label = "".join(f"@{ablation.sweep[i][0]}={values[i]}" for i in relevant)
        arms.setdefault(name + label, assignments)
    return list(arms.items())


def _sweep(text: str) -> tuple[tuple[str, tuple[str, ...]], ...]:
    """ "A=1,2;B=3" as (("A", ("1", "2")), ("B", ("3",)))."""
    sweep: dict[str, tuple[str, ...]] = {}
    for part in filter(None, (part.strip() for part in text.split(";"))):
        symbol, equals, values = part.partition("=")
        symbol = symbol.strip().removeprefix("CONFIG_")
        expected = 'is written "SYMBOL=value,value", several separated by ";"'
        if not equals or not symbol:
            raise UserError(f'ABLATION_SWEEP="{text}": {part!r} {expected}')
        if symbol in sweep:
            raise UserError(f'ABLATION_SWEEP="{text}": {symbol} is swept twice')
        sweep[symbol] = _split(f'ABLATION_SWEEP="{text}"', values, _path_safe, expected)
    return tuple(sweep.items())


def _split(where: str, text: str, convert: Callable[[str], T], expected: str) -> tuple[T, ...]:
    """Comma-separated items, at least one, none empty and none twice."""
    items: list[T] = []
    for item in text.split(","):
        try:
            if not item.strip():
                raise ValueError("an item is empty")
            items.append(convert(item.strip()))
        except ValueError as error:
            raise UserError(f"{where}: {error}; {expected}") from None
        except UserError as error:
            raise UserError(f"{where}: {error}") from None
    if len(set(items)) != len(items):
        raise UserError(f"{where}: an item stands there twice")
    return tuple(items)


def parse_seeds(where: str, text: str) -> tuple[int, ...]:
    """Seeds such as "1,2,3", each once. Raises UserError, which begins with `where`."""
    return _split(where, text, _seed, "expected whole numbers from 0 to 2147483647, such as 1,2,3")


def _seed(text: str) -> int:
    if not (text.isascii() and text.isdigit() and int(text) < 2**31):
        raise ValueError(f"{text!r} is no seed")
    return int(text)


def _path_safe(text: str) -> str:
    """A swept value, which becomes part of a directory's name."""
    if any(character in "/\\@" or not character.isprintable() for character in text):
        raise ValueError(f"{text!r} cannot be part of a directory's name")
    return text
