"""Level and power of the rules that verdicts are given by, and of those that are not offered, by simulation.

    python -m scripts.simulate_rules [--draws 20000] [--seed 1] [--json results/cpu/rules.json]

Nothing is trained; seconds. docs/evidence.md has the table.
"""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path

import numpy
import scipy
from rich.table import Table

from gpt2.base.errors import UserError, run_command
from gpt2.base.files import write_json
from gpt2.base.terminal import console
from harness.measure.rules import Finding, simulate, table_row


def main() -> None:
    parser = argparse.ArgumentParser(description="Simulate the rules that verdicts are given by.")
    parser.add_argument("--draws", type=int, default=20_000, help="experiments of each kind (default %(default)s)")
    parser.add_argument("--seed", type=int, default=1, help="of the draws (default %(default)s)")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    args = parser.parse_args()
    if args.draws < 100:
        raise UserError(f"--draws: {args.draws}: must be 100 at least")
    found = list(simulate(args.draws, args.seed))
    console().print(_table(found))
    if args.json:
        head = {"draws": args.draws, "seed": args.seed, "numpy": numpy.__version__, "scipy": scipy.__version__}
        write_json(args.json, head | {"findings": [asdict(finding) for finding in found]})


def _table(found: list[Finding]) -> Table:
    table = Table(box=None, padding=(0, 1), pad_edge=False)
    for name in ("rule", "case", "seeds", "what"):
        table.add_column(name, no_wrap=True)
    table.add_column("value", justify="right", no_wrap=True)
    for finding in found:
        table.add_row(*table_row(finding))
    return table


if __name__ == "__main__":
    run_command(main)
