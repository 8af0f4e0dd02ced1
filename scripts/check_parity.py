"""Is every variant its baseline where its gates say so? Outputs, losses and gradients, in every precision.

python -m scripts.check_parity [--compile] [--dtypes float32,bfloat16] [--json FILE]
"""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path

from rich.table import Table

from gpt2.base.errors import run_command
from gpt2.base.files import write_json
from gpt2.base.progress import reported
from gpt2.base.terminal import console, progress_bar
from gpt2.checks.parity import (
    MAX_DIFF,
    MAX_DIFF_FLOAT32,
    MAX_DIFF_FLOAT32_ACCELERATOR,
    MIN_COSINE,
    VARIANTS,
    Difference,
    Parity,
    check_parity,
    settings,
)
from gpt2.machine.device import DTYPES, device_name, select_device
from harness.configure.arguments import names_of
from harness.configure.kconfig import refuse_assignments
from harness.measure.timing import measured_on


def main() -> int:
    parser = argparse.ArgumentParser(description="Compare every variant with its baseline on the same weights.")
    parser.add_argument("--device", choices=("auto", "cuda", "mps", "cpu"), default="auto")
    parser.add_argument(
        "--compile",
        action=argparse.BooleanOptionalAction,
        help="compare compiled with compiled too; by default on CUDA only, as it takes minutes on a CPU",
    )
    parser.add_argument(
        "--dtypes",
        type=names_of("--dtypes", DTYPES),
        default=list(DTYPES),
        help="such as float32,bfloat16 (default all)",
    )
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    args = parser.parse_args()
    refuse_assignments("parity", instead="; python -m scripts.check_parity has options (--help)")
    device = select_device(args.device)
    compiled = device.type == "cuda" if args.compile is None else args.compile

    head = measured_on(device)
    total = len(VARIANTS) * len(settings(device.type, compiled=compiled, dtypes=args.dtypes))
    with progress_bar("parity", stderr=True) as report:
        checked = check_parity(device.type, compiled=compiled, dtypes=args.dtypes)
        rows = list(reported(checked, total, report, lambda row: f"{row.variant}, {row.setting.dtype}"))
    console().print(_table(rows, title=f"Parity on {device_name(device)}"))
    float32 = MAX_DIFF_FLOAT32 if device.type == "cpu" else MAX_DIFF_FLOAT32_ACCELERATOR
    print(f"Allowed: {float32:.0e} in float32, {MAX_DIFF:.0e} in other precisions; cosines above {MIN_COSINE}.")
    if not compiled:
        print("Compiled modules were not compared: --compile does.")
    failed = sum(not row.passed for row in rows)
    print(f"{len(rows) - failed} of {len(rows)} comparisons passed.")
    if args.json:
        write_json(
            args.json,
            head
            | {"criteria": {"max_diff": MAX_DIFF, "max_diff_float32": float32, "min_cosine": MIN_COSINE}}
            | {"rows": [dataclasses.asdict(row) for row in rows]},
        )
    return 1 if failed else 0


def _table(rows: list[Parity], title: str) -> Table:
    """The largest differences and smallest cosines over train and eval mode, with biases and without."""
    table = Table("variant", "dtype", "", title=title, box=None, padding=(0, 1, 0, 0))
    for column in ("output", "loss", "gradient", "cosine", ""):
        table.add_column(column, justify="right")
    groups: dict[tuple[str, str, str], list[Parity]] = {}
    for row in rows:
        compiled = "compiled" if row.setting.compiled else "eager"
        groups.setdefault((row.variant, row.setting.dtype, compiled), []).append(row)
    for names, group in groups.items():
        output = Difference.worst(row.output for row in group)
        gradient = Difference.worst(row.gradient for row in group if row.gradient is not None)
        table.add_row(
            *names,
            *(f"{d:.1e}" if d else "0" for d in (output.max_diff, max(row.loss for row in group), gradient.max_diff)),
            f"{min(output.cosine, gradient.cosine):.6f}",
            "ok" if all(row.passed for row in group) else "[bold red]FAIL[/]",
        )
    return table


if __name__ == "__main__":
    run_command(main)
