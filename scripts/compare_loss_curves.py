"""Train our trainer's step and nanoGPT's from the same weights on the same batches: how far do their losses part?

    python -m scripts.compare_loss_curves --data DIR [--steps 300] [--seeds 1,2,3] [--json FILE] [--figure FILE.png]
    python -m scripts.compare_loss_curves --data DIR MODEL_CUSTOM=y N_LAYER=6 N_HEAD=8 N_EMBD=512 FUSED_LOSS=n

DIR holds token files as nanoGPT writes them. Settings are Kconfig's, with its defaults, and may be given: GPT-2 124M in
bfloat16, compiled, on a GPU; elsewhere a tiny model in float32, eager. The yardstick is nanoGPT beside itself, with
another order of rounding: eager, or a batch in halves where nothing is compiled.
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

import torch
from rich.table import Table

from gpt2.assignments import Assignment
from gpt2.base.errors import UserError, one_line, run_command
from gpt2.base.files import write_json
from gpt2.base.terminal import console
from gpt2.config import RunConfig
from gpt2.dotconfig import resolve
from gpt2.machine.device import device_name, select_device
from harness.configure.kconfig import assignment
from harness.configure.lists import parse_seeds
from harness.measure.loss_curves import (
    LAST,
    NANOGPT,
    OURS,
    YARDSTICK,
    Curves,
    Difference,
    check_comparable,
    difference,
    labels,
    over_seeds,
    train_curves,
)
from harness.measure.loss_curves_figure import draw_loss_curves
from harness.measure.timing import measured_on

ON_GPU = {"BATCH_SIZE": "32", "COMPILE_MODEL": "y"}
ELSEWHERE = {
    "MODEL_CUSTOM": "y",
    "N_LAYER": "2",
    "N_HEAD": "4",
    "N_EMBD": "128",
    "BLOCK_SIZE": "128",
    "BATCH_SIZE": "4",
    "EVAL_TOKENS": "10240",
    "DTYPE_FLOAT32": "y",
}


def main() -> None:
    parser = argparse.ArgumentParser(description="Compare our trainer's losses with nanoGPT's, step by step.")
    parser.add_argument("--data", required=True, help="directory of train.bin and val.bin, or of shards")
    parser.add_argument("--vocab-size", default="50257", help="distinct tokens (default %(default)s)")
    parser.add_argument("--device", choices=("auto", "cuda", "mps", "cpu"), default="auto")
    parser.add_argument("--steps", type=int, default=300, help="default %(default)s")
    parser.add_argument(
        "--seeds", type=lambda text: parse_seeds(f"--seeds: {text!r}", text), help="such as 1,2,3 (default 1)"
    )
    parser.add_argument("--batch-size", help="sequences in a batch (default 32 on CUDA, else 4)")
    parser.add_argument("--block-size", help="tokens in a sequence (default 1024 on CUDA, else 128)")
    parser.add_argument("--eval-tokens", help="validation tokens, 0 for all (default 655360 on CUDA, else 10240)")
    parser.add_argument("--json", type=Path, help="write curves and differences to this file")
    parser.add_argument("--figure", type=Path, help="draw them to this PNG file, and as SVG beside it")
    parser.add_argument("overrides", metavar="SYMBOL=value", nargs="*", help="any other setting")
    args = parser.parse_args()
    _check_outputs(args.json, args.figure)
    config = _config(args, select_device(args.device))
    device = select_device(config.train.device)
    head = measured_on(device)
    check_comparable(config)

    m, t = config.model, config.train
    print(
        f"{device_name(device)}: {m.n_layer} layers, {m.n_head} heads, width {m.n_embd}, {m.vocab_size} tokens; "
        f"B={t.batch_size}, T={m.block_size}, {t.dtype}; {t.max_iters} steps"
    )
    names = labels(config)
    curves = [_train(config, seed, device) for seed in args.seeds or [config.train.seed]]
    differences = [difference(of, arm) for of in curves for arm in (OURS, YARDSTICK)]
    if len(curves) > 1:
        differences += [over_seeds([d for d in differences if d.arm == arm]) for arm in (OURS, YARDSTICK)]
    print(f"d: training loss minus that of {names[NANOGPT]}, nats/token. Validation: loss after the last step.")
    console().print(_table(curves, differences, names))
    if args.json:
        write_json(
            args.json,
            head
            | {"config": asdict(config), "labels": names, "last": LAST}
            | {"curves": [asdict(of) for of in curves], "differences": [asdict(of) for of in differences]},
        )
    if args.figure:
        draw_loss_curves(curves, names, args.figure)


def _config(args: argparse.Namespace, device: torch.device) -> RunConfig:
    flags = {
        "--data": ("DATASET_BIN_DIR", args.data),
        "--vocab-size": ("VOCAB_SIZE", args.vocab_size),
        "--device": (f"DEVICE_{device.type.upper()}", "y"),
        "--steps": ("MAX_ITERS", str(args.steps)),
        "--batch-size": ("BATCH_SIZE", args.batch_size),
        "--block-size": ("BLOCK_SIZE", args.block_size),
        "--eval-tokens": ("EVAL_TOKENS", args.eval_tokens),
    }
    # A short run is not all warm-up.
    defaults = {"DATASET_BIN": "y", "WARMUP_ITERS": str(max(0, min(100, args.steps // 3)))}
    defaults |= ON_GPU if device.type == "cuda" else ELSEWHERE
    layers = (
        [Assignment(symbol, value, "default") for symbol, value in defaults.items()],
        [Assignment(symbol, value, flag) for flag, (symbol, value) in flags.items() if value is not None],
        [assignment(text) for text in args.overrides],
    )
    return resolve(*layers).run_config()


def _check_outputs(json: Path | None, figure: Path | None) -> None:
    """Before minutes of training, not after them."""
    for flag, path in {"--json": json, "--figure": figure}.items():
        if path and not path.parent.is_dir():
            raise UserError(f"{flag}: {path}: there is no such directory")
    if figure and figure.suffix != ".png":
        raise UserError(f"--figure: {figure}: must end in .png")


def _train(config: RunConfig, seed: int, device: torch.device) -> Curves:
    names = labels(config)
    config = dataclasses.replace(config, train=dataclasses.replace(config.train, seed=seed))
    try:
        return train_curves(config, device, lambda arm: print(f"seed {seed}: training {names[arm]}", flush=True))
    except torch.OutOfMemoryError as error:
        raise UserError(f"{one_line(error)}: try a --batch-size below {config.train.batch_size}") from None


def _table(curves: Sequence[Curves], differences: Sequence[Difference], names: Mapping[str, str]) -> Table:
    table = Table("seed", "", box=None, padding=(0, 1), pad_edge=False)
    for column in ("mean |d|", "max |d|", f"mean d, last {LAST}", "validation", "its d"):
        table.add_column(column, justify="right", no_wrap=True)
    for of in curves:
        table.add_row(str(of.seed), names[NANOGPT], "", "", "", f"{of.val_loss[NANOGPT]:.5f}", "")
        for d in differences:
            if d.seed == of.seed:
                table.add_row(str(d.seed), names[d.arm], *_cells(d, f"{of.val_loss[d.arm]:.5f}"))
    for d in differences:
        if d.seed is None:
            table.add_row("all", names[d.arm], *_cells(d, ""))
    return table


def _cells(d: Difference, val_loss: str) -> list[str]:
    return [f"{d.mean_abs:.2g}", f"{d.max_abs:.2g}", f"{d.last:+.2g}", val_loss, f"{d.val_loss:+.2g}"]


if __name__ == "__main__":
    run_command(main)
