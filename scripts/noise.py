"""How noisy is a difference, by each way of ending a run and of reading its end? And what becomes of the effects?

    python -m scripts.noise results/gpt2-noise [--json FILE]

Reads an experiment whose runs log more than their last evaluation: EMA_DECAY, EVAL_TAIL, EVAL_DATASETS, a sweep of
MIN_LR (defconfigs/gpt2-noise). Nothing is trained. docs/evidence.md has the table of the one that was measured.
"""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path

from rich.table import Table

from gpt2.base.errors import UserError, run_command
from gpt2.base.files import write_json
from gpt2.base.terminal import console
from gpt2.base.text import showable
from harness.evidence.runs import device_name
from harness.evidence.store import load_experiment
from harness.measure.noise import COLUMNS, Reading, readings, table_row


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure the noise of differences by each way of reading a run.")
    parser.add_argument("experiment", type=Path, help="its directory")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    args = parser.parse_args()
    experiment = load_experiment(args.experiment)
    found = readings(experiment)
    if not found:
        raise UserError(
            f"{args.experiment}: no arm and its reference have three finished seeds, with other lengths of the "
            "reference (STUDY_LENGTHS)"
        )
    console().print(_table(found))
    if args.json:
        devices = sorted({name for run in experiment.runs if (name := device_name(run)) is not None})
        write_json(args.json, {"devices": devices, "readings": [asdict(reading) for reading in found]})


def _table(found: list[Reading]) -> Table:
    table = Table(box=None, padding=(0, 1), pad_edge=False)
    for place, name in enumerate(COLUMNS):
        table.add_column(name, justify="left" if place < 2 else "right", overflow="fold")
    for reading in found:
        table.add_row(*map(showable, table_row(reading)))
    return table


if __name__ == "__main__":
    run_command(main)
