"""Convert a GPT-2 to initial weights of RA v5 or RA + MLA, and a trained RA v5 model back to a stock GPT-2.

    python -m scripts.convert_checkpoint_to_ra_v5 gpt2 gpt2-ra-v5.pt
    python -m scripts.convert_checkpoint_to_ra_v5 results/mine/ra-v5-eager/seed-1 mine-hf --to hf
    make convert IN=gpt2 OUT=gpt2-ra-v5.pt TO=ra_v5 R=8 LOW=least

IN: a Hugging Face GPT-2 (directory, or name on the hub), a nanoGPT ckpt.pt, a run's directory or a checkpoint of ours.
OUT: a checkpoint for CONFIG_INIT_FROM, or with --to hf a directory for transformers; never overwritten. The output of
the model stays the same, up to rounding; what cannot be converted so is refused.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from gpt2.attention.ra_ultimate_v5 import FOLDS, LOW_SLOTS
from gpt2.base.errors import UserError, run_command
from gpt2.exchange.convert import (
    read_model,
    run_settings,
    to_baseline,
    to_mla,
    to_ra_mla,
    to_ra_v5,
    vocab_size_without_padding,
    write_model,
)
from gpt2.exchange.hf import write_hf
from gpt2.model import GPT
from gpt2.symbols import padded
from harness.configure.kconfig import MAKE_VARIABLES, command_line_variables

TARGETS = {"ra_v5": ("R", "fold", "low"), "ra_mla": ("R",), "mla": (), "baseline": (), "hf": ("vocab_size",)}
"""What to convert to, and which of OPTIONS each takes."""

OPTIONS = {"R": "--R", "fold": "--fold", "low": "--low", "vocab_size": "--vocab-size"}


def main() -> None:
    args = parser().parse_args(sys.argv[1:] or make_arguments())
    options = {name: getattr(args, name) for name in OPTIONS if getattr(args, name) is not None}
    for name, value in options.items():
        if name not in TARGETS[args.to]:
            raise UserError(f"{OPTIONS[name]}={value}: --to {args.to} has no such option")
    if args.OUT.exists() or args.OUT.is_symlink():
        raise UserError(f"{args.OUT}: exists, and is not overwritten")
    if not args.OUT.parent.is_dir():
        raise UserError(f"{args.OUT}: there is no directory {args.OUT.parent}")
    model = read_model(args.IN)
    print(f"Read {args.IN}: {describe(model)}")
    if args.to == "hf":
        export(model, args.OUT, **options)
    else:
        convert = {"ra_v5": to_ra_v5, "ra_mla": to_ra_mla, "mla": to_mla, "baseline": to_baseline}[args.to]
        initialize(convert(model, **options), args.OUT, args.IN)


def parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        description="Convert a GPT-2 to RA v5 or RA + MLA, or a trained RA v5 model to a stock GPT-2, exactly."
    )
    parser.add_argument("IN", help="Hugging Face directory or hub name, nanoGPT or our checkpoint, run directory")
    parser.add_argument("OUT", type=Path, help="checkpoint to write; a directory with --to hf")
    parser.add_argument("--to", choices=TARGETS, default="ra_v5", help="(default: ra_v5)")
    parser.add_argument("--R", type=int, help="reciprocal dimensions per head (default: 4)")
    parser.add_argument("--fold", choices=FOLDS, help="of RA v5 (default: lerp)")
    parser.add_argument("--low", choices=LOW_SLOTS, help="energy that the low slot shall have (default: keep)")
    parser.add_argument("--vocab-size", type=int, help="tokens to keep (default: all but the padding of GPT-2's)")
    return parser


def make_arguments() -> list[str]:
    """The command line from the variables of make's: IN, OUT, and options in capitals."""
    variables = command_line_variables()
    flags = {flag.lstrip("-").replace("-", "_").upper(): flag for flag in ["--to", *OPTIONS.values()]}
    for name in variables:
        if name not in ("IN", "OUT", *flags, *MAKE_VARIABLES):
            raise UserError(f"make convert: {name}: is none of IN, OUT, {', '.join(flags)}")
    options = [f"{flag}={variables[name]}" for name, flag in flags.items() if name in variables]
    if not {"IN", "OUT"} <= variables.keys():
        raise UserError("make convert: say what and where to: make convert IN=gpt2 OUT=gpt2-ra-v5.pt")
    return [*options, "--", variables["IN"], variables["OUT"]]


def export(model: GPT, out: Path, *, vocab_size: int | None = None) -> None:
    """Write a stock GPT-2 and say what became of its vocabulary."""
    rows = model.config.vocab_size
    vocab_size = vocab_size_without_padding(model) if vocab_size is None else vocab_size
    if not 1 <= vocab_size <= rows:
        raise UserError(f"--vocab-size={vocab_size}: must be from 1 to {rows}, the rows of the embedding")
    baseline = to_baseline(model)
    write_hf(baseline, out, vocab_size=vocab_size)
    kept = f"all {rows} tokens kept" if vocab_size == rows else f"the first {vocab_size} of {rows} tokens kept"
    print(f"Wrote {out}: GPT2LMHeadModel, {kept}")


def initialize(model: GPT, out: Path, source: str) -> None:
    """Write initial weights and say what settings a run needs to start from them."""
    write_model(model, out, converted_from=source)
    print(f"Wrote {out}: {describe(model)}")
    padding = ", with padding" if model.config.vocab_size == padded(model.config.vocab_size) else ""
    print(f"Settings of a run that starts from it, on data with {model.config.vocab_size} tokens{padding}:")
    print(*run_settings(model, out), sep="\n")


def describe(model: GPT) -> str:
    """Variant and shape, in a line."""
    c = model.config
    return f"{c.attention}, {c.n_layer} layers, {c.n_head} heads, width {c.n_embd}, {model.num_params():,} parameters"


if __name__ == "__main__":
    run_command(main)
