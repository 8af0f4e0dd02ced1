"""Take the measurements of docs/performance.md, and parity, one after another, into one directory.

    python -m scripts.reference results/h100 --data DIR [--only training,attention]

Each leaves NAME.json, with where it was measured, and NAME.txt, what it printed. One that is there is not taken again;
one that failed leaves NAME.failed.json, if anything. DIR holds token files for the loss curves
(gpt2/data/token_files.py). Exit status 1 if a measurement failed.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from pathlib import Path

from gpt2.base.errors import UserError, run_command
from harness.configure.arguments import names_of

MEASUREMENTS = {
    "training": ["scripts.benchmark_training"],
    "attention": ["scripts.benchmark_attention"],
    "loss": ["scripts.benchmark_loss"],
    "curves": ["scripts.compare_loss_curves"],
    "data": ["scripts.benchmark_data"],
    "profile": ["scripts.profile_kernels"],
    "parity": ["scripts.check_parity"],
}
"""Module and arguments of each, by name."""


def main() -> int:
    parser = argparse.ArgumentParser(description="Take the measurements of docs/performance.md, and parity.")
    parser.add_argument("out", type=Path, help="directory to write to")
    parser.add_argument("--data", type=Path, help="directory of token files, for the loss curves")
    only = names_of("--only", MEASUREMENTS)
    parser.add_argument("--only", type=only, default=list(MEASUREMENTS), help=f"of {', '.join(MEASUREMENTS)}")
    args = parser.parse_args()
    if "curves" in args.only and args.data is None:
        raise UserError("--data: name a directory of token files for the loss curves, or leave them out with --only")
    args.out.mkdir(parents=True, exist_ok=True)
    failed = [name for name in args.only if not _measure(name, args.out, args.data)]
    if failed:
        print(f"failed: {', '.join(failed)}")
    return 1 if failed else 0


def _measure(name: str, out: Path, data: Path | None) -> bool:
    """Take one measurement, unless it is there. Whether it is there now."""
    record = out / f"{name}.json"
    if record.exists():
        print(f"{name}: {record} is there")
        return True
    module, *arguments = MEASUREMENTS[name]
    arguments += ["--json", str(record)]
    if name == "curves":
        assert data is not None
        arguments += ["--data", str(data), "--figure", str(out / "curves.png")]
    print(f"\n{name}: python -m {module} {' '.join(arguments)}", flush=True)
    start = time.monotonic()
    with (out / f"{name}.txt").open("w") as log:
        command = [sys.executable, "-m", module, *arguments]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
            assert process.stdout is not None
            for line in process.stdout:
                print(line, end="", flush=True)
                log.write(line)
    print(f"{name}: exit status {process.returncode} after {time.monotonic() - start:.0f} s", flush=True)
    if process.returncode != 0 and record.exists():
        # Parity that does not hold leaves a record, too.
        record.replace(record.with_suffix(".failed.json"))
    return process.returncode == 0


if __name__ == "__main__":
    run_command(main)
