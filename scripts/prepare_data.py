"""Prepare the data set of a configuration: download it if need be, make token files of it.

    python -m scripts.prepare_data
    python -m scripts.prepare_data --config defconfigs/gpt2-baseline

Can be interrupted and goes on where it stopped. Settings of make's command line count, as everywhere.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from gpt2.base.errors import run_command
from gpt2.base.terminal import progress_bar
from gpt2.data.dataset import Dataset
from gpt2.data.prepare import prepare
from gpt2.dotconfig import load
from gpt2.symbols import run_config
from harness.configure.kconfig import command_line_assignments, configuration, overlay


def main() -> None:
    parser = argparse.ArgumentParser(description="Prepare the data set of a configuration.")
    parser.add_argument("--config", type=Path, help="instead of .config")
    path = parser.parse_args().config
    resolved = configuration() if path is None else overlay(load(path), command_line_assignments())
    config = run_config(resolved.symbols).data
    with progress_bar(f"{config.dataset}, {config.tokenizer} tokens") as report:
        dataset = prepare(config, report)
    print_dataset(dataset)


def print_dataset(dataset: Dataset) -> None:
    """Where it lies and what it is."""
    ratio = dataset.val_bytes_per_token
    facts = {
        "data": dataset.path,
        "training": f"{dataset.train_tokens:,} tokens",
        "validation": f"{dataset.val_tokens:,} tokens",
        "bytes per token": f"unknown: {dataset.vocabulary.unknown}" if ratio is None else f"{ratio:.4f} (validation)",
        "hash": dataset.hash,
    }
    for name, fact in facts.items():
        print(f"{name:16}{fact}")
    for line in dataset.warnings:
        print(f"{'warning':16}{line}")


if __name__ == "__main__":
    run_command(main)
