"""Is an experiment what its files say? Works out anew what can be, compares, and trains one short run again.

    python -m scripts.verify [EXPERIMENT_DIR]
    python -m scripts.verify results/mine --run baseline/seed-1
    make verify RESULTS=results/mine

docs/results.md says what is looked at. Nothing is changed. Exit status 1 if anything is not as it should be.
"""

from __future__ import annotations

import argparse
import random
from collections import Counter
from pathlib import Path

from gpt2.base.errors import UserError, run_command
from gpt2.base.terminal import progress_bar
from harness.configure.directories import configured_experiment
from harness.evidence.again import choose, is_of_a_device_here, repeat, took_s
from harness.evidence.findings import FAIL, NOTE, OK, Finding, findings
from harness.evidence.verify import repeatable, verify
from harness.launch.signals import sigterm_is_ctrl_c


def main() -> int:
    parser = argparse.ArgumentParser(description="Compare what an experiment's files say with what can be worked out.")
    parser.add_argument("experiment", type=Path, nargs="?", help="its directory; by default the one .config names")
    parser.add_argument("--run", metavar="STEP/seed-N", help="the run to train again (default: one drawn by lot)")
    parser.add_argument("--no-train", action="store_true", help="train none again")
    parser.add_argument(
        "--minutes", type=float, default=10.0, help="what a run drawn by lot may have taken (%(default)g)"
    )
    parser.add_argument("--seed", type=int, help="of the lot (default: another each time)")
    args = parser.parse_args()
    experiment = args.experiment or configured_experiment()
    runs = {} if args.no_train else repeatable(experiment)
    if args.run is not None and experiment / args.run not in runs:
        raise UserError(f"--run {args.run}: is no run of {experiment} that is finished, of this version, with its data")
    seed = random.SystemRandom().randrange(2**31) if args.seed is None else args.seed
    if args.run:
        run: Path | None = experiment / args.run
    else:
        alike = {path: summary for path, summary in runs.items() if is_of_a_device_here(path)}
        run = choose(alike, seed=seed, most_s=60 * args.minutes)

    print(experiment)
    outcomes = Counter(map(show, verify(experiment)))
    if run is not None:
        name = f"{run.parent.name}/{run.name}"
        how = "" if args.run else f", drawn by --seed {seed}"
        print(f"{name} is trained again{how}; it took {took_s(runs[run]):.0f} s", flush=True)
        with sigterm_is_ctrl_c(), progress_bar(name) as report:
            outcomes.update(map(show, findings(name, "again", run, repeat(run, report))))
    elif not args.no_train:
        print(
            "No run is trained again: none is finished, of this version, with its data, trained on such a device as is "
            f"here, and below {args.minutes:g} min"
        )
    print(", ".join(f"{outcomes[outcome]} {outcome}" for outcome in (OK, NOTE, FAIL)))
    return 1 if outcomes[FAIL] else 0


def show(finding: Finding) -> str:
    """Print a finding. Returns its outcome."""
    print(f"{finding.run:<28} {finding.check:<12} {finding.outcome:<5} {finding.text}".rstrip(), flush=True)
    return finding.outcome


if __name__ == "__main__":
    run_command(main)
