"""How many batches a second the trainer's loader yields by itself: does it keep up with a GPU?

    python -m scripts.benchmark_data [--data DIR] [--batch-size 32] [--needed 600000] [--json FILE]

Without DIR, of token files as nanoGPT writes them, random tokens in a temporary directory.
"""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory

from rich.table import Table

from gpt2.base.errors import UserError, run_command
from gpt2.base.files import write_json
from gpt2.base.terminal import console
from gpt2.config import DataConfig
from gpt2.data.dataset import open_dataset
from gpt2.data.token_files import write_random_tokens
from gpt2.machine.device import device_name, select_device
from harness.measure.data import Supply, benchmark_batches
from harness.measure.timing import measured_on

NEEDED_ON_GPU = 600_000.0
"""Tokens/s: more than an H100 trains GPT-2 124M with."""


def main() -> None:
    parser = argparse.ArgumentParser(description="Time the trainer's loader, without training.")
    parser.add_argument("--data", type=Path, help="directory of train.bin and val.bin, or of shards")
    parser.add_argument("--vocab-size", type=int, default=50257, help="distinct tokens (default %(default)s)")
    parser.add_argument("--tokens", type=int, default=20_000_000, help="random tokens (default %(default)s)")
    parser.add_argument("--batch-size", type=int, default=32, help="default %(default)s")
    parser.add_argument("--block-size", type=int, default=1024, help="default %(default)s")
    parser.add_argument("--accumulation", type=int, default=1, help="micro-batches in a step (default %(default)s)")
    parser.add_argument("--device", choices=("auto", "cuda", "mps", "cpu"), default="auto")
    parser.add_argument("--repeats", type=int, default=10, help="measurements (default %(default)s)")
    parser.add_argument("--needed", type=float, help="tokens/s to compare with (default on CUDA: 600000)")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    args = parser.parse_args()
    least = {"tokens": 1, "batch_size": 1, "block_size": 1, "accumulation": 1, "repeats": 2}
    for name, lowest in least.items():
        if getattr(args, name) < lowest:
            raise UserError(f"--{name.replace('_', '-')}: {getattr(args, name)}: must be at least {lowest}")
    device = select_device(args.device)
    head = measured_on(device)
    needed = NEEDED_ON_GPU if args.needed is None and device.type == "cuda" else args.needed

    with TemporaryDirectory() as folder:
        if args.data is None:
            write_random_tokens(Path(folder), vocab_size=args.vocab_size, n_tokens=args.tokens)
        path = str(args.data or folder)
        dataset = open_dataset(DataConfig(dataset="bin", bin_dir=path, vocab_size=args.vocab_size, data_dir=folder))
        source = "random tokens" if args.data is None else f"tokens of {path}"
        print(
            f"{device_name(device)}: {dataset.train_tokens:,} {source}; "
            f"B={args.batch_size}, T={args.block_size}, {args.accumulation} in a step"
        )
        shape = {name: getattr(args, name) for name in ("batch_size", "block_size", "accumulation")}
        supply = benchmark_batches(dataset, device, **shape, repeats=args.repeats)
    print("Median ms of a step's batches ± half the interquartile range.")
    console().print(_table(supply, needed))
    if args.json:
        write_json(
            args.json,
            head
            | {"data": source, "train_tokens": dataset.train_tokens, **shape}
            | {"supply": asdict(supply), "needed_tokens_per_s": needed, "ratio_to_needed": _ratio(supply, needed)},
        )


def _ratio(supply: Supply, needed: float | None) -> float | None:
    return None if needed is None else supply.tokens_per_s / needed


def _table(supply: Supply, needed: float | None) -> Table:
    table = Table(box=None, padding=(0, 1), pad_edge=False)
    cells = {"step": str(supply.step), "batches/s": f"{supply.batches_per_s:,.1f}"}
    cells["tokens/s"] = f"{supply.tokens_per_s:,.0f}"
    if needed is not None:
        cells[f"/ {needed:,.0f}"] = f"{_ratio(supply, needed):.3g}"
    for column in cells:
        table.add_column(column, justify="right", no_wrap=True)
    table.add_row(*cells.values())
    return table


if __name__ == "__main__":
    run_command(main)
