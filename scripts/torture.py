"""Is anything lost, or false, when a make is killed? Kills one at moments and places of chance, again and again.

    python -m scripts.torture --kills 20
    python -m scripts.torture --kills 200 --workers 2 --json torture.json

Trains a tiny ablation in a folder of its own, with SIGKILL, SIGTERM and SIGINT to the trainer, the runner, the fork
server, make, make's group and all of them, at random moments and inside every write, rename, removal and lock. Each
trial is then left in peace, and has to end as one that was never struck: metrics, weights, summaries and report. Exit
status 1 where anything is lost, differs, is left or says what is not so; such a trial's folder stays.
"""

from __future__ import annotations

import argparse
import io
import shutil
import statistics
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from gpt2.base.errors import UserError, run_command
from gpt2.base.files import write_json
from gpt2.base.terminal import console
from harness.launch.signals import sigterm_is_ctrl_c
from harness.launch.status import print_status
from harness.measure.faults import TARGETS
from harness.measure.makes import SETTINGS
from harness.measure.places import PLACES
from harness.measure.timing import measured_on
from harness.measure.torture import MOMENT, SIGNALS, Kill, Tortured, torture


def main() -> int:
    parser = argparse.ArgumentParser(description="Kill makes at moments and places of chance; is anything lost?")
    parser.add_argument("--kills", type=int, default=20, help="default %(default)s")
    parser.add_argument("--seed", type=int, default=1, help="of what is struck, where and how (default %(default)s)")
    parser.add_argument("--workers", type=int, default=1, help="trials side by side (default %(default)s)")
    only = parser.add_mutually_exclusive_group()
    only.add_argument("--moments-only", action="store_true", help="at moments of chance only")
    only.add_argument("--places-only", action="store_true", help="inside writes, renames, removals and locks only")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all of it there")
    args = parser.parse_args()
    for name in ("kills", "workers"):
        if getattr(args, name) < 1:
            raise UserError(f"--{name}: {getattr(args, name)}: must be 1 or more")
    where = measured_on(torch.device("cpu"))
    folder = Path(tempfile.mkdtemp(prefix="torture-"))
    try:
        with sigterm_is_ctrl_c():
            tortured = torture(
                folder,
                kills=args.kills,
                seed=args.seed,
                workers=args.workers,
                look=lambda plan: print_status(plan, Console(file=io.StringIO())),
                places=[] if args.moments_only else PLACES,
                moments=not args.places_only,
                report=_progress,
            )
    except KeyboardInterrupt:
        shutil.rmtree(folder)
        raise
    _print(tortured)
    if args.json:
        head = {"measured_on": where, "seed": args.seed, "workers": args.workers, "settings": SETTINGS}
        write_json(args.json, {**head, **asdict(tortured)})
    if tortured.wrong:
        print(f"what is left of the trials lies in {folder}")
        return 1
    shutil.rmtree(folder)
    return 0


def _progress(tortured: Tortured) -> None:
    missed = f"{tortured.missed} makes were done before"
    wrong = f"{len(tortured.wrong)} things wrong"
    print(f"{len(tortured.kills)} kills in {tortured.trials} trials, {missed}, {wrong}", flush=True)


def _print(tortured: Tortured) -> None:
    kills = tortured.kills
    table = _table("kills by signal and target", [*TARGETS, "all"])
    for number in SIGNALS:
        of = [kill for kill in kills if kill.signal == number.name]
        table.add_row(
            number.name, *(str(sum(kill.target == target for kill in of)) for target in TARGETS), str(len(of))
        )
    stopped = [statistics.median([k.ended_s for k in kills if k.target == t] or [0.0]) for t in TARGETS]
    table.add_row("s until all is quiet", *(f"{seconds:.1f}" for seconds in stopped), "")
    console().print(table)

    table = _table("kills by place", ["kills", "of so many places", "signals"])
    table.add_row(MOMENT, *_cells([kill for kill in kills if kill.place == MOMENT], 0))
    for file in dict.fromkeys(place.file for place in PLACES):
        names = {place.name for place in PLACES if place.file == file}
        table.add_row(file, *_cells([kill for kill in kills if kill.place in names], len(names)))
    console().print(table)

    for what, found in (
        ("runs or work lost", tortured.lost),
        ("runs, summaries or reports that differ", tortured.differ),
        ("processes left, or not stopped", tortured.left),
        ("false or unreadable", tortured.false),
    ):
        print(f"{what}: {len(found)}")
        for line in found:
            print(f"  {line}")
    print(f"{len(kills)} kills in {tortured.trials} trials; {tortured.missed} makes were done before they were struck")


def _cells(kills: Sequence[Kill], places: int) -> tuple[str, str, str]:
    hit = len({kill.place for kill in kills})
    signals = ", ".join(sorted({kill.signal for kill in kills}))
    return str(len(kills)), f"{hit}/{places}" if places else "", signals


def _table(title: str, columns: Sequence[str]) -> Table:
    table = Table("", title=f"\n{title}", title_justify="left", box=None, padding=(0, 1), pad_edge=False)
    for column in columns:
        table.add_column(column, justify="left" if column == "signals" else "right", no_wrap=True)
    return table


if __name__ == "__main__":
    run_command(main)
