"""What share of the GPUs' time an ablation spends in training steps: short runs and long ones, one GPU and several.

    python -m scripts.benchmark_ablation --seconds 15,120 --gpus 1,2 --cache cold,warm --json mine.json N_LAYER=6 ...
    python -m scripts.benchmark_ablation --code ../another/checkout ...

Each case is an ablation of its own, started by `make`: a defconfig with the settings given over it: its steps, lengths
and seeds are the runs. They are as long as makes their mean --seconds, by a trial that comes first.
"""

from __future__ import annotations

import argparse
import itertools
from pathlib import Path

from gpt2.base import terminal
from gpt2.base.errors import run_command
from gpt2.base.files import ROOT, write_json
from harness.configure.arguments import counts_of, names_of
from harness.measure.ablation import CACHES, Bench


def main() -> int:
    parser = argparse.ArgumentParser(description="Measure the efficiency of ablations.")
    parser.add_argument(
        "--seconds", type=counts_of("--seconds"), default=[15], help="of a run's training steps, as 15,120 (default 15)"
    )
    parser.add_argument(
        "--gpus", type=counts_of("--gpus"), default=[None], help="how many GPUs, as 1,2 (default: all, or the CPU)"
    )
    parser.add_argument(
        "--cache", type=names_of("--cache", CACHES), default=["warm"], help="compile cache: cold,warm (default warm)"
    )
    parser.add_argument("--ms-per-step", type=float, help="mean over the arms, instead of a trial that finds it")
    parser.add_argument("--defconfig", default="gpt2-ra-v5-ablation", help="default %(default)s")
    parser.add_argument("--code", type=Path, default=ROOT, help="the checkout to measure (default: this one)")
    parser.add_argument("--work", type=Path, required=True, help="a new directory, for results")
    parser.add_argument("--json", type=Path, help="write the measurements here")
    parser.add_argument("settings", nargs="*", metavar="SYMBOL=value", help="of the ablation")
    args = parser.parse_args()
    bench = Bench(
        code=args.code,
        work=args.work,
        defconfig=args.defconfig,
        settings=args.settings,
        ms_per_step=args.ms_per_step,
    )
    console = terminal.console()
    cases = []
    # Cold ones first: they leave a warm cache behind.
    for cache, n, target in itertools.product(sorted(args.cache), args.gpus, args.seconds):
        case = bench.measure(seconds=target, gpus=n, cache=cache)
        cases.append(case)
        console.print(case.describe(), highlight=False)
        if args.json:
            write_json(args.json, bench.report(cases))
    return 0


if __name__ == "__main__":
    run_command(main)
