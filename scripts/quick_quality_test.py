"""Train a variant and its reference on identical batches, and judge the RA v5 plan's criteria.

harness/evidence/quality.py says how. The variant is also trained on random tokens, in `noise/` below the experiment,
to see how far noise alone moves its gates.

    python -m scripts.quick_quality_test --model ra_v5 --steps 1000 --ra-v5-R 4
    python -m scripts.quick_quality_test --config FILE --seeds 1,2,3,4,5 LEARNING_RATE=3e-4

The runs are an experiment like any other: `python -m scripts.report results/quality-ra_v5-R4-1000`. Settings on make's
command line count too. Exit status 0 for PASS and for UNDECIDED, 1 for FAIL, 130 if interrupted.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from rich.table import Table

from gpt2.assignments import Assignment
from gpt2.base.errors import UserError, run_command
from gpt2.base.files import write_json
from gpt2.base.numbers import decimal
from gpt2.base.terminal import console
from gpt2.dotconfig import load
from harness.configure.kconfig import assignment, command_line_assignments, find_defconfig
from harness.configure.plan import Plan
from harness.configure.quality import STEPS, plan_quality
from harness.evidence.quality import (
    FAIL,
    GATE_THRESHOLD,
    Quality,
    SeedResult,
    assess,
    quality_json,
)


def main() -> int:
    parser = argparse.ArgumentParser(description="Train a variant and its reference, and judge the plan's criteria.")
    parser.add_argument("--model", choices=list(STEPS), default="ra_v5", help="default %(default)s")
    parser.add_argument("--steps", metavar="N", help="optimizer steps (MAX_ITERS)")
    parser.add_argument("--ra-v5-R", metavar="R", help="reciprocal dimensions per head (RA_V5_R)")
    parser.add_argument("--seeds", help='such as 1,2,3 (ABLATION_SEEDS); "undecided" below three')
    parser.add_argument("--config", type=Path, help="a configuration to start from, by default defconfigs/gpt2-quality")
    parser.add_argument("--out", help="directory of results (RESULTS_DIR)")
    parser.add_argument("overrides", metavar="SYMBOL=value", nargs="*", help="any other setting")
    args = parser.parse_args()
    flags = {
        "--steps": ("MAX_ITERS", args.steps),
        "--ra-v5-R": ("RA_V5_R", args.ra_v5_R),
        "--seeds": ("ABLATION_SEEDS", args.seeds),
        "--out": ("RESULTS_DIR", args.out),
    }
    overrides = [Assignment(symbol, value, flag) for flag, (symbol, value) in flags.items() if value is not None]
    overrides += [assignment(text) for text in args.overrides]
    overrides += command_line_assignments()
    symbols = [assignment.symbol for assignment in overrides]
    if twice := {symbol for symbol in symbols if symbols.count(symbol) > 1}:
        raise UserError(f"command line: {', '.join(sorted(twice))} is given twice")
    plan = plan_quality(load(args.config or find_defconfig("gpt2-quality")), args.model, overrides)
    return _test(plan, args.model, overrides)


def _test(plan: Plan, model: str, overrides: Sequence[Assignment]) -> int:
    # torch takes seconds to import, and a mistake on the command line should not have to wait for it.
    from harness.evidence.store import load_experiment
    from harness.launch.launch import run_plan

    if run_plan(plan, overrides) == 130:
        return 130
    seeds = list(dict.fromkeys(run.seed for run in plan.runs))
    quality = assess(load_experiment(plan.directory), model, seeds)
    write_json(quality_json(plan.directory), asdict(quality))
    console().print(_table(quality))
    for criterion in quality.criteria:
        print(f"{criterion.verdict:9} {criterion.name}: {criterion.evidence}")
    print(f"\n{quality.verdict}: {plan.directory}")
    return 1 if quality.verdict == FAIL else 0


def _table(quality: Quality) -> Table:
    table = Table(box=None, padding=(0, 1), pad_edge=False)
    reference = quality.reference or "-"
    for column in (
        "seed",
        reference,
        quality.step,
        "difference",
        f"w_rec > {GATE_THRESHOLD}",
        "on noise",
        "mean",
        "max",
        "GiB",
        "reference's",
    ):
        table.add_column(column, justify="right", no_wrap=True)
    for result in quality.seeds:
        losses = (_or_dash(loss, ".4f") for loss in (result.reference_val_loss, result.val_loss))
        memory = (_or_dash(gib, ".2f") for gib in (result.peak_mem_gib, result.reference_peak_mem_gib))
        table.add_row(str(result.seed), *losses, _or_dash(result.delta, "+.2g"), *_gates(result), *memory)
    return table


def _gates(result: SeedResult) -> tuple[str, str, str, str]:
    w, noise = result.w_rec, result.noise_w_rec
    if w is None:
        return "-", "-", "-", "-"
    on_noise = "-" if noise is None else str(sum(one > GATE_THRESHOLD for one in noise))
    return f"{result.heads_above} of {len(w)}", on_noise, decimal(sum(w) / len(w), 3), decimal(max(w), 3)


def _or_dash(value: float | None, spec: str) -> str:
    return "-" if value is None else format(value, spec)


if __name__ == "__main__":
    run_command(main)
