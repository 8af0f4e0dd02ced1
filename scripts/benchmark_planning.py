"""What planning, `make status`, summary.csv and the report's reading cost with 100, 1,000 and 10,000 runs.

    python -m scripts.benchmark_planning [--runs 100,1000,10000] [--json results/cpu/planning.json]

Nothing is trained: records are made up below a temporary directory, 20 KB a run.
"""

from __future__ import annotations

import argparse
import tempfile
from dataclasses import asdict, fields
from pathlib import Path

import torch
from rich.table import Table

from gpt2.base.errors import UserError, run_command
from gpt2.base.files import write_json
from gpt2.base.terminal import console
from harness.measure.planning import STEPS, PlanningCosts, measure_planning
from harness.measure.timing import measured_on


def main() -> None:
    parser = argparse.ArgumentParser(description="Time what many runs cost without training them.")
    parser.add_argument("--runs", default="100,1000,10000", help="how many, several times (default %(default)s)")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    args = parser.parse_args()
    numbers = [number_of_runs(text) for text in args.runs.split(",")]
    head = measured_on(torch.device("cpu"))
    costs = []
    for runs in numbers:
        with tempfile.TemporaryDirectory() as folder:
            costs.append(measure_planning(runs, Path(folder)))
    console().print(_table(costs))
    if args.json:
        write_json(args.json, head | {"planning": [asdict(cost) for cost in costs]})


def number_of_runs(text: str) -> int:
    """Of an ablation of STEPS arms. Raises UserError."""
    if not text.isdecimal() or not int(text) or int(text) % STEPS:
        raise UserError(f"--runs: {text!r}: must be a multiple of the {STEPS} steps, such as 100")
    return int(text)


def _table(costs: list[PlanningCosts]) -> Table:
    table = Table(box=None, padding=(0, 1), pad_edge=False)
    names = [field.name for field in fields(PlanningCosts)]
    for name in names:
        table.add_column(name.removesuffix("_s").replace("_", " "), justify="right")
    for cost in costs:
        runs, *seconds = (getattr(cost, name) for name in names)
        table.add_row(f"{runs:,}", *(f"{s:.3f} s" for s in seconds))
    return table


if __name__ == "__main__":
    run_command(main)
