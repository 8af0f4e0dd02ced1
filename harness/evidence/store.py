"""The directory of an experiment: which runs it holds, what they measured, and the few files written beside them.

docs/results.md describes the format. Nothing here parses a log or starts a run: `make status`, `make plots` and
`make report` all see an experiment through `load_experiment`.
"""

from __future__ import annotations

import contextlib
import csv
import io
import math
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

from gpt2 import dotconfig
from gpt2.assignments import Assignment, read_assignments
from gpt2.base.errors import UserError
from gpt2.base.files import write_text
from gpt2.base.text import showable, shown
from gpt2.run.records import Json, is_finite, read_metrics, read_provenance, read_summary
from harness.configure.arms import fragment, promised
from harness.configure.gate_noise import NOISE
from harness.configure.kconfig import SIZE, list_steps
from harness.configure.registration import REGISTRATION, Entry, read_registration
from harness.configure.tuning import TRIALS

SUMMARY_COLUMNS = (
    *("step", "seed", "status", "val_loss", "val_bpb", "train_loss", "iters", "tokens", "ms_per_step", "tokens_per_s"),
    *("mfu", "peak_mem_gib", "train_time_s", "params", "config_hash", "compile", "device_name"),
)
"""Columns of summary.csv."""

TITLE = 200
"""Characters of an arm's title: one line for tables and figures."""

_SEED = re.compile("seed-(0|[1-9][0-9]{0,9})")

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class RunRecord:
    """One run, as its directory tells."""

    step: str
    """Name of the ablation step, with `@SYMBOL=value` for what is swept."""

    seed: int
    """The seed."""

    path: Path
    """Its directory."""

    summary: Json | None = None
    """summary.json; None before the run's first end."""

    provenance: Json | None = None
    """provenance.json; None before the run has started."""

    metrics: list[Json] = field(default_factory=list)
    """The lines of metrics.jsonl that count (`read_metrics`)."""

    settings: dict[str, str] = field(default_factory=dict)
    """What its configuration says (`read_settings`)."""

    damage: str | None = None
    """Which of its files is not what docs/results.md says, and why. Nothing of such a run is believed: it has none of
    the above."""

    @property
    def status(self) -> str:
        """What the run said, "done", "failed" or "interrupted"; "unfinished": started and not ended; else "pending".

        Files cannot tell a run that is going on from one that was killed: both are "unfinished". "damaged": a file of
        the run is not what it should be.
        """
        if self.damage is not None:
            return "damaged"
        if self.summary is not None:
            return str(self.summary["status"])
        return "pending" if self.provenance is None else "unfinished"

    @property
    def has_ended(self) -> bool:
        """Whether it is done or has failed, such as by a NaN: nothing more will come of it."""
        return self.status in ("done", "failed")

    @property
    def began(self) -> datetime | None:
        """UTC; None where it has not, or does not say when."""
        if self.provenance is None:
            return None
        try:
            began = datetime.fromisoformat(str(self.provenance["started"]))
        except ValueError:
            return None
        return began if began.tzinfo else began.replace(tzinfo=timezone.utc)

    @property
    def name(self) -> str:
        """`<step>/seed-<seed>`."""
        return f"{self.step}/seed-{self.seed}"

    def series(self, kind: str, x: str, y: str) -> tuple[list[float], list[float]]:
        """Two keys of the lines of one kind, where both have a finite value."""
        points = [(line.get(x), line.get(y)) for line in self.metrics if line["kind"] == kind]
        finite = [(a, b) for a, b in points if is_finite(a) and is_finite(b)]
        return [a for a, _ in finite], [b for _, b in finite]  # type: ignore[misc]

    def value(self, metric: str) -> float | None:
        """A number of the summary, or None where there is none or it is not finite.

        "val_loss/books" is that of `books` in its `val_losses`.
        """
        of, _, name = metric.partition("/")
        found = self.summary or {}
        number = found.get("val_losses", {}).get(name) if of == "val_loss" and name else found.get(metric)
        return float(number) if is_finite(number) else None  # type: ignore[arg-type]


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
        return _names(self.settings.get("STEP_REFERENCE", ""))

    @cached_property
    def beside(self) -> list[str]:
        """STEP_BESIDE: the names of the steps it is held against besides; for records without it, today's."""
        today = next((a.value for a in fragment(self.base) if a.symbol == "STEP_BESIDE"), "")
        return _names(self.settings.get("STEP_BESIDE", today))

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


def gate_shape(run: RunRecord) -> dict[str, tuple[int, int]] | None:
    """Name -> (layers, heads) of the gates in a run's metrics; None where there are none."""
    gates = next((line["gates"] for line in run.metrics if line["kind"] == "gates"), None)
    return gates and {name: (len(layers), len(layers[0])) for name, layers in gates.items()}


def read_settings(path: Path) -> dict[str, str]:
    """Symbol -> value as a stored configuration has it.

    It was resolved when it was written. Resolving it again would cost time, and results would become unreadable when
    the Kconfig tree moves on.
    """
    return {assignment.symbol: assignment.value for assignment in read_assignments(path)}


def write_csv(path: Path, columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> None:
    """Write a table atomically. None becomes an empty cell; floats keep every digit; text can be shown."""
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow({key: showable(cell) if isinstance(cell, str) else cell for key, cell in row.items()})
    write_text(path, text.getvalue())


def write_summary_csv(experiment: Experiment) -> Path:
    """Write summary.csv, one row per run, and return its path."""
    path = experiment.path / "summary.csv"
    write_csv(path, SUMMARY_COLUMNS, [summary_row(run) for run in experiment.runs])
    return path


def summary_row(run: RunRecord) -> Json:
    """A run's row of summary.csv. What the run has not said is None."""
    row = {column: (run.summary or {}).get(column) for column in SUMMARY_COLUMNS}
    row |= {"step": run.step, "seed": run.seed, "status": run.status}
    row["compile"] = compile_ran(run)
    row["device_name"] = device_name(run)
    row["config_hash"] = (run.provenance or {}).get("config_hash")
    return row


def compile_ran(run: RunRecord) -> str | None:
    """What torch.compile did cover in a run: "none", "attention" or "model"; with its mode if not default."""
    compiled = (run.summary or {}).get("compile")
    if compiled is None:
        return None
    mode = compiled.get("mode") or "default"
    return shown(compiled["ran"] if mode == "default" else f"{compiled['ran']}, {mode}")


def lines_beside_others(run: RunRecord) -> str | None:
    """How many lines of a run's log are of steps during which another process used the device: "3 of 50"."""
    timed = (run.summary or {}).get("timed")
    return None if timed is None else f"{timed['shared']} of {timed['lines']}"


def has_clean_times(run: RunRecord) -> bool:
    """Whether ms per step is of steps during which nobody else used the device, as far as is recorded."""
    return bool((run.summary or {}).get("timed", {}).get("clean", True))


def device_name(run: RunRecord) -> str | None:
    """The device a run was trained on, such as "NVIDIA H100 80GB HBM3"."""
    return None if run.provenance is None else shown(devices(run.provenance))


def data_hash(run: RunRecord) -> str | None:
    """The first digits of the hash of the data a run was trained on."""
    return None if run.provenance is None else str(run.provenance["data"]["hash"])[:12]


def devices(provenance: Json) -> str:
    """What a run was trained on, from its provenance; "2 x " it where two processes had one each."""
    processes = provenance.get("parallel", {}).get("processes", 1)
    name: str = provenance["hardware"]["device_name"]
    return name if processes == 1 else f"{processes} x {name}"


def load_run(directory: Path, step: str, seed: int) -> RunRecord:
    """What a run's directory holds, which may be nothing yet, or damaged."""
    record = RunRecord(step=step, seed=seed, path=directory)
    if not os.path.lexists(directory):
        return record

    def read(name: str, reader: Callable[[Path], T]) -> T | None:
        return reader(directory / name) if os.path.lexists(directory / name) else None

    try:
        if directory.exists() and not directory.is_dir():
            raise UserError(f"{directory}: is no directory, as a run's has to be")
        record = replace(
            record,
            summary=read("summary.json", read_summary),
            provenance=read("provenance.json", read_provenance),
            metrics=read("metrics.jsonl", read_metrics) or [],
            settings=read("config", read_settings) or {},
        )
        if reason := _belongs_elsewhere(record):
            raise UserError(f"{directory}: {reason}: it was trained as another run, and has been put here")
        hashes = [of["config_hash"] for of in (record.summary, record.provenance) if of and "config_hash" in of]
        if len(set(hashes)) > 1:
            raise UserError(f"{directory / 'summary.json'}: config_hash is not that of provenance.json: of another run")
    except (UserError, OSError) as error:
        return RunRecord(step=step, seed=seed, path=directory, damage=str(error))
    return record


def _belongs_elsewhere(record: RunRecord) -> str | None:
    """What a run says of itself that its directory's name does not: a copy under another name is no other run."""
    if record.provenance is not None:
        seed = record.provenance["identity"].get("SEED", record.seed)
        if seed != record.seed:
            return f"SEED is {seed}, and {record.seed} by the directory's name"
    layers = promised(record.step, record.settings)
    if not any(_unlike(record, layer) for layer in layers):
        return None
    # What a later layer sets otherwise, an earlier one does not promise.
    for symbol, value in _unlike(record, dotconfig.merge(*layers)):
        return f"CONFIG_{symbol} is {shown(record.settings[symbol])}, and {shown(value)} by the directory's name"
    return None


def _unlike(record: RunRecord, promises: Iterable[Assignment]) -> list[tuple[str, str]]:
    """Symbols and promised values of those that a run's configuration has otherwise. Titles make no other run."""
    return [
        (a.symbol, a.value)
        for a in promises
        if not a.symbol.startswith("STEP_") and record.settings.get(a.symbol, a.value) != a.value
    ]


def _names(text: str) -> list[str]:
    return [name for name in text.replace(" ", "").split(",") if name]


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
