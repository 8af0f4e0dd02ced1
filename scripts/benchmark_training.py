"""Time a training step of every arm, and its phases: forward, backward, optimizer.

    python -m scripts.benchmark_training [--arms baseline,ra_v5,nanogpt] [--batch-size 32] [--json FILE]

GPT-2 124M in bfloat16 on a GPU; elsewhere a tiny model in float32, and eager only unless --compile asks for more.
Exit status 1 if an arm could not be timed.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.table import Table

from gpt2.base.errors import UserError, run_command
from gpt2.base.files import write_json
from gpt2.base.terminal import console, progress_bar
from gpt2.machine.device import DTYPES, device_name, select_device
from gpt2.machine.sharing import have_alone
from harness.configure.arguments import names_of
from harness.configure.kconfig import refuse_assignments
from harness.measure.timing import measured_on
from harness.measure.training import OURS, SPEED_UPS, THEIRS, Load, Row, arms_here, benchmark_training

SMALL: dict[str, Any] = dict(
    n_layer=2, n_head=4, n_embd=128, block_size=128, vocab_size=256, batch_size=16, fused_loss=False
)
"""The model and batch on anything but a GPU: the quick start's width and tokens, which are bytes."""


def main() -> int:
    parser = argparse.ArgumentParser(description="Time a training step of every arm, and its phases.")
    parser.add_argument("--device", choices=("auto", "cuda", "mps", "cpu"), default="auto")
    parser.add_argument("--arms", type=names_of("--arms", [*OURS, *THEIRS]), help=f"of {', '.join([*OURS, *THEIRS])}")
    parser.add_argument("--batch-size", type=int)
    parser.add_argument("--dtype", choices=list(DTYPES))
    parser.add_argument("--repeats", type=int, default=30, help="steps that are timed (default %(default)s)")
    parser.add_argument(
        "--compile",
        choices=("none", "model", "both"),
        help="what is timed: eager, compiled, or both, which is the default on CUDA; elsewhere it is none",
    )
    parser.add_argument("--compile-mode", choices=("default", "max-autotune-no-cudagraphs"), default="default")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    args = parser.parse_args()
    refuse_assignments("bench", instead="; python -m scripts.benchmark_training has options (--help)")
    device = select_device(args.device)
    head = measured_on(device)
    have_alone(device)
    on_gpu = device.type == "cuda"
    arms = args.arms or [arm for arm in arms_here() if on_gpu or arm not in SPEED_UPS]
    if missing := set(arms) - set(arms_here()):
        raise UserError(f"--arms: {', '.join(missing)} is not installed (extra `hf`)")
    given = {"batch_size": args.batch_size, "dtype": args.dtype}
    settings = ({} if on_gpu else SMALL | {"dtype": "float32"}) | {k: v for k, v in given.items() if v is not None}
    scopes = {"none": [False], "model": [True], "both": [False, True]}[args.compile or ("both" if on_gpu else "none")]

    of = Load(**settings)
    model = f"{of.n_layer} layers, {of.n_head} heads, width {of.n_embd}, {of.vocab_size} tokens"
    print(f"{device_name(device)}: {model}; B={of.batch_size}, T={of.block_size}, {of.dtype}")
    for arm in arms:
        if arm in THEIRS:
            print(f"{arm}: {THEIRS[arm]}")
    print("Median ms ± half the interquartile range; ratios of medians of the total.")
    rows, failures = [], []
    for compiled in scopes:
        load = Load(**settings, compiled=compiled, compile_mode=args.compile_mode)
        title = "compiled" if compiled else "eager"
        with progress_bar(title, stderr=True) as report:
            timed, failed = benchmark_training(device, load, arms, repeats=args.repeats, report=report)
        console().print(_table(timed, f"\n{title}"))
        if on_gpu:
            console().print(_kernels(timed))
        for failure in failed:
            print(f"{failure.arm}: FAILED: {failure.reason}")
        rows += timed
        failures += failed
    if args.json:
        write_json(
            args.json,
            head
            | {"load": asdict(load), "labels": THEIRS}
            | {"rows": [asdict(row) for row in rows], "failures": [asdict(failure) for failure in failures]},
        )
    return 1 if failures else 0


def _table(rows: Sequence[Row], title: str) -> Table:
    table = Table("", title=title, title_justify="left", box=None, padding=(0, 1), pad_edge=False)
    columns = ("forward", "backward", "optimizer", "step", "tokens/s", "MFU", "GiB", "attention", "products")
    for column in (*columns, "/ baseline", "/ nanogpt"):
        table.add_column(column, justify="right", no_wrap=True)
    for row in rows:
        table.add_row(
            row.arm,
            *(f"{phase.median:#.4g}" for phase in (row.forward, row.backward, row.optimizer)),
            str(row.total),
            f"{row.tokens_per_s:,.0f}",
            _or_dash(row.mfu, ".1%"),
            _or_dash(row.peak_mem_gib, ".1f"),
            row.sdpa or "-",
            row.products,
            _or_dash(row.ratio_to_baseline, ".3f"),
            _or_dash(row.ratio_to_nanogpt, ".3f"),
        )
    return table


def _kernels(rows: Sequence[Row]) -> Table:
    table = Table("", title="\nms of kernels", title_justify="left", box=None, padding=(0, 1), pad_edge=False)
    kinds = list(dict.fromkeys(kind for row in rows for kind in row.kernels or ()))
    for kind in (*kinds, "sum", "gaps"):
        table.add_column(kind, justify="right", no_wrap=True)
    for row in rows:
        if row.kernels is not None:
            figures = [*(row.kernels[kind] for kind in kinds), sum(row.kernels.values()), row.gaps]
            table.add_row(row.arm, *(_or_dash(ms, ".2f") for ms in figures))
    return table


def _or_dash(value: float | None, spec: str) -> str:
    return "-" if value is None else format(value, spec)


if __name__ == "__main__":
    run_command(main)
