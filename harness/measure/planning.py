"""What an experiment of many runs costs before, beside and after its training: planning, status, tables, reading.

    costs = measure_planning(1000, Path("empty"))

Nothing is trained: `write_as_done` writes down what a plan's runs would have left. `scripts/benchmark_planning.py` is
the command.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gpt2.assignments import Assignment
from gpt2.base.files import ROOT, make_directory
from gpt2.config import identity_hash
from gpt2.dotconfig import load
from harness.configure.kconfig import DOTCONFIG, find_defconfig, overlay
from harness.configure.plan import Plan, PlannedRun, make_plan
from harness.evidence.digests import SETTLED_NS, SummaryTable
from harness.evidence.store import load_experiment

LOG_LINES = 50
"""Of training in the metrics of a run, with a tenth as many evaluations."""

STEPS = 4
"""Of the ablation; the rest is seeds."""


@dataclass(frozen=True, kw_only=True)
class PlanningCosts:
    """Of an experiment with so many runs, in seconds."""

    runs: int

    plan_s: float
    """From the configuration to its runs, without Python's start."""

    status_pending_s: float
    """`python -m scripts.status`, the whole command, while none has begun."""

    status_first_s: float
    """The same, when all are done and none has been looked at."""

    status_done_s: float
    """The same again."""

    summary_first_s: float
    """summary.csv, written in a process that has read no run."""

    summary_again_s: float
    """Written again by the same."""

    report_load_s: float
    """All records read, as `make report` does."""


def measure_planning(runs: int, folder: Path) -> PlanningCosts:
    """What an experiment of `runs` costs, below an empty folder. The runs are a multiple of STEPS."""
    settings = {
        "RA_MLA_ABLATION_MODE": "y",
        "RA_MLA_ABLATION_STEPS": f"1-{STEPS}",
        "ABLATION_SEEDS": f"1-{runs // STEPS}",
        "STUDY_LENGTHS": "",
        "RESULTS_DIR": str(folder / "results"),
    }
    base = overlay(
        load(find_defconfig("gpt2-ra-v5-ablation")), [Assignment(*setting, "benchmark") for setting in settings.items()]
    )
    make_directory(folder)
    base.write(folder / DOTCONFIG)
    plan, plan_s = _timed(lambda: make_plan(base))
    assert len(plan.runs) == runs
    _, pending_s = _timed(lambda: _status(folder))
    write_as_done(plan)
    time.sleep(2 * SETTLED_NS / 1e9)  # or the digests of the last would not be kept yet
    _, first_s = _timed(lambda: _status(folder))
    _, done_s = _timed(lambda: _status(folder))
    (plan.directory / ".digests").unlink()
    table = SummaryTable(plan.directory)
    _, table_s = _timed(table.write)
    _, again_s = _timed(table.write)
    _, load_s = _timed(lambda: load_experiment(plan.directory))
    return PlanningCosts(
        runs=runs,
        plan_s=plan_s,
        status_pending_s=pending_s,
        status_first_s=first_s,
        status_done_s=done_s,
        summary_first_s=table_s,
        summary_again_s=again_s,
        report_load_s=load_s,
    )


def write_as_done(plan: Plan) -> None:
    """Write what each run of a plan leaves behind, with numbers that nobody measured."""
    for run in plan.runs:
        run.path.mkdir(parents=True)
        for name, text in _records(run).items():
            (run.path / name).write_text(text)


def _records(run: PlannedRun) -> dict[str, str]:
    """Name of a file -> its text."""
    c = run.config
    identity = json.loads(json.dumps(c.identity())) | {"DATA_HASH": "d" * 64}
    code = {"commit": None, "dirty": None, "diff": None}
    provenance = {
        "command": ["made up"],
        "overrides": [],
        "started": "2026-01-01T00:00:00+00:00",
        "code": code,
        "versions": {"python": None, "torch": None},
        "hardware": {"device": "none", "device_name": "none", "cpu": None, "cores": None, "driver": None},
        "data": {"dataset": c.data.dataset, "tokenizer": c.data.tokenizer, "hash": "d" * 64, "train_tokens": 1},
        "identity": identity,
        "config_hash": identity_hash(identity),
    }
    gates: dict[str, Any] = {}
    if c.model.attention in ("ra_v5", "ra_mla"):
        gates = {name: [[0.5] * c.model.n_head] * c.model.n_layer for name in ("w_std", "w_rec")}
    speed = {"ms_per_step": 100.0, "tokens_per_s": 1e5, "mfu": 0.4}
    lines: list[dict[str, Any]] = []
    every = max(1, c.train.max_iters // LOG_LINES)
    for step in range(every, c.train.max_iters + 1, every):
        at = {"step": step, "tokens": step * c.tokens_per_iter}
        lines.append({"kind": "train", **at, "loss": 3.5, "lr": 6e-4, "grad_norm": 0.5, **speed, "time_s": step / 10})
        if gates:
            lines.append({"kind": "gates", "step": step, "gates": gates})
        if len(lines) % 10 == 0:
            lines.append({"kind": "eval", **at, "val_loss": 3.5, "val_bpb": 1.0, "time_s": step / 10})
    summary = {
        "status": "done",
        "error": None,
        "iters": c.train.max_iters,
        "tokens": c.train.max_iters * c.tokens_per_iter,
        **{"val_loss": 3.5, "val_bpb": 1.0, "train_loss": 3.5, **speed, "ms_per_step_iqr": 0.5, "peak_mem_gib": 10.0},
        **{"train_time_s": 1.0, "eval_time_s": 1.0, "checkpoint_time_s": 1.0, "wall_time_s": 3.0, "startup_s": 1.0},
        "params": 1,
        "overflows": 0,
        "gates": gates,
        "config_hash": provenance["config_hash"],
        "compile": {"asked": c.train.compile, "ran": c.train.compile, "mode": None},
        "events": [],
    }
    return {
        "config": run.resolved.text(),
        "provenance.json": json.dumps(provenance, indent=2),
        "metrics.jsonl": "".join(json.dumps(line) + "\n" for line in lines),
        "summary.json": json.dumps(summary, indent=2),
    }


def _status(folder: Path) -> None:
    """`make status` in a folder, without make."""
    command = [sys.executable, "-m", "scripts.status"]
    subprocess.run(command, cwd=folder, env={"PYTHONPATH": str(ROOT)}, stdout=subprocess.DEVNULL, check=True)


def _timed(work: Callable[[], Any]) -> tuple[Any, float]:
    started = time.perf_counter()
    result = work()
    return result, time.perf_counter() - started
