"""Time the loss, forward and backward: logits whole, ours by chunks, and torch's own where it has one.

    python -m scripts.benchmark_loss [--tokens 32768] [--dtype bfloat16] [--json FILE]

GPT-2's head in bfloat16 on a GPU; elsewhere a few tokens in float32.
"""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.table import Table

from gpt2.base.errors import run_command
from gpt2.base.files import write_json
from gpt2.base.terminal import console, progress_bar
from gpt2.machine.device import DTYPES, device_name, select_device, set_precision
from gpt2.machine.sharing import have_alone
from harness.configure.arguments import count_of
from harness.configure.kconfig import refuse_assignments
from harness.measure.loss import Head, benchmark_loss
from harness.measure.timing import measured_on


def main() -> None:
    parser = argparse.ArgumentParser(description="Time the loss of a language model, forward and backward.")
    parser.add_argument("--device", choices=("auto", "cuda", "mps", "cpu"), default="auto")
    parser.add_argument("--tokens", type=count_of("--tokens", 1))
    parser.add_argument("--n-embd", type=count_of("--n-embd", 1))
    parser.add_argument("--vocab-size", type=count_of("--vocab-size", 2))
    parser.add_argument("--dtype", choices=list(DTYPES))
    parser.add_argument(
        "--repeats", type=count_of("--repeats", 2), default=30, help="measurements of each (default %(default)s)"
    )
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    args = parser.parse_args()
    refuse_assignments("bench", instead="; python -m scripts.benchmark_loss has options (--help)")
    device = select_device(args.device)
    measured = measured_on(device)
    have_alone(device)
    set_precision(tf32=True)
    defaults: dict[str, Any] = {} if device.type == "cuda" else {"tokens": 1024, "dtype": "float32"}
    given = {name: getattr(args, name) for name in ("tokens", "n_embd", "vocab_size", "dtype")}
    head = Head(**defaults | {name: value for name, value in given.items() if value is not None})

    print(f"{device_name(device)}: {head}")
    print("Median ms of forward and backward ± half the interquartile range.")
    with progress_bar("loss", stderr=True) as report:
        rows = benchmark_loss(device, head, repeats=args.repeats, report=report)
    table = Table("", box=None, padding=(0, 1), pad_edge=False)
    for column in ("wall", "/ by chunks", "GiB"):
        table.add_column(column, justify="right")
    for row in rows:
        table.add_row(
            row.way, str(row.wall), f"{row.ratio:.3f}", "-" if row.peak_mem_gib is None else f"{row.peak_mem_gib:.2f}"
        )
    console().print(table)
    if args.json:
        write_json(args.json, measured | {"head": asdict(head), "rows": [asdict(row) for row in rows]})


if __name__ == "__main__":
    run_command(main)
