"""Prepare the data set of a configuration: download it if need be, make token files of it.

    python -m scripts.prepare_data
    python -m scripts.prepare_data --config defconfigs/gpt2-baseline

Can be interrupted and goes on where it stopped. Settings of make's command line count, as everywhere.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

from gpt2.config import run_config
from gpt2.data import Dataset
from gpt2.dotconfig import load
from gpt2.errors import run_command
from gpt2.prepare import Report, prepare
from harness.kconfig import command_line_assignments, configuration, overlay


def main() -> None:
    parser = argparse.ArgumentParser(description="Prepare the data set of a configuration.")
    parser.add_argument("--config", type=Path, help="instead of .config")
    path = parser.parse_args().config
    resolved = configuration() if path is None else overlay(load(path), command_line_assignments())
    config = run_config(resolved.symbols).data
    with progress_bar(f"{config.dataset}, {config.tokenizer} tokens") as report:
        dataset = prepare(config, report)
    print_dataset(dataset)


@contextmanager
def progress_bar(title: str) -> Iterator[Report]:
    """A bar on a terminal; elsewhere a line for each tenth of the work."""
    console = Console()
    if console.is_terminal:
        columns = TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeElapsedColumn()
        with Progress(*columns, TextColumn("{task.fields[line]}"), console=console) as progress:
            task = progress.add_task(title, total=1.0, line="")
            yield lambda share, line: progress.update(task, completed=share, line=line)
        return

    tenths = -1

    def print_tenths(share: float, line: str) -> None:
        nonlocal tenths
        if int(share * 10) > tenths:
            tenths = int(share * 10)
            print(f"{title}: {share:.0%}, {line}", flush=True)

    yield print_tenths


def print_dataset(dataset: Dataset) -> None:
    """Where it lies and what it is."""
    ratio = dataset.val_bytes_per_token
    facts = {
        "data": dataset.path,
        "training": f"{dataset.train_tokens:,} tokens",
        "validation": f"{dataset.val_tokens:,} tokens",
        "bytes per token": f"unknown: {dataset.val_bytes_unknown}" if ratio is None else f"{ratio:.4f} (validation)",
        "hash": dataset.hash,
    }
    for name, fact in facts.items():
        print(f"{name:16}{fact}")


if __name__ == "__main__":
    run_command(main)
