"""What the runs of a plan will take: a few steps of each arm on this machine, with the trainer itself.

What an arm's runs take is put together from what its trial took for a step, an evaluation, a checkpoint and its start.
Runs of one arm differ in their seed alone, so one of them stands for all. A trial compiles into the cache that the runs
will use. What all of them take together, and how devices are best shared out, harness/launch/forecast.py foretells.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import torch
from rich.table import Table

from gpt2.assignments import Assignment
from gpt2.base import terminal
from gpt2.base.numbers import decimal
from gpt2.base.text import shown
from gpt2.config import RunConfig, TrainConfig
from gpt2.data.prepare import dataset_status
from gpt2.machine.device import power_w
from gpt2.model import GPT
from gpt2.run.checkpoint import bytes_held, bytes_kept, n_written
from gpt2.run.directory import hold
from gpt2.run.evaluation import due_steps
from gpt2.run.records import read_summary
from harness.configure.directories import run_directory
from harness.configure.gate_noise import on_random_tokens, write_noise
from harness.configure.kconfig import overlay
from harness.configure.plan import Plan, PlannedRun
from harness.evidence.digests import Digests
from harness.launch.check import look_at_place
from harness.launch.forecast import Cost
from harness.launch.launchers import POLL_S, end, start_local
from harness.launch.outlook import Estimate, duration, print_outlook
from harness.launch.running import why_it_failed
from harness.launch.signals import sigterm_is_ctrl_c

ON_THE_DEVICE = ("startup_s", "waited_s", "train_time_s", "eval_time_s", "checkpoint_time_s")
"""Of a summary: what a run does one after another. What its process is there for longer, it writes."""

STEPS = 12
"""Of a trial: six log lines of two, of which a run's median leaves out the first."""


@dataclass(frozen=True, kw_only=True)
class Failure:
    """An arm whose trial failed, and why, in one line."""

    step: str
    reason: str


def estimate_plan(plan: Plan) -> Iterator[Estimate | Failure]:
    """Try out each arm of what is not done, one after another. Nothing of it stays but what was compiled.

    Raises UserError where a directory holds another run, or a damaged one, of which `make` would train nothing.
    """
    known = {stage.directory: Digests(stage.directory) for stage in plan.stages}
    for run in plan.runs_on_data:
        if run.path.exists():
            look_at_place(run, known[run.path.parents[1]])
    results = plan.runs[0].results_dir
    results.mkdir(parents=True, exist_ok=True)
    arms: dict[str, list[PlannedRun]] = {}
    for run in plan.all_runs:
        arms.setdefault(run.step, []).append(run)
    tried: dict[str, _Tried | str] = {}
    # Beside the experiments, so that the trials find the runs' compiled code, and the runs the trials'.
    with tempfile.TemporaryDirectory(prefix=".estimate-", dir=results) as folder:
        for step, runs in arms.items():
            left = [run for run in runs if not run.is_done]
            if not left:
                continue
            trial = _trial(runs[0], Path(folder))
            # Arms that differ in their length, or in the optimizer's settings, cost the same.
            alike = repr((trial.config.model, trial.config.data, replace(trial.config.train, seed=0)))
            if alike not in tried:
                tried[alike] = _try(trial, Path(folder))
            of = tried[alike]
            yield Failure(step=step, reason=of) if isinstance(of, str) else _estimate(left, of)


@dataclass(frozen=True, kw_only=True)
class _Tried:
    """A trial that has ended."""

    trial: PlannedRun
    summary: dict[str, Any]
    checkpoint_bytes: int
    files: dict[str, int]
    """Sizes of the files that it left beside its checkpoints."""

    starts: tuple[float, ...]
    """Seconds until it was ready, of the first process and of the last."""

    power_w: float | None
    launch_s: float


def _try(trial: PlannedRun, folder: Path) -> _Tried | str:
    """Run a trial; why it failed, in one line, where it did."""
    # What is compiled is compiled once: it is the second trial that starts as the runs will.
    starts: list[float] = []
    draws: list[float] = []
    launches: list[float] = []
    summary: dict[str, Any] = {}
    for _ in range(1 if trial.config.train.compile == "none" else 2):
        began = time.monotonic()
        returncode = _train(trial, draws)
        if not trial.is_done:
            return why_it_failed(trial.path, returncode).partition(f" ({folder}")[0]  # without the log, which goes
        summary = read_summary(trial.path / "summary.json")
        starts.append(summary["startup_s"])
        launches.append(max(0.0, time.monotonic() - began - summary["wall_time_s"]))
    return _Tried(
        trial=trial,
        summary=summary,
        checkpoint_bytes=max(path.stat().st_size for path in (trial.path / "checkpoints").glob("step-*.pt")),
        files={path.name: path.stat().st_size for path in trial.path.iterdir() if path.is_file()},
        starts=tuple(starts),
        power_w=max(draws, default=None),
        launch_s=launches[0],
    )


def _estimate(runs: Sequence[PlannedRun], of: _Tried) -> Estimate:
    """What an arm's runs take, by a trial that is done."""
    summary, tried, train = of.summary, of.trial.config.train, runs[0].config.train
    parts = {
        "ms_per_step": summary["ms_per_step"],
        "eval_s": summary["eval_time_s"] / evaluations(tried),
        "checkpoint_s": summary["checkpoint_time_s"] / n_written(tried),
        "startup_s": summary["startup_s"],
    }
    # What its process is there for after its last step is over, it writes its last checkpoint.
    behind_s = max(0.0, summary["wall_time_s"] - sum(summary[name] or 0 for name in ON_THE_DEVICE))
    sizes = {"whole": of.checkpoint_bytes, "weights": 4 * summary["params"]}
    kept, held = bytes_kept(train, **sizes), bytes_held(train, **sizes)
    cost = Cost(
        shape=runs[0].step,
        prepare_s=parts["startup_s"],
        compile_s=0.0,  # the runs find what the trial has compiled
        train_s=train.max_iters * parts["ms_per_step"] / 1000,
        other_s=evaluations(train) * parts["eval_s"] + n_written(train) * parts["checkpoint_s"],
        save_s=0.0 if train.checkpoint_keep == "none" else behind_s,
    )
    return Estimate(
        step=runs[0].step,
        runs=len(runs),
        run_s=seconds_of_run(train, **parts),
        compile_s=max(0.0, of.starts[0] - of.starts[-1]),
        peak_mem_gib=summary["peak_mem_gib"],
        flop=float(flop_of_run(runs[0].config)),
        params=summary["params"],
        checkpoint_bytes=of.checkpoint_bytes,
        disk_bytes=kept + _records_bytes(train, of.files),
        more_bytes=held - kept,
        power_w=of.power_w,
        cost=cost,
        launch_s=of.launch_s,
        **parts,
    )


def _train(trial: PlannedRun, draws: list[float]) -> int:
    """Run a trial from its beginning to its end. Returns its exit code.

    `draws`: takes what the device draws meanwhile, in watts.
    """
    shutil.rmtree(trial.path, ignore_errors=True)
    with hold(trial.path) as lock:
        trial.resolved.write(trial.path / "config")
        trainer = start_local(trial, lock)
        try:
            while trainer.poll() is None:
                if (watts := power_w()) is not None:
                    draws.append(watts)
                time.sleep(POLL_S)
        finally:
            end(trainer)  # where this was interrupted
    assert trainer.returncode is not None
    return trainer.returncode


def flop_of_run(config: RunConfig) -> int:
    """Floating-point operations of a run's training steps; those of evaluations come on top."""
    with torch.device("meta"):
        per_token = GPT(config.model, seed=config.train.seed).flops_per_token()
    return per_token * config.tokens_per_iter * config.train.max_iters


def _records_bytes(train: TrainConfig, files: dict[str, int]) -> int:
    """What a run leaves on the disk beside checkpoints: logs by their lines in the trial, and what is written once."""
    logs = sum(files.get(name, 0) for name in ("metrics.jsonl", "train.log"))
    lines = -(-train.max_iters // train.log_interval)
    once = sum(files.values()) - logs
    return once + logs * lines // (STEPS // 2)


def seconds_of_run(
    train: TrainConfig, *, ms_per_step: float, eval_s: float, checkpoint_s: float, startup_s: float
) -> float:
    """What a run with these settings takes, from its launch to its end."""
    steps_s = train.max_iters * ms_per_step / 1000
    return startup_s + steps_s + evaluations(train) * eval_s + n_written(train) * checkpoint_s


def evaluations(train: TrainConfig) -> int:
    """How often a run evaluates."""
    return len(due_steps(train.max_iters, train.eval_interval, train.eval_tail))


def print_estimates(plan: Plan) -> int:
    """Estimate a plan, a line per arm and one for the whole. Returns how many arms failed."""
    done = sum(run.is_done for run in plan.all_runs)
    if done == len(plan.all_runs):
        print(f"{plan.directory}: all {done} runs are done")
        return 0
    arms = {run.step for run in plan.all_runs if not run.is_done}
    print(f"{STEPS} steps of each of {len(arms)} arms", flush=True)
    for config in dict.fromkeys(run.config.data for run in plan.runs_on_data):
        ready, message = dataset_status(config)
        if not ready:
            print(f"data: {message}; until then, random tokens", flush=True)
    estimates: list[Estimate] = []
    with sigterm_is_ctrl_c():
        for outcome in estimate_plan(plan):
            if isinstance(outcome, Failure):
                print(f"FAIL  {outcome.step}: {shown(outcome.reason, 1000)}", flush=True)
            else:
                estimates.append(outcome)
                print(f"ok    {outcome.step}: {outcome.ms_per_step:.1f} ms/step", flush=True)
    if estimates:
        total = sum(e.runs * e.run_s for e in estimates)
        until = datetime.now() + timedelta(seconds=total)
        out = terminal.console()
        out.print(_table(estimates))
        print(
            f"{sum(e.runs for e in estimates)} runs, one after another: {duration(total)}, "
            f"until {until:%A %d %B %H:%M} if started now; {done} done already"
        )
        print_outlook(plan, estimates, complete=len(estimates) == len(arms))
    return len(arms) - len(estimates)


def _trial(run: PlannedRun, folder: Path) -> PlannedRun:
    """A run of a few steps, in a directory of `folder`; on random tokens where the run's data is not there."""
    settings = {"MAX_ITERS": str(STEPS), "LOG_INTERVAL": "2", "EVAL_INTERVAL": str(STEPS), "EVAL_TAIL": "0"}
    settings |= {"CHECKPOINT_INTERVAL": "0", "CHECKPOINT_KEEP_ALL": "y"}
    settings |= {"WARMUP_ITERS": "0", "TRACK_TENSORBOARD": "n", "TRACK_WANDB": "n"}
    resolved = overlay(run.resolved, [Assignment(symbol, value, "estimate") for symbol, value in settings.items()])
    ready, _ = dataset_status(run.config.data)
    if not ready:
        resolved = on_random_tokens(resolved, folder, "estimate")
        tokens = resolved.run_config()
        write_noise(tokens)
        # What is evaluated besides takes as long on these.
        others = ";".join(f"{name}={tokens.data.bin_dir}" for name in run.config.data.eval_paths)
        resolved = overlay(resolved, [Assignment("EVAL_DATASETS", others, "estimate")])
    path = run_directory(folder.parent, folder.name, run.step, run.seed)
    return PlannedRun(step=run.step, seed=run.seed, resolved=resolved, config=resolved.run_config(), path=path)


def _table(estimates: Sequence[Estimate]) -> Table:
    table = Table(box=None, pad_edge=False)
    table.add_column("arm", overflow="fold")
    for column in ("ms/step", "eval", "save", "start", "GiB", "a run", "runs", "all"):
        table.add_column(column, justify="right", no_wrap=True)
    for e in estimates:
        table.add_row(
            e.step,
            decimal(e.ms_per_step, 1),
            f"{decimal(e.eval_s, 1)} s",
            f"{decimal(e.checkpoint_s, 1)} s",
            f"{e.startup_s:.1f} s",
            decimal(e.peak_mem_gib, 2),
            duration(e.run_s),
            str(e.runs),
            duration(e.runs * e.run_s),
        )
    return table
