"""Train one configuration with one process and with several: tokens/s, memory, and how far the losses part.

    python -m scripts.benchmark_ranks --data DIR [--processes 1,2] [--steps 200] [--json FILE] [--figure FILE.png]
    python -m scripts.benchmark_ranks --data DIR --processes 1,1,2 PARALLEL_ZERO1=y

DIR holds token files as nanoGPT writes them; without it the tokens are bytes of Python's standard library. The batch is
the same for all. Settings are Kconfig's and may be given: GPT-2 124M in bfloat16, compiled, on a GPU; elsewhere a tiny
model in float32, eager. The first run is what the others stand beside: name 1 twice, and it stands beside itself.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory

from rich.table import Table

from gpt2.assignments import Assignment
from gpt2.base.errors import UserError, run_command
from gpt2.base.files import write_json
from gpt2.base.terminal import console
from gpt2.data.prepare import prepare
from gpt2.dotconfig import resolve
from gpt2.machine.device import device_name, select_device
from harness.configure.kconfig import assignment
from harness.measure.ranks import Beside, Trained, beside, draw, train
from harness.measure.timing import measured_on

ON_GPU = {"BATCH_SIZE": "16", "GRADIENT_ACCUMULATION_STEPS": "2", "COMPILE_MODEL": "y"}
ELSEWHERE = {
    "MODEL_CUSTOM": "y",
    "N_LAYER": "2",
    "N_HEAD": "4",
    "N_EMBD": "128",
    "BLOCK_SIZE": "128",
    "BATCH_SIZE": "4",
    "GRADIENT_ACCUMULATION_STEPS": "2",
    "EVAL_TOKENS": "10240",
    "DTYPE_FLOAT32": "y",
}


def main() -> None:
    parser = argparse.ArgumentParser(description="Train one configuration with one process and with several.")
    parser.add_argument("--data", help="directory of train.bin and val.bin, or of shards (default: bytes of stdlib)")
    parser.add_argument("--device", choices=("auto", "cuda", "cpu"), default="auto")
    parser.add_argument("--processes", type=_numbers, default=[1, 2], help="such as 1,2,4 (default 1,2)")
    parser.add_argument("--steps", type=int, default=200, help="default %(default)s; 40 at least")
    parser.add_argument("--json", type=Path, help="write figures and curves to this file")
    parser.add_argument("--figure", type=Path, help="draw the curves to this PNG file, and as SVG beside it")
    parser.add_argument("overrides", metavar="SYMBOL=value", nargs="*", help="any other setting")
    args = parser.parse_intermixed_args()
    if args.steps < 40:
        raise UserError(f"--steps: {args.steps}: must be 40 at least, of which every tenth is a line of the log")
    for flag, path in {"--json": args.json, "--figure": args.figure}.items():
        if path and not path.parent.is_dir():
            raise UserError(f"{flag}: {path}: there is no such directory")
    device = select_device(args.device)
    head = measured_on(device)
    with TemporaryDirectory() as folder:
        defaults = ON_GPU if device.type == "cuda" else ELSEWHERE
        defaults = defaults | {"WARMUP_ITERS": str(min(100, args.steps // 3)), "LOG_INTERVAL": "10", "DATA_DIR": folder}
        defaults |= {"MAX_ITERS": str(args.steps), "EVAL_INTERVAL": str(args.steps), "CHECKPOINT_INTERVAL": "0"}
        defaults |= {f"DEVICE_{device.type.upper()}": "y"}
        data = {"DATASET_BIN": "y", "DATASET_BIN_DIR": args.data} if args.data else {}
        given = [assignment(text) for text in args.overrides]
        symbols = {a.symbol for a in given}
        settings = [Assignment(s, v, "default") for s, v in (defaults | data).items() if s not in symbols] + given
        config = resolve([a for a in settings if not a.symbol.startswith("PARALLEL_")]).run_config()
        if not args.data:
            prepare(config.data)
        m, t = config.model, config.train
        print(
            f"{device_name(device)}: {m.n_layer} layers, {m.n_head} heads, width {m.n_embd}, {m.vocab_size} tokens; "
            f"B={t.batch_size} x {t.gradient_accumulation_steps}, T={m.block_size}, {t.dtype}, compile {t.compile}"
        )
        runs = []
        for number, processes in enumerate(args.processes, start=1):
            print(f"training {t.max_iters} steps with {processes}", flush=True)
            runs.append(train(settings, processes, Path(folder), number))
    others = [beside(runs[0], run) for run in runs[1:]]
    print("Median ± half the interquartile range over lines of the log. d: training loss minus the first run's.")
    console().print(_table(runs, others))
    if args.json:
        write_json(
            args.json,
            head
            | {"settings": {a.symbol: a.value for a in settings if a.symbol != "DATA_DIR"}}
            | {"runs": [asdict(run) for run in runs], "beside_the_first": [asdict(of) for of in others]},
        )
    if args.figure:
        draw(runs, args.figure)


def _numbers(text: str) -> list[int]:
    parts = text.split(",")
    if not all(part.isdecimal() and int(part) > 0 for part in parts):
        raise UserError(f"--processes: {text!r}: give numbers such as 1,2")
    return [int(part) for part in parts]


def _table(runs: Sequence[Trained], others: Sequence[Beside]) -> Table:
    table = Table("", box=None, padding=(0, 1), pad_edge=False)
    for column in ("ms/step", "tokens/s", "MFU", "GiB", "speed", "efficiency", "mean |d|", "max |d|", "val d"):
        table.add_column(column, justify="right", no_wrap=True)
    for run, of in zip(runs, (None, *others), strict=True):
        table.add_row(
            run.label,
            str(run.ms_per_step),
            f"{run.tokens_per_s.median:,.0f}",
            "-" if run.mfu is None else f"{run.mfu:.1%}",
            f"{run.peak_mem_gib:.2f}",
            *(() if of is None else (f"{of.speed:.3f}", f"{of.efficiency:.3f}")),
            *(() if of is None else (f"{of.mean_abs:.2g}", f"{of.max_abs:.2g}", f"{of.val_loss:+.2g}")),
        )
    return table


if __name__ == "__main__":
    run_command(main)
