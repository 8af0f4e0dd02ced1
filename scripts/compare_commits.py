"""Do two commits train to the same numbers, to the bit? Shows that a change changes nothing, or where it does.

    python -m scripts.compare_commits HEAD~1 HEAD
    python -m scripts.compare_commits --steps baseline,ra-v5-eager --iters 50 HEAD~1 HEAD DTYPE_BFLOAT16=y FUSED_LOSS=y
    python -m scripts.compare_commits --continue-across HEAD~1 HEAD

Trains a tiny model with the code of each: every ablation step that both ship, without dropout and with it. Compared are
losses, gradient norms, gates, the weights at the end, and the identity of each run. With --continue-across, B also goes
on with runs in which A was interrupted, and they have to end where those of B end. Exit status 1 where anything parts.
What is not committed is not compared.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from itertools import groupby
from pathlib import Path

from rich.table import Table

from gpt2.base.errors import UserError, run_command
from gpt2.base.terminal import console
from harness.configure.kconfig import assignment
from harness.configure.lists import parse_seeds
from harness.evidence.parting import Compared, compare_all, compare_rests, new_keys, went_otherwise
from harness.launch.signals import sigterm_is_ctrl_c
from harness.measure.commits import Side, checked_out, common_steps, go_on, interrupt, refuse_unknown, train

TINY = {
    "N_LAYER": "2",
    "N_EMBD": "64",
    "BLOCK_SIZE": "64",
    "BATCH_SIZE": "8",
    "GRADIENT_ACCUMULATION_STEPS": "2",
    "WARMUP_ITERS": "5",
    "EVAL_INTERVAL": "5",
    "LOG_INTERVAL": "1",
    "DEVICE_CPU": "y",
}
"""What is laid over the quick start's configuration: a model that trains in a second, and a line for each step."""

NOT_FREE = {
    **{"MAX_ITERS": "give --iters", "ABLATION_SEEDS": "give --seeds", "RA_MLA_ABLATION_STEPS": "give --steps"},
    **dict.fromkeys(("MODEL_NAME", "RESULTS_DIR", "RA_MLA_ABLATION_MODE"), "this command sets it"),
}
"""Settings that cannot be given."""


def main() -> int:
    parser = argparse.ArgumentParser(description="Compare what the code of two commits trains, to the bit.")
    parser.add_argument("a", metavar="A", help="the commit before")
    parser.add_argument("b", metavar="B", help="the commit after")
    parser.add_argument("settings", metavar="SYMBOL=value", nargs="*", help="settings for both")
    parser.add_argument("--steps", help="names or numbers of ablation steps (default: all that both have)")
    parser.add_argument("--iters", type=int, default=20, help="optimizer steps of a run (default %(default)s)")
    parser.add_argument("--seeds", default="1", help="such as 1,2 (default %(default)s)")
    parser.add_argument("--continue-across", action="store_true", help="let B go on with what A left unfinished, too")
    args = parser.parse_intermixed_args()
    if args.iters < 2:
        raise UserError(f"--iters: {args.iters}: must be 2 or more")
    seeds = ",".join(map(str, parse_seeds(f"--seeds: {args.seeds!r}", args.seeds)))
    base = TINY | {"MAX_ITERS": str(args.iters), "ABLATION_SEEDS": seeds}
    given = _given(args.settings)
    if not given.keys() & {"DROPOUT", "ABLATION_SWEEP"}:
        base["ABLATION_SWEEP"] = "DROPOUT=0.0,0.1"

    with sigterm_is_ctrl_c(), checked_out(args.a) as a, checked_out(args.b) as b:
        refuse_unknown(given, (a, b))
        base["RA_MLA_ABLATION_STEPS"] = ",".join(common_steps(a, b, args.steps))
        runs = []
        for side in (a, b):
            print(f"{side.name} trains ({side.title})", flush=True)
            for symbol in sorted((base | given).keys() - side.symbols):
                print(f"note: {side.name} has no setting {symbol}, and is not given it")
            runs.append(train(side, side.known(base), side.known(given)))
        alone = {step: side.name for side, other in ((a, b), (b, a)) for step in side.steps if step not in other.steps}
        status = _report(f"{a.name} / {b.name}, each alone", compare_all(*runs), alone)
        _print_notes(a, b, *runs)
        if args.continue_across:
            print(f"\n{a.name} is interrupted in each run", flush=True)
            for run in runs[0]:
                interrupt(a, run, at_step=args.iters // 2)
            print(f"{b.name} goes on", flush=True)
            crossed = go_on(b, a, b.known(given))
            status |= _report(
                f"begun by {a.name} and gone on with by {b.name} / {b.name} alone", compare_rests(crossed, runs[1])
            )
    return status


def _given(settings: Sequence[str]) -> dict[str, str]:
    given = {setting.symbol: setting.value for setting in map(assignment, settings)}
    for symbol in NOT_FREE.keys() & given:
        raise UserError(f"command line: {symbol}={given[symbol]}: cannot be given; {NOT_FREE[symbol]}")
    return given


def _report(title: str, compared: Sequence[Compared], alone: Mapping[str, str] | None = None) -> int:
    """Print a row for each step, and below them where runs part. Returns the exit status."""
    table = Table("", title=f"\n{title}", title_justify="left", box=None, padding=(0, 1), pad_edge=False)
    for column in ("runs", "lines", "metrics", "weights", "identity"):
        table.add_column(column, no_wrap=True)
    for step, group in groupby(compared, key=lambda of: of.run.rpartition("/")[0]):
        runs = list(group)
        parted = set().union(*(of.partings for of in runs))
        cells = ("parts" if name in parted else "equal" for name in ("metrics", "weights", "identity"))
        table.add_row(step, str(len(runs)), str(sum(of.lines for of in runs)), *cells)
    for step, side in (alone or {}).items():
        table.add_row(step, "-", "-", f"only in {side}", "", "")
    console().print(table)
    partings = [(of.run, name, parting) for of in compared for name, parting in of.partings.items()]
    for run, name, parting in partings:
        print(f"{run} parts in {name}: {parting}")
    if partings:
        print(f"PARTED: {len({run for run, *_ in partings})} of {len(compared)} runs")
        return 1
    print(f"EQUAL to the bit: {len(compared)} runs")
    return 0


def _print_notes(a: Side, b: Side, runs_a: Mapping[str, Path], runs_b: Mapping[str, Path]) -> None:
    """Print what the verdict does not say."""
    for side, runs in ((a, runs_a), (b, runs_b)):
        for run, path in runs.items():
            for event in went_otherwise(path):
                print(f"note: {side.name}: {run}: {event}")
    new = sorted({key for run in runs_a for key in new_keys(runs_a[run], runs_b[run])})
    if new:
        print(f"note: {b.name} measures besides: {', '.join(new)}")


if __name__ == "__main__":
    run_command(main)
