"""summary.csv: a row for each run of an experiment."""

from __future__ import annotations

from pathlib import Path

from gpt2.base.files import write_csv
from gpt2.run.records import Json
from harness.evidence.runs import RunRecord, compile_ran, device_name
from harness.evidence.store import Experiment

SUMMARY_COLUMNS = (
    *("step", "seed", "status", "val_loss", "val_bpb", "train_loss", "iters", "tokens", "ms_per_step", "tokens_per_s"),
    *("mfu", "peak_mem_gib", "train_time_s", "params", "config_hash", "compile", "device_name"),
)
"""Columns of summary.csv."""


def write_summary_csv(experiment: Experiment) -> Path:
    """Write summary.csv, one row per run, and return its path."""
    path = experiment.path / "summary.csv"
    write_csv(path, SUMMARY_COLUMNS, [summary_row(run) for run in experiment.runs])
    return path


def summary_row(run: RunRecord) -> Json:
    """A run's row of summary.csv. What the run has not said is None."""
    row = {column: (run.summary or {}).get(column) for column in SUMMARY_COLUMNS}
    row |= {"step": run.step, "seed": run.seed, "status": run.status}
    row["compile"] = compile_ran(run)
    row["device_name"] = device_name(run)
    row["config_hash"] = (run.provenance or {}).get("config_hash")
    return row
