"""Draw the figures of an experiment, and write its summary.csv and comparison.csv.

python -m scripts.plots [EXPERIMENT_DIR]
"""

from __future__ import annotations

import argparse
from pathlib import Path

from gpt2.errors import run_command
from harness.figures import draw_figures
from harness.stats import compare, write_comparison_csv
from harness.store import configured_experiment, load_experiment, write_summary_csv


def main() -> None:
    parser = argparse.ArgumentParser(description="Draw the figures of an experiment and tabulate its runs.")
    parser.add_argument("experiment", type=Path, nargs="?", help="its directory; by default the one .config names")
    experiment = load_experiment(parser.parse_args().experiment or configured_experiment())
    comparisons = compare(experiment)
    print(write_summary_csv(experiment))
    print(write_comparison_csv(experiment, comparisons))
    for drawing in draw_figures(experiment, comparisons):
        print(drawing.png)
        print(drawing.svg)


if __name__ == "__main__":
    run_command(main)
