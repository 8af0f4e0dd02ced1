"""How long the runs of a plan will take: a few steps of each arm on this machine, with the trainer itself.

What an arm's runs take is put together from what its trial took for a step, an evaluation, a checkpoint and its start.
Runs of one arm differ in their seed alone, so one of them stands for all. A trial compiles into the cache that the runs
will use.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from rich.table import Table

from gpt2.base import terminal
from gpt2.base.numbers import decimal
from gpt2.base.text import shown
from gpt2.config import TrainConfig
from gpt2.data.prepare import dataset_status
from gpt2.data.token_files import write_random_tokens
from gpt2.dotconfig import Assignment, resolve
from gpt2.run.directory import hold
from gpt2.run.records import read_summary
from harness.configure.plan import Plan, PlannedRun, run_directory
from harness.launch.launchers import POLL_S, end, start_local
from harness.launch.runner import sigterm_is_ctrl_c
from harness.launch.running import why_it_failed

STEPS = 12
"""Of a trial: six log lines of two, of which a run's median leaves out the first."""


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """What the runs of an arm take."""

    step: str
    """The arm's, as in `PlannedRun.step`."""

    runs: int
    """So many, of those that are not done."""

    ms_per_step: float
    eval_s: float
    """One evaluation."""

    checkpoint_s: float
    startup_s: float
    peak_mem_gib: float
    run_s: float
    """One run, from its launch to its end."""


@dataclass(frozen=True, kw_only=True)
class Failure:
    """An arm whose trial failed, and why, in one line."""

    step: str
    reason: str


def estimate_plan(plan: Plan) -> Iterator[Estimate | Failure]:
    """Try out each arm of what is not done, one after another. Nothing of it stays but what was compiled."""
    results = plan.directory.parent
    results.mkdir(parents=True, exist_ok=True)
    steps = dict.fromkeys(run.step for run in plan.runs)
    open_runs = {step: [run for run in plan.runs if run.step == step and not run.is_done] for step in steps}
    # Beside the experiments, so that the trials find the runs' compiled code, and the runs the trials'.
    with tempfile.TemporaryDirectory(prefix=".estimate-", dir=results) as folder:
        for step, runs in open_runs.items():
            if not runs:
                continue
            trial = _trial(runs[0], Path(folder))
            # What is compiled is compiled once: it is the second trial that starts as the runs will.
            for _ in range(1 if trial.config.train.compile == "none" else 2):
                returncode = _train(trial)
            if not trial.is_done:
                reason = why_it_failed(trial.path, returncode)
                yield Failure(step=step, reason=reason.partition(f" ({folder}")[0])  # without the log, which goes
                continue
            summary = read_summary(trial.path / "summary.json")
            parts = {
                "ms_per_step": summary["ms_per_step"],
                "eval_s": summary["eval_time_s"] / evaluations(trial.config.train),
                "checkpoint_s": summary["checkpoint_time_s"] / checkpoints(trial.config.train),
                "startup_s": summary["startup_s"],
            }
            run_s = seconds_of_run(runs[0].config.train, **parts)
            yield Estimate(step=step, runs=len(runs), peak_mem_gib=summary["peak_mem_gib"], run_s=run_s, **parts)


def _train(trial: PlannedRun) -> int:
    """Run a trial from its beginning to its end. Returns its exit code."""
    shutil.rmtree(trial.path, ignore_errors=True)
    with hold(trial.path) as lock:
        trial.resolved.write(trial.path / "config")
        trainer = start_local(trial, lock)
        try:
            while trainer.poll() is None:
                time.sleep(POLL_S)
        finally:
            end(trainer)  # where this was interrupted
    assert trainer.returncode is not None
    return trainer.returncode


def seconds_of_run(
    train: TrainConfig, *, ms_per_step: float, eval_s: float, checkpoint_s: float, startup_s: float
) -> float:
    """What a run with these settings takes, from its launch to its end."""
    steps_s = train.max_iters * ms_per_step / 1000
    return startup_s + steps_s + evaluations(train) * eval_s + checkpoints(train) * checkpoint_s


def evaluations(train: TrainConfig) -> int:
    """How often a run evaluates: before every EVAL_INTERVAL-th step, and at its end."""
    return len(range(0, train.max_iters, train.eval_interval)) + 1


def checkpoints(train: TrainConfig) -> int:
    """How many checkpoints a run writes: after every CHECKPOINT_INTERVAL-th step, and at its end."""
    every = train.checkpoint_interval
    return len(range(every, train.max_iters, every)) + 1 if every else 1


def print_estimates(plan: Plan) -> int:
    """Estimate a plan, a line per arm and one for the whole. Returns how many arms failed."""
    done = sum(run.is_done for run in plan.runs)
    if done == len(plan.runs):
        print(f"{plan.directory}: all {done} runs are done")
        return 0
    arms = {run.step for run in plan.runs if not run.is_done}
    print(f"{STEPS} steps of each of {len(arms)} arms", flush=True)
    for config in dict.fromkeys(run.config.data for run in plan.runs):
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
        terminal.console().print(_table(estimates))
        print(
            f"{sum(e.runs for e in estimates)} runs, one after another: {_duration(total)}, "
            f"until {until:%A %d %B %H:%M} if started now; {done} done already"
        )
    return len(arms) - len(estimates)


def _trial(run: PlannedRun, folder: Path) -> PlannedRun:
    """A run of a few steps, in a directory of `folder`; on random tokens where the run's data is not there."""
    settings = {"MAX_ITERS": str(STEPS), "LOG_INTERVAL": "2", "EVAL_INTERVAL": str(STEPS), "CHECKPOINT_INTERVAL": "0"}
    settings |= {"WARMUP_ITERS": "0", "TRACK_TENSORBOARD": "n", "TRACK_WANDB": "n"}
    minimal = run.resolved.minimal()
    ready, _ = dataset_status(run.config.data)
    if not ready:
        c = run.config
        # As many as are evaluated; of how many "all" are, the default is as good a guess as any.
        n_val = (c.train.eval_tokens or TrainConfig.eval_tokens) + c.model.block_size
        write_random_tokens(folder, vocab_size=c.data.vocab_size, n_tokens=2 * c.tokens_per_iter + 1, n_val=n_val)
        minimal = [a for a in minimal if not a.symbol.startswith(("DATASET_", "TOKENIZER_"))]
        settings |= {"DATASET_BIN": "y", "DATASET_BIN_DIR": str(folder), "VOCAB_SIZE": str(c.data.vocab_size)}
        settings |= {"FUSED_LOSS": "y" if c.train.fused_loss else "n"}  # whose default is the tokenizer's
    resolved = resolve(minimal, [Assignment(symbol, value, "estimate") for symbol, value in settings.items()])
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
            _duration(e.run_s),
            str(e.runs),
            _duration(e.runs * e.run_s),
        )
    return table


def _duration(seconds: float) -> str:
    """Such as "45 s", "12 min" or "3 h 05 min"."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02} min"
