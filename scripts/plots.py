"""Draw the figures of an experiment, and write its summary.csv and comparison.csv.

python -m scripts.plots [EXPERIMENT_DIR]
"""

from __future__ import annotations

import argparse
from pathlib import Path

from gpt2.base.errors import run_command
from gpt2.base.text import showable
from harness.configure.directories import configured_experiment
from harness.evidence.comparison import write_comparison_csv
from harness.evidence.stats import compare
from harness.evidence.store import load_experiment
from harness.evidence.summary_table import write_summary_csv
from harness.report.figures import draw_figures


def main() -> None:
    parser = argparse.ArgumentParser(description="Draw the figures of an experiment and tabulate its runs.")
    parser.add_argument("experiment", type=Path, nargs="?", help="its directory; by default the one .config names")
    experiment = load_experiment(parser.parse_args().experiment or configured_experiment())
    comparisons = compare(experiment)
    print(showable(str(write_summary_csv(experiment))))
    print(showable(str(write_comparison_csv(experiment, comparisons))))
    for drawing in draw_figures(experiment, comparisons):
        print(showable(str(drawing.png)))
        print(showable(str(drawing.svg)))


if __name__ == "__main__":
    run_command(main)
