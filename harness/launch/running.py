"""A run that is being trained: its directory, held; its process; what it says."""

from __future__ import annotations

import signal
import statistics
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from gpt2.run.directory import hold
from gpt2.run.record import check_identity
from gpt2.run.records import read_live_line, read_summary
from harness.configure.plan import PlannedRun
from harness.launch.launchers import Slot, start_local


class Running:
    """One run, from its launch to its end. HeldElsewhere or AnotherRun, before anything is changed, where it cannot be
    had: the directory is held by somebody else, or holds a run of another `identity`."""

    def __init__(self, run: PlannedRun, identity: dict[str, Any], slot: Slot, given: Sequence[str]) -> None:
        self.run = run
        self.slot = slot
        self.is_training = False
        """Whether it has taken its device. Until then it gets ready."""
        self.was_beside_others = False
        self._laps: list[tuple[int, float, bool]] = []
        """Steps, ms per step and whether the device was shared, of each line of the log."""
        self._step = 0
        with ExitStack() as stack:
            lock = stack.enter_context(hold(run.path))
            check_identity(run.path, identity)  # another make may have been here since
            self.is_done_already = run.is_done
            if not self.is_done_already:
                run.resolved.write(run.path / "config")
                self._tail = MetricsTail(run.path / "metrics.jsonl")
                self._log_start = _size(run.path / "train.log")
                self._trainer = start_local(run, lock, given, slot)
            self._held = stack.pop_all()

    def news(self) -> Iterator[dict[str, Any]]:
        """The lines of metrics.jsonl that have come since the last call."""
        for line in self._tail.lines():
            if line["kind"] == "event":
                self.is_training |= line["event"] == "training"
                if line["event"] == "training":
                    self._step = line["step"]
            elif line["kind"] == "train":
                self._laps.append((line["step"] - self._step, line["ms_per_step"], line.get("shared", False)))
                self._step = line["step"]
            yield line

    @property
    def has_ended(self) -> bool:
        """Whether its process has."""
        return self._trainer.poll() is not None

    def send_signal(self, sig: int) -> None:
        """Signal its process."""
        self._trainer.send_signal(sig)

    def release(self) -> None:
        """Let its directory go."""
        self._held.close()

    def outcome(self, *, interrupted: bool) -> tuple[str, str]:
        """Once it has ended: done, failed or interrupted, and, if it failed, why. interrupted: it was asked to stop."""
        if self.run.is_done:
            return "done", ""
        assert self._trainer.returncode is not None
        if interrupted and self._trainer.returncode not in (1, 2):
            return "interrupted", ""
        return "failed", why_it_failed(self.run.path, self._trainer.returncode, self._log_start)

    def train_s(self) -> float:
        """Seconds of its training steps, as they would be if it had had its device alone all the time."""
        clean = [ms for _, ms, shared in self._laps if not shared]
        usual = statistics.median(clean) if clean else None
        return sum(steps * (usual if shared and usual else ms) for steps, ms, shared in self._laps) / 1000


def why_it_failed(path: Path, exitcode: int, log_start: int = 0) -> str:
    """What a trainer's summary says of it, or the last line that it printed from `log_start` of its log on."""
    log = path / "train.log"
    if exitcode in (1, 2) and (path / "summary.json").exists():
        summary = read_summary(path / "summary.json")
        if summary["status"] == "failed":
            return f"{summary.get('error') or 'it does not say why'} ({log})"
    with log.open("rb") as file:
        file.seek(log_start)
        lines = file.read().decode(errors="replace").strip().splitlines()
    last = (lines or ["printed nothing"])[-1].removeprefix("error: ")
    if exitcode < 0:
        last = f"killed by {signal.Signals(-exitcode).name}; {last}"
    return f"{last} ({log})"


class MetricsTail:
    """Reads what is appended to a metrics.jsonl, whole lines only, and none that is not as the trainer writes it."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._position = _size(path)

    def lines(self) -> Iterator[dict[str, Any]]:
        """The lines that have come since the last call."""
        if _size(self._path) < self._position:  # a resumed run has cut off half a line
            self._position = _size(self._path)
        if _size(self._path) == self._position:
            return
        with self._path.open("rb") as file:
            file.seek(self._position)
            for text in file:
                if not text.endswith(b"\n"):
                    return
                self._position += len(text)
                if line := read_live_line(text):
                    yield line


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0
