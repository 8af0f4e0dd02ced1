"""What larger models, more GPUs and a thousand runs would take, from what was measured: the tables of docs/scaling.md.

    python -m scripts.scaling [--json results/cpu/scaling.json]

Nothing is measured. The figures that it starts from are read from results/h100/training-compiled.json and
training-b64.json, and results/cpu/planning.json; what is assumed is in the JSON, by name.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gpt2.base.errors import run_command
from gpt2.base.files import ROOT, write_json
from harness.launch.scaling import ASSUMED, Calibration, scaling

CALIBRATION = (ROOT / "results" / "h100", ROOT / "results" / "cpu" / "planning.json")


def main() -> None:
    parser = argparse.ArgumentParser(description="Carry what was measured to larger models and more GPUs, on paper.")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    args = parser.parse_args()
    calibration = Calibration.read(*CALIBRATION)
    answer = scaling(calibration, ASSUMED)
    print("\n\n".join(tables(answer, calibration)))
    if args.json:
        write_json(args.json, answer)


def tables(answer: dict[str, Any], calibration: Calibration) -> list[str]:
    """In Markdown: models, memory, a run on several GPUs, a thousand runs, planning."""
    memory: dict[str, dict[tuple[str, int, bool], dict[str, Any]]] = {}
    for row in answer["memory"]:
        key = row["strategy"], row["gpus"], row["activation_checkpointing"]
        memory.setdefault(row["model"], {})[key] = row
    inside: dict[str, dict[int, dict[str, Any]]] = {}
    for row in answer["one_run"]:
        inside.setdefault(row["model"], {})[row["gpus"]] = row
    kinds = [("DDP", 1), ("ZeRO-1", 8), ("FSDP2", 8), ("FSDP2", 64)]
    return [
        _table(
            ["model", "parameters", "FLOP/token", "tokens/s", "h for 1 B tokens", "recomputing"],
            [
                [
                    m["model"],
                    f"{m['parameters'] / 1e6:,.0f} M",
                    f"{m['flop_per_token']:.2e}",
                    f"{m['tokens_per_s'] / 1e3:,.0f} k",
                    f"{m['hours_per_billion_tokens']:.2f}",
                    f"{m['hours_per_billion_tokens_recomputing']:.2f}",
                ]
                for m in answer["models"]
            ],
        ),
        _table(
            ["GiB", *(f"{s}, {n} GPU{'s' * (n > 1)}" for s, n in kinds), "a sequence", "recomputing", "fit on one"],
            [
                [
                    name,
                    *(f"{of[s, n, False]['fixed_gib']:.1f}" for s, n in kinds),
                    f"{of['DDP', 1, False]['gib_per_sequence']:.2f}",
                    f"{of['DDP', 1, True]['gib_per_sequence']:.2f}",
                    f"{of['DDP', 1, False]['sequences']} or {of['DDP', 1, True]['sequences']}",
                ]
                for name, of in memory.items()
            ],
        ),
        _table(
            ["h for 1 B tokens", "1 GPU", "2", "4", "8", "8 x 8"],
            [
                [
                    name,
                    *(
                        f"{row['hours_per_billion_tokens_all_hidden']:.3g} to "
                        f"{row['hours_per_billion_tokens_none_hidden']:.3g}"
                        if n > 1
                        else f"{row['hours_per_billion_tokens_all_hidden']:.3g}"
                        for n, row in of.items()
                    ),
                ]
                for name, of in inside.items()
            ],
        ),
        _table(
            ["model", "tokens a run", "h a run", "wall", "GPU h", "efficiency", "FLOP", "MWh", "TB: all", "weights"],
            [
                [
                    r["model"],
                    f"{r['tokens_per_run'] / 1e9:.1f} B",
                    f"{r['hours_per_run']:.1f}",
                    f"{r['wall_h']:,.0f} h",
                    f"{r['gpu_hours']:,.0f}",
                    f"{r['efficiency']:.3f}",
                    f"{r['flop']:.1e}",
                    f"{r['mwh']:.1f}",
                    f"{r['disk_all_tb']:.1f}",
                    f"{r['disk_weights_tb']:.1f}",
                ]
                for r in answer["ablations"]
            ],
        ),
        _table(
            ["runs", "plan", "status, none done", "all done", "all done, first look", "summary.csv", "report reads"],
            [
                [
                    f"{runs:,}",
                    *(
                        f"{row[key]:.2f} s"
                        for key in ("plan_s", "status_pending_s", "status_done_s", "status_first_s", "summary_again_s")
                    ),
                    f"{row['report_load_s']:.1f} s",
                ]
                for runs, row in calibration.planning.items()
            ],
        ),
    ]


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return "\n".join(f"| {' | '.join(cells)} |" for cells in [head, ["---"] * len(head), *rows])


if __name__ == "__main__":
    run_command(main)
