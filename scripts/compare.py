"""Two experiments side by side: what differs in settings, code and machines, and the effects that may be compared.

    python -m scripts.compare results/a results/b [--out FILE.md]
    make compare A=results/a B=results/b [OUT=FILE.md]

harness/report/compare.py says which may, and how their difference gets its interval.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from gpt2.base.errors import UserError, run_command
from gpt2.base.files import write_text
from gpt2.base.text import showable
from harness.configure.kconfig import MAKE_VARIABLES, command_line_variables


def main() -> None:
    parser = argparse.ArgumentParser(description="Put two experiments side by side.")
    parser.add_argument("A", type=Path, help="directory of an experiment, results/NAME")
    parser.add_argument("B", type=Path, help="of the other")
    parser.add_argument("--out", type=Path, metavar="FILE.md", help="also write it there, as Markdown")
    args = parser.parse_args(sys.argv[1:] or make_arguments())
    for name, path in (("A", args.A), ("B", args.B)):
        if not path.is_dir():
            raise UserError(f"{name}={path}: there is no such directory; name one such as results/NAME")
    if args.A.resolve() == args.B.resolve():
        raise UserError(f"A={args.A}, B={args.B}: are the same experiment")
    if args.out is not None and not args.out.parent.is_dir():
        raise UserError(f"{args.out}: there is no directory {args.out.parent}")
    # scipy takes a second to import, and a mistake on the command line should not have to wait for it.
    from harness.evidence.store import load_experiment
    from harness.report.compare import print_comparison, render_comparison, side_by_side

    found = side_by_side(load_experiment(args.A), load_experiment(args.B))
    print_comparison(found)
    if args.out is not None:
        write_text(args.out, render_comparison(found))
        print(showable(str(args.out)))


def make_arguments() -> list[str]:
    """The command line from the variables of make's: A, B and OUT."""
    variables = command_line_variables()
    for name in variables:
        if name not in ("A", "B", "OUT", *MAKE_VARIABLES):
            raise UserError(f"make compare: {name}: is none of A, B, OUT")
    if not {"A", "B"} <= variables.keys():
        raise UserError("make compare: say which two: make compare A=results/NAME B=results/OTHER")
    out = [f"--out={variables['OUT']}"] if "OUT" in variables else []
    return [*out, "--", variables["A"], variables["B"]]


if __name__ == "__main__":
    run_command(main)
