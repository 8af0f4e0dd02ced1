"""What the heads of a trained model do: numbers, heat maps, and a page to look at single heads. See docs/inspect.md.

python -m scripts.inspect_attention [RUN] [--text FILE] [--out DIR]
"""

from __future__ import annotations

import argparse
from pathlib import Path

from gpt2.base.errors import UserError, run_command
from gpt2.base.text import showable
from harness.heads.inspection import first_runs, inspect_run, inspection_directory, print_inspection, write_inspection
from harness.heads.measures import NotInspectableError


def main() -> None:
    parser = argparse.ArgumentParser(description="Show what the heads of a trained model do.")
    parser.add_argument(
        "run", type=Path, nargs="?", help="a run's directory or a checkpoint; by default one run of each arm"
    )
    parser.add_argument("--text", type=Path, help="the text to look at; by default the first validation window")
    parser.add_argument("--out", type=Path, help="where to write; by default inspection/ in the run's directory")
    args = parser.parse_args()
    if args.out and not args.run:
        raise UserError("--out: name the run to be inspected; without one, several are")
    for run in [args.run] if args.run else first_runs():
        try:
            inspection = inspect_run(run, args.text)
        except NotInspectableError as error:
            if args.run:
                raise
            print(f"{showable(str(run))}: not inspected: {error}")
            continue
        written = write_inspection(inspection, args.out or inspection_directory(run))
        print_inspection(inspection)
        for path in written:
            print(showable(str(path)))


if __name__ == "__main__":
    run_command(main)
