"""Slurm's own commands: which of our jobs there are and how far they have come, and how they are stopped.

Nothing is asked of its accounting (sacct), which not every cluster keeps. A run's job is in `slurm/job.json` of its
directory, so that whoever comes later, `make` or `make status`, finds it again.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from gpt2.base.errors import UserError, one_line
from gpt2.base.files import make_directory, read_json, write_json
from gpt2.base.text import shown

FOLDER = "slurm"
"""Of a run's directory: what Slurm and submitit leave of its jobs."""

ENDED = (
    *("BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "LAUNCH_FAILED", "NODE_FAIL", "OUT_OF_MEMORY"),
    *("PREEMPTED", "REVOKED", "TIMEOUT"),
)
"""States of a job after which there is none, unless Slurm puts it back into the queue, which it does at once."""

_TIMEOUT_S = 60


class NoAnswer(Exception):
    """Slurm does not answer, which says nothing of any job: its controller may be starting anew."""


@dataclass(frozen=True, kw_only=True)
class JobState:
    """What Slurm says of a job."""

    state: str
    """PENDING, RUNNING, ..."""

    node: str
    """Where it runs, or ran."""

    reason: str
    """Why it does not."""

    @property
    def has_ended(self) -> bool:
        """Whether it neither runs nor will."""
        return self.state in ENDED

    def describe(self, job: str) -> str:
        """In a few words, as `make status` has it."""
        if self.state == "RUNNING":
            return f"running (job {job} on {self.node})"
        if self.state == "PENDING":
            return f"queued (job {job})"
        return f"{self.state.lower()} (job {job})"


GONE = JobState(state="GONE", node="", reason="")
"""Of a job that Slurm no longer knows."""


def require_commands() -> None:
    """Raise UserError where Slurm's commands are not on PATH."""
    for command in ("sbatch", "squeue", "scancel", "scontrol"):
        if shutil.which(command) is None:
            raise UserError(
                f"CONFIG_LAUNCHER_SLURM=y: there is no {command} on PATH: run `make` where jobs are submitted, "
                "or set LAUNCHER_LOCAL=y"
            )


def job_states(jobs: Collection[str]) -> dict[str, JobState]:
    """What Slurm says of each of these jobs that it still knows. Raises NoAnswer."""
    if not jobs:
        return {}
    text = _ask("squeue", "--noheader", "--array", "--states=all", f"--user={os.getuid()}", "--format=%i|%T|%N|%r")
    states = {}
    for line in text.splitlines():
        job, state, node, reason = [*line.strip().split("|", 3), "", "", ""][:4]
        if job in jobs:
            states[job] = JobState(state=state, node=node, reason="" if reason == "None" else reason)
    return states


def largest_array() -> int:
    """How many jobs an array may have. Raises NoAnswer."""
    found = re.search(r"^MaxArraySize\s*=\s*(\d+)", _ask("scontrol", "show", "config"), re.MULTILINE)
    return max(int(found[1]), 1) if found else 1001


def cancel_queued(jobs: Collection[str]) -> None:
    """Take jobs out of the queue that do not run yet."""
    _scancel("--state=PENDING", *jobs)


def send(signal: str, jobs: Collection[str]) -> None:
    """Send a signal to the trainers of jobs that run."""
    _scancel(f"--signal={signal}", *jobs)


def cancel(jobs: Collection[str]) -> None:
    """End jobs at once, without a checkpoint."""
    _scancel("--signal=KILL", *jobs)
    _scancel(*jobs)


def write_job(run: Path, job: str) -> None:
    """Note down the job of a run."""
    make_directory(run / FOLDER)
    write_json(run / FOLDER / "job.json", {"job": job})


def read_job(run: Path) -> str | None:
    """The job that was last submitted for a run, if any. UserError where the record is damaged."""
    path = run / FOLDER / "job.json"
    if not path.exists():
        return None
    job = read_json(path).get("job")
    if not isinstance(job, str) or not re.fullmatch(r"\d+(_\d+)?", job):
        raise UserError(f"{path}: job is {shown(job)}: must be the number of a job, such as 12_0; or remove the file")
    return job


def live_jobs(runs: Collection[Path]) -> Mapping[Path, tuple[str, JobState]]:
    """Of runs that have a job in the queue, or one that runs: the job, and its state. Raises NoAnswer."""
    recorded = {run: job for run in runs if (job := read_job(run)) is not None}
    states = job_states(recorded.values())
    return {run: (job, states[job]) for run, job in recorded.items() if job in states and not states[job].has_ended}


def _scancel(*arguments: str) -> None:
    """Whatever it has to complain of: what is cancelled may have ended, and is looked at again."""
    subprocess.run(["scancel", "--quiet", *arguments], capture_output=True, timeout=_TIMEOUT_S, start_new_session=True)


def _ask(*command: str) -> str:
    try:
        # In a session of its own: Ctrl-C is for the runner.
        done = subprocess.run(command, capture_output=True, text=True, timeout=_TIMEOUT_S, start_new_session=True)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise NoAnswer(f"{command[0]}: {one_line(error)}") from None
    if done.returncode:
        raise NoAnswer(done.stderr.strip().splitlines()[0] if done.stderr.strip() else f"{command[0]} failed")
    return done.stdout
