"""Running what a plan asks for and is not yet done, one run after another.

A finished run is not run again, an unfinished one is continued, a directory that holds another run is refused before
anything starts. A run that fails is reported and the others go on. Of several at once in one experiment each takes the
runs that nobody trains, and waits at the end for those of the others.
"""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from gpt2.base.errors import UserError
from gpt2.base.terminal import progress_bar
from gpt2.data.batches import check_windows
from gpt2.data.dataset import open_dataset
from gpt2.data.prepare import dataset_status, is_local, prepare
from gpt2.dotconfig import Assignment
from gpt2.run.directory import hold
from gpt2.run.lock import HeldElsewhere, RunLock
from gpt2.run.record import AnotherRun, check_identity, run_identity
from gpt2.run.records import read_summary
from harness.configure.plan import Plan, PlannedRun, remember_experiment
from harness.configure.requests import record_request
from harness.evidence.store import load_experiment, load_run, write_summary_csv
from harness.launch.launchers import POLL_S, start_local
from harness.launch.terminal import LiveView


def run_plan(plan: Plan, given: Sequence[Assignment] = ()) -> int:
    """Run a plan. Returns 0 if every run is done, 1 if one failed, 130 if it was interrupted.

    `given`: the settings of a command line that are in the plan, for the record.

    Raises UserError before anything is run if data is missing, or a directory holds another run, or a damaged one.
    """
    identities = get_ready_to_run(plan)
    failed, runs = 0, list(plan.runs)
    with LiveView([(run.name, run.config.train.max_iters) for run in plan.runs]) as view, sigterm_is_ctrl_c():
        while runs:
            elsewhere = []
            for run in runs:
                try:
                    with hold(run.path) as lock:
                        check_identity(run.path, identities[run.path])  # another make may have been here since
                        status = _attend(run, lock, [f"{a.symbol}={a.value}" for a in given], view)
                except HeldElsewhere as error:
                    view.elsewhere(run.name, str(error))
                    elsewhere.append(run)
                    continue
                except AnotherRun as error:
                    view.refused(run.name, str(error))
                    failed += 1
                    continue
                write_summary_csv(load_experiment(plan.directory))
                if status == "interrupted":
                    return 130
                failed += status == "failed"
            if elsewhere:
                _wait_for_one_of(elsewhere)
            runs = elsewhere
    return 1 if failed else 0


def get_ready_to_run(plan: Plan) -> dict[Path, dict[str, Any]]:
    """What has to be before any of a plan is run, wherever: its data, and room for it. Returns identities by directory.

    Raises UserError if data is missing, or a directory holds another run, or a damaged one.
    """
    for run in plan.runs:
        if damage := load_run(run.path, run.step, run.seed).damage:
            raise UserError(f"{damage}. Restore the file, or move {run.path} away to train this run again")
    prepare_data(plan)
    # Opened once: the runs of a plan mostly share one data set.
    datasets = {config: open_dataset(config) for config in {run.config.data for run in plan.runs}}
    identities = {run.path: run_identity(run.config, datasets[run.config.data]) for run in plan.runs}
    for run in plan.runs:
        check_windows(datasets[run.config.data], block_size=run.config.model.block_size)
        check_identity(run.path, identities[run.path])
    record_request(plan)
    remember_experiment(plan)
    return identities


def prepare_data(plan: Plan) -> None:
    """Prepare the data sets of a plan that are made from what is on this machine. UserError where one is missing."""
    for config in dict.fromkeys(run.config.data for run in plan.runs):
        ready, message = dataset_status(config)
        if ready:
            continue
        if not is_local(config):
            raise UserError(f"DATASET_{config.dataset.upper()}: {message}")
        with progress_bar(f"{config.dataset}, {config.tokenizer} tokens") as report:
            prepare(config, report)


def _attend(run: PlannedRun, lock: RunLock, given: Sequence[str], view: LiveView) -> str:
    """See to it that a run is done whose directory is held. Returns its status: done, failed or interrupted."""
    if run.is_done:
        view.skipped(run.name)
        return "done"
    view.started(run.name)
    status, reason = _train(run, lock, given, view)
    view.ended(run.name, status, reason)
    return status


def _wait_for_one_of(runs: Sequence[PlannedRun]) -> None:
    """Wait until one of the runs that other processes train is let go."""
    while all(RunLock.is_held(run.path) for run in runs):
        time.sleep(POLL_S)


def _train(run: PlannedRun, lock: RunLock, given: Sequence[str], view: LiveView) -> tuple[str, str]:
    """Train one run to its end. Returns its status (done, failed, interrupted) and, if it failed, why."""
    run.resolved.write(run.path / "config")
    tail = MetricsTail(run.path / "metrics.jsonl")
    log_start = _size(run.path / "train.log")
    trainer = start_local(run, lock, given)
    interrupts = 0
    while trainer.poll() is None:
        try:
            for line in tail.lines():
                view.update(run.name, line)
            time.sleep(POLL_S)
        except KeyboardInterrupt:
            interrupts += 1
            if interrupts == 1:
                view.say("stopping at the next step, with a checkpoint; Ctrl-C again to kill")
                trainer.send_signal(signal.SIGINT)
            else:
                trainer.send_signal(signal.SIGKILL)
    for line in tail.lines():
        view.update(run.name, line)
    if interrupts:
        return "interrupted", ""
    if run.is_done:
        return "done", ""
    assert trainer.returncode is not None
    return "failed", why_it_failed(run.path, trainer.returncode, log_start)


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
    """Reads what is appended to a metrics.jsonl, whole lines only."""

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
            for line in file:
                if not line.endswith(b"\n"):
                    return
                self._position += len(line)
                yield json.loads(line)


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


@contextmanager
def sigterm_is_ctrl_c() -> Iterator[None]:
    """Let SIGTERM stop a run as Ctrl-C does."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
