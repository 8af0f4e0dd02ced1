"""Is an experiment what its files say? Everything in them that can be worked out anew is, and compared.

    for finding in verify(Path("results/mine")):
        print(finding)

Nothing is changed. A file that cannot be read is a finding like any other, and hides none of the rest; what is not
there to be looked at, such as data that stayed on another machine, is said and is no fault. `make verify` prints this
and trains a run again (harness/evidence/again.py).
"""

from __future__ import annotations

import csv
import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from gpt2.base.errors import UserError
from gpt2.run.lock import RunLock
from gpt2.run.records import Json
from harness.configure.registration import REGISTRATION
from harness.configure.tuning import TUNED
from harness.evidence.findings import NOTE, OK, Finding, Note, Said, Wrong, findings
from harness.evidence.launches import NAME as LAUNCHES
from harness.evidence.registration import registration_errors
from harness.evidence.retrained import retrained
from harness.evidence.run_checks import CHECKS, Evidence, Scans, is_here
from harness.evidence.runs import RunRecord
from harness.evidence.store import Experiment, load_experiment, parts, run_directories
from harness.evidence.summary_table import summary_row
from harness.evidence.tuned import tuning_errors


def verify(experiment: Path) -> Iterator[Finding]:
    """Look at every run, and at the table of them; then so at trials and at runs on noise, experiments of their own.

    Raises UserError where there is no run.
    """
    if not (found := parts(experiment)):
        raise UserError(f"{experiment}: holds no runs; name an experiment, RESULTS=results/NAME")
    if experiment not in found:
        yield Finding(run=experiment.name, check="records", outcome=NOTE, text="no run yet beside those below")
    scans: Scans = {}
    for part in found:
        for finding in _verify(part, scans):
            yield replace(finding, run=str(part.relative_to(experiment) / finding.run))


def _verify(experiment: Path, scans: Scans) -> Iterator[Finding]:
    runs = []
    for _, _, path in sorted(run_directories(experiment)):
        runs.append(run := Evidence(path, scans))
        if RunLock.is_held(path):
            yield Finding(run=run.name, check="records", outcome=NOTE, text="is being trained now: not looked at")
            continue
        for name, check in CHECKS.items():
            yield from findings(run.name, name, path, check(run))
    yield from verify_whole(experiment)
    path = experiment / "summary.csv"
    yield from findings(path.name, "rows", path, _rows(path, runs))


def verify_whole(experiment: Path) -> Iterator[Finding]:
    """Look at the experiment's own files that say how it came about. Of one that is not there, as of runs that were
    trained by hand, something is said only where it should be there."""
    load = functools.cache(lambda: load_experiment(experiment))
    for file, (name, check) in CHECKS_OF_EXPERIMENT.items():
        path = experiment / file
        found = findings(file, name, path, check(experiment, load))
        yield from (finding for finding in found if path.exists() or finding.outcome != OK)


def repeatable(experiment: Path) -> dict[Path, Json]:
    """Summaries, by directory, of the finished runs that can be trained again: of this version, with data here."""
    runs = (Evidence(path, {}) for _, _, path in sorted(run_directories(experiment)))
    done = [run for run in runs if run.status == "done" and not run.damage]
    return {run.path: run.summary for run in done if run.summary and run.config and is_here(run.config.data)}


def _rows(path: Path, runs: Sequence[Evidence]) -> Said:
    """The rows of summary.csv are what the summaries say."""
    if not path.exists():
        yield Note("not here")
        return
    with path.open(newline="", encoding="utf-8") as file:
        rows = {f"{row['step']}/seed-{row['seed']}": row for row in csv.DictReader(file)}
    for name in sorted(rows.keys() - {run.name for run in runs}):
        yield Wrong(f"{path}: has a row for {name}, which is not there")
    for run in runs:
        if run.summary is None or run.damage:
            continue
        if run.name not in rows:
            yield Wrong(f"{path}: has no row for {run.name}; `make plots` writes it anew")
            continue
        step = run.path.parent.name
        record = RunRecord(step=step, seed=run.seed, path=run.path, summary=run.summary, provenance=run.provenance)
        for column, value in summary_row(record).items():
            found, expected = rows[run.name].get(column), "" if value is None else str(value)
            if found != expected:
                yield Wrong(f"{path}: {run.name}: {column} is {found!r}, and {expected!r} by its files")


Load = Callable[[], Experiment]
"""An experiment, read when it is first asked for, and once."""


def _registered(experiment: Path, load: Load) -> Said:
    """Entries are what the configurations say that they were made of."""
    yield from map(Wrong, registration_errors(experiment))


def _tuned(experiment: Path, load: Load) -> Said:
    """Each choice is the one that its trials make, and the runs were trained with it."""
    yield from map(Wrong, tuning_errors(load()))


def _launches(experiment: Path, load: Load) -> Said:
    """No run has been trained twice."""
    yield from map(Note, retrained(load()))


CHECKS_OF_EXPERIMENT: dict[str, tuple[str, Callable[[Path, Load], Said]]] = {
    REGISTRATION: ("registered", _registered),
    TUNED: ("tuned", _tuned),
    LAUNCHES: ("once", _launches),
}
"""What is looked at in an experiment: the file that it is about, and how."""
