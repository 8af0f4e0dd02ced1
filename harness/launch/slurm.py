"""Running what a plan asks for and is not yet done on a Slurm cluster, as an array of jobs.

It means what the runner of one machine means (harness/launch/runner.py), with one difference: jobs do not end with the
process that submitted them. One that comes later finds them in the runs' directories, and attaches to those that are
still queued or running.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from gpt2.assignments import Assignment
from gpt2.base.errors import UserError
from gpt2.base.files import locked
from gpt2.run.directory import hold
from gpt2.run.lock import HeldElsewhere
from gpt2.run.record import AnotherRun, check_identity
from gpt2.run.records import read_summary
from harness.configure.plan import Plan, PlannedRun, running_order
from harness.configure.slurm import SlurmConfig
from harness.evidence.digests import SummaryTable
from harness.evidence.launches import NAME, Launch, read_launches
from harness.launch import slurm_queue as queue
from harness.launch.runner import get_ready_to_run
from harness.launch.running import MetricsTail, why_it_failed
from harness.launch.signals import sigterm_is_ctrl_c
from harness.launch.slurm_submit import NotTaken, submit, submitit
from harness.launch.terminal import LiveView

POLL_S = 0.5
ASK_S, ASK_RARELY_S = 2.0, 30.0
"""How often Slurm is asked where something has just changed, and where nothing does."""

TRY_S = 5.0
"""How often runs are tried that could not be submitted."""

STOP_S = 2.0
"""How often jobs that are to stop are told so."""


def run_plan(plan: Plan, config: SlurmConfig, given: Sequence[Assignment] = (), *, began: float | None = None) -> int:
    """As runner.run_plan, and raises UserError too where there is no Slurm, or it takes no job at all."""
    require()
    began = time.monotonic() if began is None else began
    said: list[str] = []  # not before Slurm has taken something
    identities, prepared_s = get_ready_to_run(plan, said.append)
    began += prepared_s
    names = [(run.name, run.config.train.max_iters) for run in plan.runs]
    with LiveView(names, slots=config.max_jobs or len(names)) as view, sigterm_is_ctrl_c():
        ablation = _Ablation(plan, config, [f"{a.symbol}={a.value}" for a in given], identities, view)
        try:
            status = ablation.run()
        except KeyboardInterrupt:
            ablation.stop()
            status = 130
        finally:
            ablation.record(began)
        for line in said:
            view.say(line)
        return status


def require() -> None:
    """Raise UserError where nothing can be submitted from."""
    submitit()
    queue.require_commands()


class _Course:
    """How far the job of a run has come."""

    def __init__(self, run: PlannedRun, job: str, *, is_ours: bool) -> None:
        self.run = run
        self.job = job
        self.is_ours = is_ours
        """Whether this process has submitted it."""
        self.tail = MetricsTail(run.path / "metrics.jsonl")
        log = run.path / "train.log"
        self.log_start = log.stat().st_size if is_ours and log.exists() else 0
        self.state = queue.GONE
        self.started = False
        self.misses = 0
        """How often in a row Slurm has said that the job is no more. One answer may be of just before it came back."""

    @property
    def is_over(self) -> bool:
        """Whether there is nothing to wait for."""
        stopping = self.state.has_ended or self.state is queue.GONE or self.state.state == "COMPLETING"
        return self.misses > 1 or (stopping and self.run.is_done)


class _Ablation:
    """The runs of a plan: waiting to be submitted, with a job, or over."""

    def __init__(
        self,
        plan: Plan,
        config: SlurmConfig,
        given: Sequence[str],
        identities: dict[Path, dict[str, Any]],
        view: LiveView,
    ) -> None:
        self._plan, self._config, self._given, self._view = plan, config, given, view
        self._identities = identities
        self._waiting = running_order(plan.runs)
        self._elsewhere: set[Path] = set()
        """Runs of which it has been said that somebody else trains them."""
        self._courses: list[_Course] = []
        self._followed: list[_Course] = []
        """The same with those that are over."""
        self._earlier = len(read_launches(plan.directory))
        """So many makes had left a record when this one began."""
        self._table = SummaryTable(plan.directory)
        self._next_try = 0.0
        self._full = 0
        """So many jobs there were when Slurm took no more; 0 where it takes them."""
        self._failed = 0
        self._asked, self._changed = 0.0, time.monotonic()
        self._no_answer = ""

    def run(self) -> int:
        """See to it that every run is done. Returns the exit status."""
        while self._waiting or self._courses:
            has_room = not self._full or len(self._courses) < self._full
            if self._waiting and has_room and time.monotonic() >= self._next_try:
                self._submit()
                self._next_try = time.monotonic() + TRY_S
            self._follow()
            if self._failed and not self._plan.keeps_going:
                self.stop()
                return 1
            time.sleep(POLL_S)
        self._table.write()
        return 1 if self._failed else 0

    def stop(self) -> None:
        """Stop every job, with checkpoints; at once where that is interrupted."""
        self._view.say("stopping at the next step, with checkpoints; Ctrl-C again to cancel at once")
        try:
            with suppress(queue.NoAnswer):
                self._find_again()  # what was just being submitted
            while left := [course.job for course in self._courses if not course.is_over]:
                queue.cancel_queued(left)
                queue.send("USR2", left)
                self._look()
                time.sleep(STOP_S)
        except KeyboardInterrupt:
            queue.cancel([course.job for course in self._courses])
        for course in self._courses:
            self._view.ended(course.run.name, "done" if course.run.is_done else "interrupted", "")
        if self._courses:
            self._table.write()

    def record(self, began: float) -> None:
        """Add a line to launches.jsonl, if anything was trained since `began`, by time.monotonic()."""
        # A job may be over before it was ever seen to run; what it was about has a summary then.
        runs = [of.run for of in self._followed if of.started or (of.run.path / "summary.json").exists()]
        trained = {run.name: run for run in runs}
        if not trained:
            return
        with locked(self._plan.directory / NAME):
            # Another make may have followed the same jobs: whoever comes first has their runs.
            theirs = {name for launch in read_launches(self._plan.directory)[self._earlier :] for name in launch.done}
            runs = [run for name, run in trained.items() if name not in theirs]
            if runs:
                launch = _launch(runs, wall_s=time.monotonic() - began)
                launch.record(self._plan.directory)
                self._view.say(launch.describe("Slurm"))

    def _submit(self) -> None:
        """Attach to the jobs there are, and submit the runs that have none and nobody trains."""
        try:
            with hold(self._plan.directory / ".slurm"):  # of several makes one submits
                self._find_again()
                runs = [run for run in self._waiting if self._is_to_be_submitted(run)]
                largest = queue.largest_array() if runs else 1
                for first in range(0, len(runs), largest):
                    self._submit_array(runs[first : first + largest])
                self._full = 0
        except HeldElsewhere:
            return
        except queue.NoAnswer as error:
            self._say_once(f"Slurm does not answer: {error}; asking again")
        except NotTaken as error:
            if not self._courses:
                raise UserError(f"Slurm takes no job of {self._plan.directory}: {error}") from None
            self._full = len(self._courses)
            self._view.say(
                f"Slurm takes no more jobs: {error}; {len(self._waiting)} runs wait until one of {self._full} has ended"
            )

    def _submit_array(self, runs: Sequence[PlannedRun]) -> None:
        """Submit runs as one array. Raises NotTaken, after as many as Slurm takes of a queue with limits."""
        try:
            self._note_jobs(submit(self._plan, runs, self._config, self._given), is_ours=True)
        except NotTaken:
            if len(runs) > 1:
                self._submit_array(runs[: len(runs) // 2])
            raise

    def _find_again(self) -> None:
        live = queue.live_jobs([run.path for run in self._waiting])
        self._note_jobs({path: job for path, (job, _) in live.items()}, is_ours=False)

    def _note_jobs(self, jobs: dict[Path, str], *, is_ours: bool) -> None:
        for run in [run for run in self._waiting if run.path in jobs]:
            self._waiting.remove(run)
            self._courses.append(_Course(run, jobs[run.path], is_ours=is_ours))
            self._followed.append(self._courses[-1])
            self._view.note(run.name, "submitted" if is_ours else "found again", f"job {jobs[run.path]}")
        self._asked, self._changed = 0.0, time.monotonic()

    def _is_to_be_submitted(self, run: PlannedRun) -> bool:
        """Whether a run is not done and nobody trains it. Its directory is made ready."""
        if run.is_done:
            self._view.skipped(run.name)
            self._waiting.remove(run)
            return False
        try:
            with hold(run.path):
                check_identity(run.path, self._identities[run.path])
                run.resolved.write(run.path / "config")
            return True
        except HeldElsewhere as error:
            if run.path not in self._elsewhere:
                self._view.elsewhere(run.name, str(error))
            self._elsewhere.add(run.path)
        except AnotherRun as error:
            self._view.refused(run.name, str(error))
            self._waiting.remove(run)
            self._failed += 1
        return False

    def _follow(self) -> None:
        """Show what has been logged and how jobs have moved, and see to those that are over."""
        for course in self._courses:
            if course.started:
                self._show_lines(course)
        now = time.monotonic()
        # Often where something has just changed, since one thing comes after another; a busy Slurm is asked rarely.
        if now - self._asked < min(ASK_RARELY_S, max(ASK_S, (now - self._changed) / 5)):
            return
        self._look()
        self._asked = time.monotonic()
        over = [course for course in self._courses if course.is_over]
        for course in over:
            self._courses.remove(course)
            self._end(course)
            self._table.run_ended()
            self._changed = time.monotonic()

    def _look(self) -> None:
        """Ask Slurm for the state of every job, and say what has changed."""
        try:
            states = queue.job_states([course.job for course in self._courses])
        except queue.NoAnswer as error:
            self._say_once(f"Slurm does not answer: {error}; asking again")
            return
        self._no_answer = ""
        for course in self._courses:
            before, course.state = course.state, states.get(course.job, queue.GONE)
            course.misses = course.misses + 1 if course.state is queue.GONE or course.state.has_ended else 0
            if course.state == before:
                continue
            self._changed = time.monotonic()
            if course.state.state == "RUNNING":
                if before.state != "RUNNING":
                    self._view.started(course.run.name)
                    self._view.note(course.run.name, course.state.describe(course.job), "")
                course.started = True
            elif course.state.state == "PENDING":
                self._view.note(course.run.name, course.state.describe(course.job), course.state.reason)

    def _show_lines(self, course: _Course) -> None:
        for line in course.tail.lines():
            self._view.update(course.run.name, line)
            if line["kind"] == "train" and line["step"] == course.run.config.train.max_iters:
                self._changed = time.monotonic()

    def _end(self, course: _Course) -> None:
        """A job is over: its run is done, has failed, or waits for another job."""
        run = course.run
        self._show_lines(course)
        if run.is_done:
            self._view.ended(run.name, "done", "")
            return
        reason = why_it_is_not_done(course)
        if not course.is_ours and not has_failed(run):
            self._view.note(run.name, "unfinished", f"{reason}; submitting it again", "yellow")
            self._waiting.append(run)
            return
        self._view.ended(run.name, "failed", reason)
        self._failed += 1

    def _say_once(self, message: str) -> None:
        if message != self._no_answer:
            self._view.say(message)
        self._no_answer = message


def _launch(runs: Sequence[PlannedRun], *, wall_s: float) -> Launch:
    """What jobs took that trained `runs`, to the end or not, by what those that are done say of themselves."""
    done = [(run, read_summary(run.path / "summary.json")) for run in runs if run.is_done]
    return Launch(
        runs=len(runs),
        done={run.name: summary.get("val_loss") for run, summary in done},
        train_s=sum(summary.get("train_time_s") or 0 for _, summary in done),
        device_s=sum(run.config.train.processes * (of.get("wall_time_s") or 0) for run, of in done),
        wall_s=wall_s,
    )


def has_failed(run: PlannedRun) -> bool:
    """Whether the run's own summary says that it has."""
    path = run.path / "summary.json"
    return path.exists() and read_summary(path)["status"] == "failed"


def why_it_is_not_done(course: _Course) -> str:
    """What Slurm says of a job that is over, and what the run does."""
    job = f"job {course.job} " + (
        "is no longer known to Slurm" if course.state is queue.GONE else f"ended as {course.state.state}"
    )
    log = course.run.path / "train.log"
    if not log.exists() or (log.stat().st_size == course.log_start and not has_failed(course.run)):
        return f"{job} before it began to train ({course.run.path / queue.FOLDER})"
    return f"{job}: {why_it_failed(course.run.path, 1, course.log_start)}"
