"""The directory of an experiment: which runs it holds, what they measured, and the few files written beside them.

docs/results.md describes the format. Nothing here parses a log or starts a run: `make status`, `make plots` and
`make report` all see an experiment through `load_experiment`.
"""

from __future__ import annotations

import csv
import io
import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from gpt2 import dotconfig
from gpt2.base.errors import UserError
from gpt2.base.files import read_json, write_text
from harness.configure.kconfig import list_steps

SUMMARY_COLUMNS = (
    *("step", "seed", "status", "val_loss", "val_bpb", "train_loss", "iters", "tokens", "ms_per_step", "tokens_per_s"),
    *("mfu", "peak_mem_gib", "train_time_s", "params", "config_hash", "compile", "device_name"),
)
"""Columns of summary.csv."""

Json = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class RunRecord:
    """One run, as its directory tells."""

    step: str
    """Name of the ablation step, with `@SYMBOL=value` for what is swept."""

    seed: int
    """The seed."""

    path: Path
    """Its directory."""

    summary: Json | None
    """summary.json; None before the run's first end."""

    provenance: Json | None
    """provenance.json; None before the run has started."""

    @property
    def status(self) -> str:
        """What the run said, "done", "failed" or "interrupted"; "unfinished": started and not ended; else "pending".

        Files cannot tell a run that is going on from one that was killed: both are "unfinished".
        """
        if self.summary is not None:
            return str(self.summary["status"])
        return "pending" if self.provenance is None else "unfinished"

    @property
    def name(self) -> str:
        """`<step>/seed-<seed>`."""
        return f"{self.step}/seed-{self.seed}"

    @cached_property
    def metrics(self) -> list[Json]:
        """The lines of metrics.jsonl that count (`read_metrics`), read when first asked for."""
        return read_metrics(self.path / "metrics.jsonl")

    def series(self, kind: str, x: str, y: str) -> tuple[list[float], list[float]]:
        """Two keys of the lines of one kind, where both have a finite value."""
        points = [(line[x], line[y]) for line in self.metrics if line["kind"] == kind]
        finite = [(a, b) for a, b in points if is_finite(a) and is_finite(b)]
        return [a for a, _ in finite], [b for _, b in finite]

    def value(self, metric: str) -> float | None:
        """A number of the summary, or None where there is none or it is not finite."""
        number = (self.summary or {}).get(metric)
        return None if number is None or not is_finite(number) else float(number)


@dataclass(frozen=True, kw_only=True)
class Arm:
    """The runs of one step, over seeds."""

    step: str
    """The step's name, as in `RunRecord.step`."""

    runs: tuple[RunRecord, ...]
    """By seed."""

    @cached_property
    def settings(self) -> dict[str, str]:
        """What the configuration of the first run says (`read_settings`); the others differ in SEED."""
        return read_settings(self.runs[0].path / "config")

    @cached_property
    def title(self) -> str:
        """One line for tables and figures: STEP_TITLE, or the step's name; what is swept behind it."""
        title = self.settings.get("STEP_TITLE") or self.base
        return f"{title} ({', '.join(sorted(self.swept))})" if self.swept else title

    @cached_property
    def references(self) -> list[str]:
        """STEP_REFERENCE: the names of the steps this one is compared with, best first."""
        return [name for name in self.settings.get("STEP_REFERENCE", "").replace(" ", "").split(",") if name]

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
    def settings(self) -> dict[str, str]:
        """What the configuration that the experiment was started with says. Runs trained by hand leave none."""
        path = self.path / "config"
        return read_settings(path) if path.exists() else {}


def load_experiment(path: Path) -> Experiment:
    """Read the experiment in a directory.

    Raises UserError where it holds no run, or a file in it is not what docs/results.md says.
    """
    runs: dict[str, list[RunRecord]] = {}
    for directory in path.glob("*/seed-*"):
        if match := re.fullmatch(r"seed-(\d+)", directory.name):
            run = load_run(directory, directory.parent.name, int(match[1]))
            runs.setdefault(run.step, []).append(run)
    if not runs:
        raise UserError(f"{path}: holds no runs; `make` trains some, `make quickstart` does so in minutes")
    arms = [Arm(step=step, runs=tuple(sorted(of, key=lambda run: run.seed))) for step, of in runs.items()]
    return Experiment(path=path, arms=tuple(sorted(arms, key=_arm_order)))


def read_settings(path: Path) -> dict[str, str]:
    """Symbol -> value as a stored configuration has it.

    It was resolved when it was written. Resolving it again would cost time, and results would become unreadable when
    the Kconfig tree moves on.
    """
    return {assignment.symbol: assignment.value for assignment in dotconfig.read_assignments(path)}


def read_metrics(path: Path) -> list[Json]:
    """The lines of a metrics.jsonl that count, in order of their steps; none where the file does not exist.

    Of two lines of one kind and step the later counts: a resumed run repeats what the interrupted one had logged.
    Events are history, and all of them are kept. A killed process may leave half a last line, which is dropped;
    anything else that is not a JSON object with `kind` and `step` raises a UserError that names file and line.
    """
    if not path.exists():
        return []
    counting: dict[tuple[Any, ...], Json] = {}
    lines = path.read_text(encoding="utf-8", errors="replace").split("\n")
    for number, text in enumerate(lines, start=1):
        is_unfinished_tail = number == len(lines)  # what follows the last newline; "" in an intact file
        try:
            line = json.loads(text)
        except ValueError:
            line = None
        if not (isinstance(line, dict) and isinstance(line.get("kind"), str) and isinstance(line.get("step"), int)):
            if is_unfinished_tail:
                break
            raise UserError(f"{path}:{number}: not a metrics line: {text[:60]!r}; see docs/results.md")
        key = (line["kind"], line["step"])
        counting[(*key, number) if line["kind"] == "event" else key] = line
    return sorted(counting.values(), key=lambda line: line["step"])


def write_csv(path: Path, columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> None:
    """Write a table atomically. None becomes an empty cell; floats keep every digit."""
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
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
    if run.summary is None:
        return None
    compiled = run.summary["compile"]
    mode = compiled.get("mode") or "default"
    return str(compiled["ran"]) if mode == "default" else f"{compiled['ran']}, {mode}"


def device_name(run: RunRecord) -> str | None:
    """The device a run was trained on, such as "NVIDIA H100 80GB HBM3"."""
    return None if run.provenance is None else run.provenance["hardware"]["device_name"]


def is_finite(value: object) -> bool:
    """Whether a value from a JSON file is a finite number. Diverged runs have NaN, unknown values are null."""
    return isinstance(value, (int, float)) and math.isfinite(value)


def load_run(directory: Path, step: str, seed: int) -> RunRecord:
    """What a run's directory holds, which may be nothing yet."""

    def optional(name: str) -> Json | None:
        path = directory / name
        return read_json(path) if path.exists() else None

    return RunRecord(
        step=step,
        seed=seed,
        path=directory,
        summary=optional("summary.json"),
        provenance=optional("provenance.json"),
    )


def own_symbols(arm: Arm) -> set[str]:
    """The symbols that an arm's step sets, by its fragment or by being swept."""
    fragments = (step.assignments() for step in list_steps() if step.name == arm.base)
    return {a.symbol for assignments in fragments for a in assignments} | {s.split("=")[0] for s in arm.swept}


def _arm_order(arm: Arm) -> tuple[float, str, list[tuple[Any, ...]]]:
    """Steps by their number, an unswept arm before swept ones, swept values as numbers where they are."""
    numbers = {step.name: step.number for step in list_steps()}
    return numbers.get(arm.base, math.inf), arm.base, [_natural(value) for value in sorted(arm.swept)]


def _natural(text: str) -> tuple[Any, ...]:
    """A sort key by which RA_V5_R=8 comes before RA_V5_R=12."""
    symbol, _, value = text.partition("=")
    try:
        return symbol, 0, float(value), ""
    except ValueError:
        return symbol, 1, 0.0, value
