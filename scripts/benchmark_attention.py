"""Time one attention layer: the RA v5 plan's table, baseline and RA v5, eager and compiled, forward and with backward.

    python -m scripts.benchmark_attention [--batch-sizes 8,32] [--dtype bfloat16] [--json FILE]

GPT-2's layer in bfloat16 on a GPU; elsewhere a small one in float32, and eager only unless --compile asks for more.
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
from harness.configure.kconfig import refuse_assignments
from harness.measure.attention import MODES, Layer, Row, benchmark_attention
from harness.measure.timing import measured_on


def main() -> None:
    parser = argparse.ArgumentParser(description="Time one attention layer of each kind.")
    parser.add_argument("--device", choices=("auto", "cuda", "mps", "cpu"), default="auto")
    parser.add_argument("--batch-sizes", type=lambda text: [int(b) for b in text.split(",")], help="such as 8,32")
    parser.add_argument("--n-head", type=int)
    parser.add_argument("--head-dim", type=int)
    parser.add_argument("--block-size", type=int)
    parser.add_argument("--R", type=int)
    parser.add_argument("--dtype", choices=list(DTYPES))
    parser.add_argument("--repeats", type=int, default=30, help="measurements of each (default %(default)s)")
    parser.add_argument(
        "--compile",
        action=argparse.BooleanOptionalAction,
        help="time compiled layers too; by default on CUDA only, as it takes a minute elsewhere",
    )
    parser.add_argument("--compile-mode", choices=("default", "max-autotune-no-cudagraphs"), default="default")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    args = parser.parse_args()
    refuse_assignments("bench", instead="; python -m scripts.benchmark_attention has options (--help)")
    device = select_device(args.device)
    head = measured_on(device)
    have_alone(device)
    set_precision(tf32=True)
    on_gpu = device.type == "cuda"
    defaults: dict[str, Any] = {} if on_gpu else {"n_head": 4, "block_size": 128, "dtype": "float32"}
    given = {name: getattr(args, name) for name in ("n_head", "head_dim", "block_size", "R", "dtype")}
    layer = Layer(**defaults | {name: value for name, value in given.items() if value is not None})

    print(f"{device_name(device)}: {layer}")
    print("Median ms per call ± half the interquartile range; ratios of medians, of device time where there is any.")
    print('"with copies" is the seed\'s own baseline, which makes q, k and v contiguous one by one.')
    rows = []
    for batch_size in args.batch_sizes or ([8, 32] if on_gpu else [4]):
        for mode in MODES:
            title = f"{mode}, B={batch_size}"
            with progress_bar(title, stderr=True) as report:
                timed = benchmark_attention(
                    device,
                    layer,
                    batch_size,
                    mode,
                    compiled=on_gpu if args.compile is None else args.compile,
                    compile_mode=args.compile_mode,
                    repeats=args.repeats,
                    report=report,
                )
            console().print(_table(timed, f"\n{title}"))
            rows += timed
    if args.json:
        settings = {"layer": asdict(layer), "compile_mode": args.compile_mode}
        write_json(args.json, head | settings | {"rows": [asdict(row) for row in rows]})


def _table(rows: list[Row], title: str) -> Table:
    table = Table("", "", title=title, title_justify="left", box=None, padding=(0, 1), pad_edge=False)
    for column in ("device", "wall", "attention", "/ baseline", "/ eager baseline"):
        table.add_column(column, justify="right")
    for row in rows:
        compiled = "compiled" if row.compiled else "eager"
        ratios = f"{row.ratio:.3f}", f"{row.ratio_to_eager:.3f}"
        table.add_row(row.variant, compiled, str(row.device or "-"), str(row.wall), row.sdpa or "-", *ratios)
    return table


if __name__ == "__main__":
    run_command(main)
