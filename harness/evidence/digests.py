"""What a table shows of a run, kept so that the records of a run that has ended are read once.

    digests = Digests(Path("results/mine"))
    digest = digests.of(run.path, run.step, run.seed)    # of the run's files as they are now
    digests.keep()                                       # for the next command

`<experiment>/.digests` is a cache: whoever removes it loses time. An entry is believed only if it is whole, of this
code and these steps (its check is keyed with them), and made of files that have neither been replaced nor changed since
(their inodes, sizes and times are those of the entry). Files that had just been written when they were read might
change again within the same tick of the file system's clock, and are not kept: git calls such entries racy. Damaged
runs and those that have not ended are not kept either, and are read each time.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from gpt2 import assignments, dotconfig
from gpt2.base import errors, files
from gpt2.base.files import write_csv, write_text
from gpt2.config import identity_hash
from gpt2.run import records
from gpt2.run.records import Json
from harness.configure import arms
from harness.configure.kconfig import list_steps
from harness.evidence import runs, store, summary_table
from harness.evidence.runs import RunRecord, gate_shape, load_run
from harness.evidence.store import by_arm, of_another_model, run_directories
from harness.evidence.summary_table import SUMMARY_COLUMNS, summary_row

FILES = ("summary.json", "provenance.json", "metrics.jsonl", "config")
"""Of a run: all that its digest is made of."""

SETTLED_NS = 2 * 10**9
"""So much older than their reading are files whose entries are kept: no file system's clock ticks more coarsely."""


@dataclass(frozen=True, kw_only=True)
class Digest:
    """A run in short."""

    status: str
    """As in `RunRecord.status`."""

    row: Json
    """Its row of summary.csv (`summary_row`)."""

    step: int
    """The newest that is logged."""

    val_loss: float | None
    """Of the summary, or the newest that is logged; and so for the next two."""

    ms_per_step: float | None
    tokens_per_s: float | None
    peak_mem_gib: float | None

    identity: str | None
    """A hash of what it recorded of itself, of which SEED is only whether it has one: of an arm's runs it is one."""

    gates: dict[str, list[int]] | None
    """Name -> layers and heads of what its metrics log of gates (`gate_shape`)."""

    damage: str | None = None
    """As in `RunRecord.damage`."""


def digest_of(run: RunRecord) -> Digest:
    """A run that has been read, in short."""
    identity = None if run.provenance is None else run.provenance["identity"]
    shape = gate_shape(run)
    return Digest(
        status=run.status,
        row=summary_row(run),
        step=int(_last(run, "train", "step") or 0),
        val_loss=run.value("val_loss") or _last(run, "eval", "val_loss"),
        ms_per_step=run.value("ms_per_step") or _last(run, "train", "ms_per_step"),
        tokens_per_s=run.value("tokens_per_s") or _last(run, "train", "tokens_per_s"),
        peak_mem_gib=run.value("peak_mem_gib"),
        identity=identity and identity_hash({**identity, "SEED": "SEED" in identity}),
        gates={name: list(size) for name, size in shape.items()} if shape else None,
        damage=run.damage,
    )


def _last(run: RunRecord, kind: str, key: str) -> float | None:
    _, values = run.series(kind, "step", key)
    return values[-1] if values else None


class Digests:
    """The digests of an experiment's runs."""

    def __init__(self, experiment: Path) -> None:
        self._experiment = experiment
        self._path = experiment / ".digests"
        self._known: dict[str, tuple[str, Digest]] = {}
        """Name of a run -> the state of its files, and its digest."""
        self._new: list[str] = []
        self._lines = 0
        for line in _lines(self._path):
            self._lines += 1
            if entry := _entry(line):
                name, stamp, digest = entry
                self._known[name] = stamp, digest

    def of(self, directory: Path, step: str, seed: int) -> Digest:
        """The digest of what a run's directory holds, which may be nothing yet, or damaged."""
        stamp, newest = _stamp(directory)
        if stamp is None:  # it has not ended
            return digest_of(load_run(directory, step, seed))
        name = f"{step}/seed-{seed}"
        known = self._known.get(name)
        if known and known[0] == stamp:
            return known[1]
        # The clock is read before the files are: what changes after that has a later time than theirs.
        settled = newest + SETTLED_NS < self._now()
        digest = digest_of(load_run(directory, step, seed))
        if settled and digest.damage is None and digest.status not in ("pending", "unfinished"):
            self._known[name] = stamp, digest
            self._new.append(_line(name, stamp, digest))
        return digest

    def all(self) -> list[Digest]:
        """The digests of all runs that have a directory, by arm and seed; a run of another model than its arm's is
        damaged, as in `load_experiment`."""
        ordered = []
        for arm in by_arm(run_directories(self._experiment)):
            digests = [self.of(directory, step, seed) for step, seed, directory in arm]
            odd = of_another_model([digest.gates for digest in digests])
            for (step, seed, directory), digest, is_odd in zip(arm, digests, odd, strict=True):
                if is_odd:
                    digest = digest_of(RunRecord(step=step, seed=seed, path=directory, damage="of another model"))
                ordered.append(digest)
        return ordered

    def keep(self) -> None:
        """Add what is new to the cache, or write it anew where most of it is out of date. Where it cannot be written,
        the next command reads what this one read."""
        if not self._new:
            return
        try:
            if self._lines > 2 * len(self._known) + 100:
                text = "".join(_line(name, stamp, digest) for name, (stamp, digest) in self._known.items())
                write_text(self._path, text)
                self._lines = len(self._known)
            else:
                with self._path.open("ab") as file:
                    # Whoever was killed here may have left half a line.
                    file.write("".join(["\n", *self._new]).encode())
                self._lines += len(self._new)
        except OSError:
            return
        self._new.clear()

    def _now(self) -> int:
        """The time by the clock of the file system, which need not be this machine's; 0 where it cannot be told."""
        try:
            with self._path.open("ab") as file:
                os.utime(file.fileno())
                return os.fstat(file.fileno()).st_mtime_ns
        except OSError:
            return 0


class SummaryTable:
    """Keeps summary.csv up to date while runs end, at a cost for each that does not grow with their number.

        with SummaryTable(Path("results/mine")) as table:
            table.run_ended()

    The file is written whenever one in a hundred of its rows may have changed, so each time where there are few, and at
    the end: also where no run has ended, since whoever was to write of one may have been killed.
    """

    def __init__(self, experiment: Path) -> None:
        self._digests = Digests(experiment)
        self._path = experiment / "summary.csv"
        self._rows = 0
        self._ended = 0

    def __enter__(self) -> SummaryTable:
        return self

    def run_ended(self) -> None:
        """A run of the experiment has ended, in whatever way."""
        self._ended += 1
        if self._ended * 100 >= self._rows:
            self.write()

    def write(self) -> None:
        """Write the file: a row for each run as its files are now. Nothing where there are none."""
        rows = [digest.row for digest in self._digests.all()]
        if rows:
            write_csv(self._path, SUMMARY_COLUMNS, rows)
        self._digests.keep()
        self._rows, self._ended = len(rows), 0

    def __exit__(self, *_: object) -> None:
        self.write()


def _stamp(directory: Path) -> tuple[str | None, int]:
    """The state of a run's files, and the newest of their times; None where it has no summary."""
    states: list[object] = []
    newest = 0
    for name in FILES:
        try:
            s = os.stat(f"{directory}/{name}")
        except OSError:
            if name == "summary.json":
                return None, 0
            states.append(os.path.lexists(f"{directory}/{name}"))  # a link that leads nowhere is not nothing
            continue
        states.append((s.st_dev, s.st_ino, s.st_size, s.st_mtime_ns, s.st_ctime_ns))
        newest = max(newest, s.st_mtime_ns, s.st_ctime_ns)
    return hashlib.blake2b(repr(states).encode(), digest_size=16).hexdigest(), newest


def _line(name: str, stamp: str, digest: Digest) -> str:
    text = json.dumps([name, stamp, vars(digest)])
    return f"{_check(text.encode())} {text}\n"


def _lines(path: Path) -> Iterable[bytes]:
    try:
        return [line for line in files.read_file(path, records.MAX_METRICS).split(b"\n") if line]
    except errors.UserError:
        return []


def _entry(line: bytes) -> tuple[str, str, Digest] | None:
    """What a line says, if it is as it was written, by this code."""
    check, _, text = line.partition(b" ")
    if check != _check(text).encode():
        return None
    name, stamp, digest = json.loads(text)
    return name, stamp, Digest(**digest)


def _check(text: bytes) -> str:
    return hashlib.blake2b(text, key=_key(), digest_size=8).hexdigest()


@functools.cache
def _key() -> bytes:
    """A hash of what else decides what a run's files are taken for: the code that reads them, and the steps."""
    modules = (assignments, dotconfig, arms, records, runs, store, summary_table)
    sources = [__file__, *(module.__file__ for module in modules)]
    paths = [*map(Path, filter(None, sources)), *(step.path for step in list_steps())]
    return hashlib.blake2b(b"\0".join(path.read_bytes() for path in paths), digest_size=32).digest()
