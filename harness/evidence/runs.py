"""A run as its directory tells: what it was, what it measured, and whether it belongs where it lies."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import TypeVar

from gpt2 import dotconfig
from gpt2.assignments import Assignment, read_assignments
from gpt2.base.errors import UserError
from gpt2.base.text import shown
from gpt2.run.records import Json, is_finite, read_metrics, read_provenance, read_summary
from harness.configure.arms import promised

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
            raise UserError(
                f"{directory}: {reason}: it was trained as another run, and has been put here, or the fragment of its "
                "step has changed since"
            )
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
        if not a.symbol.startswith("STEP_") and not _is_same(record.settings.get(a.symbol, a.value), a.value)
    ]


def _is_same(a: str, b: str) -> bool:
    """Whether two texts are of one value: 0.0 is 0.00."""
    with contextlib.suppress(ValueError):
        return float(a) == float(b)
    return a == b


def read_settings(path: Path) -> dict[str, str]:
    """Symbol -> value as a stored configuration has it.

    It was resolved when it was written. Resolving it again would cost time, and results would become unreadable when
    the Kconfig tree moves on.
    """
    return {assignment.symbol: assignment.value for assignment in read_assignments(path)}


def gate_shape(run: RunRecord) -> dict[str, tuple[int, int]] | None:
    """Name -> (layers, heads) of the gates in a run's metrics; None where there are none."""
    gates = next((line["gates"] for line in run.metrics if line["kind"] == "gates"), None)
    return gates and {name: (len(layers), len(layers[0])) for name, layers in gates.items()}


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


def processes_of(provenance: Json) -> list[Json]:
    """What provenance.json says of each process that a run has had, one after the other."""
    return [provenance, *provenance.get("resumed", [])]


def devices(provenance: Json) -> str:
    """What a run was trained on, from its provenance; "2 x " it where two processes had one each."""
    processes = provenance.get("parallel", {}).get("processes", 1)
    name: str = provenance["hardware"]["device_name"]
    return name if processes == 1 else f"{processes} x {name}"


def data_hash(run: RunRecord) -> str | None:
    """The first digits of the hash of the data a run was trained on."""
    return None if run.provenance is None else str(run.provenance["data"]["hash"])[:12]
