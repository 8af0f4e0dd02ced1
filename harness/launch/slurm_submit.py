"""Runs handed to Slurm as arrays of jobs, through submitit."""

from __future__ import annotations

import contextlib
import io
import os
import re
import shlex
import shutil
from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from gpt2.base.errors import UserError, one_line
from gpt2.base.files import ROOT, make_directory
from harness.configure.plan import Plan, PlannedRun
from harness.configure.slurm import SlurmConfig
from harness.launch.launchers import compiler_cache
from harness.launch.slurm_job import Training
from harness.launch.slurm_queue import FOLDER, write_job

SIGNAL = "USR1"
"""What Slurm sends before it ends a job. submitit has another, and takes this one from the job's environment."""

REQUEUES = 1_000_000
"""How often a run may reach its time limit: as often as it likes."""


class NotTaken(Exception):
    """Slurm does not take a job: why, in a line."""


def submitit() -> Any:
    """The module. UserError if it is not installed."""
    try:
        import submitit
    except ImportError:
        raise UserError(
            "CONFIG_LAUNCHER_SLURM=y: submitit is not installed; `pip install '.[slurm]'`, or set LAUNCHER_LOCAL=y"
        ) from None
    return submitit


def submit(plan: Plan, runs: Sequence[PlannedRun], config: SlurmConfig, given: Sequence[str]) -> dict[Path, str]:
    """Submit runs of a plan as one array, and note down the job of each. Returns jobs by the runs' directories.

    Raises NotTaken.
    """
    module = submitit()
    stamp = datetime.now(timezone.utc).strftime("%Y%m%dT%H%M%S.%fZ")
    folder = (plan.directory / ".slurm" / stamp).absolute()
    for i, run in enumerate(runs):
        link_to_run(folder / str(i), run.path)
    trainings = [
        Training(
            run=str(run.path),
            directory=os.getcwd(),
            given=tuple(given),
            nodes=config.nodes,
            processes_per_node=config.processes_per_node,
            threads=config.cpus,
            signal_s=config.signal_s,
            cache=str(compiler_cache(run)),
        )
        for run in runs
    ]
    executor = module.SlurmExecutor(folder=folder, max_num_timeout=REQUEUES)
    executor.update_parameters(**parameters(plan.directory.name, config, folder, len(runs)))
    where = {name: os.environ[name] for name in ("SLURM_CONF", "SLURM_CLUSTERS") if name in os.environ}
    try:
        # As if from outside, where this is itself in a job; but of the same cluster. What sbatch says is in the error.
        with module.helpers.clean_env(), contextlib.redirect_stderr(io.StringIO()):
            os.environ.update(where)
            jobs = executor.submit_array(trainings)
    except RuntimeError as error:
        shutil.rmtree(folder)
        raise NotTaken(_reason(error)) from None
    found = {run.path: str(job.job_id) for run, job in zip(runs, jobs, strict=True)}
    for path, job in found.items():
        write_job(path, job)
    return found


def link_to_run(link: Path, run: Path) -> None:
    """Have what Slurm writes below `link` lie in the run's directory. An array has one pattern for all its jobs."""
    make_directory(link.parent)
    make_directory(run / FOLDER)
    link.symlink_to(os.path.relpath((run / FOLDER).absolute(), link.parent))


def parameters(name: str, config: SlurmConfig, folder: Path, jobs: int) -> dict[str, Any]:
    """What submitit is told of an array of so many jobs, in the words of `SlurmExecutor`."""
    # One job is no array.
    log = folder / ("%a/%A_%a" if jobs > 1 else "0/%j")
    signal = f"{SIGNAL}@{config.signal_s}"
    more: dict[str, Any] = {
        "requeue": True,
        "signal": signal,
        "output": f"{log}.out",
        "error": f"{log}.out",
        **config.extra,
    }
    found = {
        "job_name": name,
        "time": config.minutes,
        "nodes": config.nodes,
        "ntasks_per_node": 1,
        "cpus_per_task": config.cpus,
        "array_parallelism": config.max_jobs or jobs,
        "stderr_to_stdout": True,
        "setup": [
            f"export SUBMITIT_PREEMPT_SIGNAL={SIGNAL}",
            f'export PYTHONPATH={shlex.quote(str(ROOT))}"${{PYTHONPATH:+:$PYTHONPATH}}"',
        ],
        # Since 22.05 srun does not ask sbatch how many CPUs there are.
        "srun_args": [f"--cpus-per-task={config.cpus}", f"--output={log}_%t.out"],
        "additional_parameters": more,
    }
    if config.gpus:
        found["gpus_per_node"] = config.gpus // config.nodes
    if config.partition:
        found["partition"] = config.partition
    if config.account:
        found["account"] = config.account
    if config.mem:
        found["mem"] = config.mem
    return found


def _reason(error: RuntimeError) -> str:
    """What sbatch said, in one line."""
    said = re.findall(r"^sbatch: (?:error: |fatal: )*(.+)$", str(error), re.MULTILINE)
    return "; ".join(dict.fromkeys(said)) or one_line(error)
