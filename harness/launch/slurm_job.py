"""What runs on a node of Slurm: the trainer of one run, and the one who tells it to stop.

submitit calls `Training` there, and when Slurm sends SIGUSR1 (before the time limit, or where the job has to make room)
its `checkpoint`: the trainer leaves one, and the job goes back into the queue. SIGUSR2, from a `make` that was told to
stop, and SIGTERM, from Slurm, leave a checkpoint too, and end the job; where Slurm puts it back it does so by itself.
The trainer is only ever told by SIGUSR1, which it may get as often as anybody likes.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gpt2.base.files import ROOT
from gpt2.run.lock import RunLock
from harness.launch.slurm_queue import write_job

TRAINER = ROOT / "gpt2" / "train_ra_mla.py"
POLL_S = 0.2
HELD_POLL_S = 5.0
RESERVE_S = 5
"""Of the time that Slurm gives between its signal and the end, for going back into the queue."""


@dataclass
class Training:
    """The training of one run in its directory, to its end or until it is told to stop."""

    run: str
    """The run's directory."""

    directory: str
    """The one that the trainer works in, of the `make` that submitted it."""

    given: tuple[str, ...]
    """Settings of make's command line, for the record."""

    nodes: int
    processes_per_node: int
    threads: int
    """OMP_NUM_THREADS, where that is not set."""

    signal_s: int
    """How long Slurm waits between its signal and the end."""

    cache: str
    """For torch.compile's code."""

    _trainer: subprocess.Popen[bytes] | None = field(default=None, init=False, repr=False)
    _stopping: bool = field(default=False, init=False, repr=False)
    _for_good: bool = field(default=False, init=False, repr=False)

    def __call__(self) -> None:
        """Train. Exits with the trainer's status where that is not 0."""
        for number in (signal.SIGTERM, signal.SIGUSR2):
            signal.signal(number, self._on_signal)
        if _rank() == 0:
            write_job(Path(self.run), job_id())
        status = self._train()
        if status:
            sys.exit(status if status > 0 else 128 - status)

    def checkpoint(self) -> Any:
        """Stop the trainer. Returns what the job does when it comes back, or None if it need not."""
        self._stop()
        ended = self._wait(self.signal_s - RESERVE_S)
        if self._for_good or ended in (0, 1, 2):  # it has finished, or failed: another time would be no better
            return None
        from submitit.helpers import DelayedSubmission

        fresh = {name: value for name, value in vars(self).items() if not name.startswith("_")}
        return DelayedSubmission(Training(**fresh))

    def command(self) -> list[str]:
        """What trains the run on this node."""
        arguments = ["--stop-with-parent", "--config", f"{self.run}/config", "--out", self.run]
        if self.given:
            arguments += ["--record", *self.given]
        if self.nodes == 1 and self.processes_per_node == 1:
            return [sys.executable, str(TRAINER), *arguments]
        return [*torchrun(self.nodes, self.processes_per_node), str(TRAINER), *arguments]

    def _train(self) -> int:
        """The trainer's exit status; minus the signal that ended it."""
        while not self._stopping:
            if _rank() == 0:
                self._wait_until_free()
            if self._stopping:
                break
            status = self._run_trainer()
            if status == 2 and _rank() == 0 and RunLock.is_held(Path(self.run)):
                continue  # another one was faster
            return status
        return 130

    def _wait_until_free(self) -> None:
        """The node that had it before may have gone without letting go of the directory."""
        said = False
        while not self._stopping and RunLock.is_held(Path(self.run)):
            if not said:
                print(f"{self.run}: is being trained by somebody else; waiting", flush=True)
                said = True
            time.sleep(HELD_POLL_S)

    def _run_trainer(self) -> int:
        environment = {
            "PYTHONUNBUFFERED": "1",
            "OMP_NUM_THREADS": str(self.threads),
            **os.environ,
            # A node's own: its processor may be another than its neighbour's.
            "TORCHINDUCTOR_CACHE_DIR": os.environ.get("TORCHINDUCTOR_CACHE_DIR")
            or os.path.join(self.cache, socket.gethostname()),
        }
        with open(os.path.join(self.directory, self.run, "train.log"), "ab") as log:
            # Of this process's group, so that what kills this kills that.
            self._trainer = subprocess.Popen(
                self.command(),
                stdin=subprocess.PIPE,  # by whose end it notices that of this process
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=self.directory,
                env=environment,
            )
        if self._stopping:  # told while it was being started
            self._stop()
        # Not by wait(), which would hold a lock when a signal comes.
        while (status := self._wait(0)) is None:
            time.sleep(POLL_S)
        self._trainer.wait()
        return status

    def _wait(self, seconds: float) -> int | None:
        """The exit status of the trainer if it ends in so long, without taking note of it: a handler may ask too."""
        if self._trainer is None:
            return None
        end = time.monotonic() + seconds
        while True:
            if self._trainer.returncode is not None:
                return self._trainer.returncode
            found = os.waitid(os.P_PID, self._trainer.pid, os.WEXITED | os.WNOWAIT | os.WNOHANG)
            if found is not None:
                return found.si_status if found.si_code == os.CLD_EXITED else -found.si_status
            if time.monotonic() >= end:
                return None
            time.sleep(POLL_S)

    def _on_signal(self, *_: object) -> None:
        self._for_good = True
        self._stop()

    def _stop(self) -> None:
        self._stopping = True
        if self._trainer is not None and self._trainer.returncode is None:
            is_alone = self.nodes == 1 and self.processes_per_node == 1
            # torchrun passes SIGTERM on, and no other that its trainers would take.
            self._trainer.send_signal(signal.SIGUSR1 if is_alone else signal.SIGTERM)


def torchrun(nodes: int, processes_per_node: int) -> list[str]:
    """The command that starts a run's processes on this node. srun starts it on each, and they meet at the first."""
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(processes_per_node)]
    if nodes == 1:
        return [*command, "--standalone"]
    number = os.environ["SLURM_JOB_ID"]
    return [
        *command,
        *("--nnodes", str(nodes), "--rdzv-backend", "c10d"),
        *("--rdzv-endpoint", f"{_first_host()}:{20000 + int(number) % 20000}"),
        *("--rdzv-id", f"{number}-{os.environ.get('SLURM_RESTART_COUNT', '0')}"),
        *("--rdzv-conf", f"is_host={_rank() == 0}"),
    ]


def job_id() -> str:
    """Of the job that this process is of, as squeue has it."""
    array, task = os.environ.get("SLURM_ARRAY_JOB_ID"), os.environ.get("SLURM_ARRAY_TASK_ID")
    return f"{array}_{task}" if array and task else os.environ["SLURM_JOB_ID"]


def _rank() -> int:
    """Of this node among those of the run."""
    return int(os.environ.get("SLURM_PROCID", "0"))


def _first_host() -> str:
    from submitit.slurm.slurm import SlurmJobEnvironment

    return SlurmJobEnvironment().hostnames[0]
