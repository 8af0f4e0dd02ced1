"""The directory of an experiment: its arms and their runs.

docs/results.md describes the format. Nothing here parses a log or starts a run: `make status`, `make plots` and
`make report` all see an experiment through `load_experiment`.
"""

from __future__ import annotations

import contextlib
import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from gpt2.base.errors import UserError
from gpt2.base.text import shown
from harness.configure.arms import fragment, step_names
from harness.configure.gate_noise import NOISE
from harness.configure.kconfig import SIZE, list_steps
from harness.configure.registration import REGISTRATION, Entry, read_registration
from harness.configure.tuning import TRIALS
from harness.evidence.runs import RunRecord, gate_shape, load_run, read_settings

TITLE = 200
"""Characters of an arm's title: one line for tables and figures."""

_SEED = re.compile("seed-(0|[1-9][0-9]{0,9})")


@dataclass(frozen=True, kw_only=True)
class Arm:
    """The runs of one step, over seeds."""

    step: str
    """The step's name, as in `RunRecord.step`."""

    runs: tuple[RunRecord, ...]
    """By seed."""

    @cached_property
    def settings(self) -> dict[str, str]:
        """What the configuration of the first run that has one says; the others differ in SEED."""
        return next((run.settings for run in self.runs if run.settings), {})

    @cached_property
    def title(self) -> str:
        """One line for tables and figures: STEP_TITLE, or the step's name; its size and what is swept behind it."""
        title = self.settings.get("STEP_TITLE") or self.base
        labels = [label.removeprefix(f"{SIZE}=") for label in sorted(self.swept)]
        return shown(f"{title} ({', '.join(labels)})" if labels else title, TITLE)

    @cached_property
    def references(self) -> list[str]:
        """STEP_REFERENCE: the names of the steps this one is compared with, best first."""
        return list(step_names(self.settings.get("STEP_REFERENCE", "")))

    @cached_property
    def beside(self) -> list[str]:
        """STEP_BESIDE: the names of the steps it is held against besides; for records without it, today's."""
        today = next((a.value for a in fragment(self.base) if a.symbol == "STEP_BESIDE"), "")
        return list(step_names(self.settings.get("STEP_BESIDE", today)))

    @property
    def control(self) -> str:
        """The verdict that a control has to get, by STEP_CONTROL_*; empty for an arm that is none."""
        due = {"NULL": "equivalent", "BETTER": "better", "WORSE": "worse"}
        return next((word for name, word in due.items() if self.settings.get(f"STEP_CONTROL_{name}") == "y"), "")

    @property
    def base(self) -> str:
        """The step's name without what is swept."""
        return self.step.split("@")[0]

    @property
    def swept(self) -> frozenset[str]:
        """What is swept, each as `SYMBOL=value`."""
        return frozenset(self.step.split("@")[1:])

    @property
    def done(self) -> list[RunRecord]:
        """The runs that are finished."""
        return [run for run in self.runs if run.status == "done"]


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """All runs below one directory, `<RESULTS_DIR>/<MODEL_NAME>/`."""

    path: Path
    """The directory."""

    arms: tuple[Arm, ...]
    """By the step's number; steps without one come last, by name."""

    @property
    def name(self) -> str:
        """MODEL_NAME."""
        return self.path.name

    @property
    def runs(self) -> list[RunRecord]:
        """Every run, by arm and seed."""
        return [run for arm in self.arms for run in arm.runs]

    @cached_property
    def registration(self) -> tuple[Entry, ...]:
        """What registration.json has, oldest first; nothing where there is none. Raises UserError where it is
        damaged."""
        return read_registration(self.path / REGISTRATION)

    @property
    def eval_datasets(self) -> list[str]:
        """The names of EVAL_DATASETS that a run has losses of, each of which is a metric `val_loss/NAME`."""
        return list(dict.fromkeys(name for run in self.runs for name in (run.summary or {}).get("val_losses", {})))

    @cached_property
    def compared(self) -> tuple[Arm, ...]:
        """The arms that a verdict is about: all but lengths and reruns of others."""
        beside = {other.step for arm in self.arms for other in (*self.lengths_of(arm), *self.reruns_of(arm))}
        return tuple(arm for arm in self.arms if arm.step not in beside)

    def lengths_of(self, arm: Arm) -> tuple[Arm, ...]:
        """The same arm trained for another number of steps (STUDY_LENGTHS), without its own length."""
        return self._labelled(arm, "MAX_ITERS")

    def reruns_of(self, arm: Arm) -> tuple[Arm, ...]:
        """The same runs again (STUDY_RERUNS)."""
        return self._labelled(arm, "RERUN")

    def _labelled(self, arm: Arm, symbol: str) -> tuple[Arm, ...]:
        """The arms that are called as `arm` is, with one more label, of this symbol."""
        beside = (other for other in self.arms if other.base == arm.base and arm.swept < other.swept)
        return tuple(other for other in beside if [s.split("=")[0] for s in other.swept - arm.swept] == [symbol])

    @cached_property
    def settings(self) -> dict[str, str]:
        """What the configuration that the experiment was started with says.

        Runs trained by hand leave none, and of a damaged one nothing is known: the report says so.
        """
        with contextlib.suppress(UserError):
            return read_settings(self.path / "config")
        return {}


def load_experiment(path: Path) -> Experiment:
    """Read the experiment in a directory.

    A run with a file that is not what docs/results.md says is "damaged", and says why; the others are as they are.
    Raises UserError where there is no run that can be read.
    """
    arms = [_alike([load_run(at, step, seed) for step, seed, at in arm]) for arm in by_arm(run_directories(path))]
    if not arms:
        if run_directories(path / TRIALS):
            raise UserError(f"{path}: holds no runs yet: they are being tuned, in {path / TRIALS}")
        raise UserError(f"{path}: holds no runs; `make` trains some, `make quickstart` does so in minutes")
    damage = [run.damage for runs in arms for run in runs]
    if all(damage):
        raise UserError(f"{min(filter(None, damage))} (of {len(damage)} runs none can be read)")
    return Experiment(path=path, arms=tuple(Arm(step=runs[0].step, runs=tuple(runs)) for runs in arms))


def run_directories(path: Path) -> list[tuple[str, int, Path]]:
    """Step, seed and directory of each run below an experiment's directory, in no particular order."""
    found = [(directory, _SEED.fullmatch(directory.name)) for directory in path.glob("*/seed-*")]
    return [(directory.parent.name, int(match[1]), directory) for directory, match in found if match]


def parts(path: Path) -> list[Path]:
    """The directories of an experiment that hold runs: its own, and those of its trials and of its runs on noise, which
    are experiments too. A make that was stopped early leaves such a directory without any."""
    return [part for part in (path, path / TRIALS, path / NOISE) if run_directories(part)]


def by_arm(runs: Iterable[tuple[str, int, Path]]) -> list[list[tuple[str, int, Path]]]:
    """Runs as `run_directories` gives them, a list for each arm, by its number and theirs by seed."""
    arms: dict[str, list[tuple[str, int, Path]]] = {}
    for run in runs:
        arms.setdefault(run[0], []).append(run)
    return [sorted(arms[step], key=lambda run: run[1]) for step in sorted(arms, key=_arm_order)]


def of_another_model(gates: Sequence[object]) -> list[bool]:
    """Of an arm's runs, by seed, whose gates have another shape (`gate_shape`) than the first that has any."""
    first = next(filter(None, gates), None)
    return [shape not in (None, first) for shape in gates]


def _alike(runs: Sequence[RunRecord]) -> list[RunRecord]:
    """The runs of an arm, by seed. One of another model than the first that has gates is damaged."""
    shapes = [gate_shape(run) for run in runs]
    alike = list(runs)
    for i, is_odd in enumerate(of_another_model(shapes)):
        if is_odd:
            run, first = runs[i], next(run for run, shape in zip(runs, shapes, strict=True) if shape)
            damage = f"{run.path / 'metrics.jsonl'}: gates are of another shape than those of {first.name}"
            alike[i] = RunRecord(step=run.step, seed=run.seed, path=run.path, damage=damage)
    return alike


def own_symbols(arm: Arm) -> set[str]:
    """The symbols that an arm's step sets, by its fragment or by being swept."""
    return {a.symbol for a in fragment(arm.base)} | {s.split("=")[0] for s in arm.swept}


def _arm_order(name: str) -> tuple[float, str, list[tuple[Any, ...]]]:
    """Steps by their number, an unswept arm before swept ones, swept values as numbers where they are."""
    numbers = {step.name: step.number for step in list_steps()}
    base, *swept = name.split("@")
    return numbers.get(base, math.inf), base, [_natural(value) for value in sorted(set(swept))]


def _natural(text: str) -> tuple[Any, ...]:
    """A sort key by which RA_V5_R=8 comes before RA_V5_R=12."""
    symbol, _, value = text.partition("=")
    try:
        return symbol, 0, float(value), ""
    except ValueError:
        return symbol, 1, 0.0, value
