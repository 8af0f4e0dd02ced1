"""Write the report of an experiment: report.html, report.md, the figures and tables in them. Print what it found.

python -m scripts.report [EXPERIMENT_DIR]
"""

from __future__ import annotations

import argparse
from pathlib import Path

from gpt2.base.errors import run_command
from gpt2.base.text import showable
from harness.configure.directories import configured_experiment
from harness.evidence.store import load_experiment
from harness.report.report import print_report, write_report


def main() -> None:
    parser = argparse.ArgumentParser(description="Write the report of an experiment.")
    parser.add_argument("experiment", type=Path, nargs="?", help="its directory; by default the one .config names")
    experiment = load_experiment(parser.parse_args().experiment or configured_experiment())
    written = write_report(experiment)
    print_report(written.report)
    for path in written.paths:
        print(showable(str(path)))


if __name__ == "__main__":
    run_command(main)
