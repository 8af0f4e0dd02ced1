"""Write text with a trained model.

python -m scripts.sample results/gpt2-ra-v5-quickstart/ra-v5-eager/seed-1 --prompt "def main" --tokens 200
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from pathlib import Path

import torch

from gpt2.base.errors import UserError, run_command
from gpt2.base.text import showable, shown
from gpt2.data.tokenizer import load_tokenizer
from gpt2.generate import cache_bytes_per_token, generate, stream_text
from gpt2.machine.device import select_device
from gpt2.run.load import load_model, recorded_tokenizer


def main() -> None:
    parser = argparse.ArgumentParser(description="Write text with a trained model.")
    parser.add_argument("model", type=Path, help="a run's directory, or a checkpoint")
    parser.add_argument("--prompt", default="", help="the document's beginning")
    parser.add_argument("--tokens", type=int, default=500, help="how many at most; a document may end before")
    parser.add_argument("--temperature", type=float, default=0.8, help="0: always the likeliest token")
    parser.add_argument("--top-k", type=int, help="draw from the k likeliest tokens only")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--no-cache", action="store_true", help="compute every position anew for every token")
    parser.add_argument("--stats", action="store_true", help="say how fast it was and what the KV cache takes")
    parser.add_argument("--tokenizer", choices=("byte", "gpt2"), help="by default the one the run was trained with")
    parser.add_argument("--device", choices=("auto", "cuda", "mps", "cpu"), default="auto")
    args = parser.parse_args()
    if args.temperature < 0:
        raise UserError(f"--temperature {args.temperature}: must not be negative")
    if not math.isfinite(args.temperature):
        raise UserError(f"--temperature {args.temperature}: must be a finite number")
    if args.top_k is not None and args.top_k < 1:
        raise UserError(f"--top-k {args.top_k}: must be at least 1")
    if args.tokens < 0:
        raise UserError(f"--tokens {args.tokens}: must not be negative")
    if not -(2**63) <= args.seed < 2**64:
        raise UserError(f"--seed {shown(args.seed)}: must fit into 64 bits")
    if not _is_utf8(args.prompt):
        raise UserError(f"--prompt {shown(args.prompt)}: is not UTF-8")

    device = select_device(args.device)
    model = load_model(args.model).to(device)
    name = args.tokenizer or recorded_tokenizer(args.model)
    if name is None:
        raise UserError(f"{args.model}: no provenance.json beside it names a tokenizer; say --tokenizer byte or gpt2")
    tokenizer = load_tokenizer(name)
    if tokenizer.n_vocab > model.config.vocab_size:
        sizes = f"has {tokenizer.n_vocab} tokens and the model {model.config.vocab_size}"
        raise UserError(f"{args.model}: was not trained with the tokenizer {name}, which {sizes}")

    # Every document of a token file begins after `eot`.
    prompt = torch.tensor([[tokenizer.eot, *tokenizer.encode(args.prompt).tolist()]], device=device)
    tokens = generate(
        model,
        prompt,
        args.tokens,
        temperature=args.temperature,
        top_k=args.top_k,
        n_vocab=tokenizer.n_vocab,
        generator=torch.Generator(device).manual_seed(args.seed),
        use_cache=not args.no_cache,
    )
    print(_on_screen(args.prompt), end="", flush=True)
    start, pieces = time.perf_counter(), 0
    for piece in stream_text(tokenizer, (int(token) for token in tokens)):
        print(_on_screen(piece), end="", flush=True)
        pieces += 1
    print()
    if args.stats:
        count, seconds = pieces - 1, time.perf_counter() - start  # the last piece is what is left over
        cache = "no KV cache" if args.no_cache else f"KV cache {cache_bytes_per_token(model):,} bytes/token, measured"
        print(f"{count} tokens in {seconds:.2f} s, {count / seconds:.1f} tokens/s; {cache}", file=sys.stderr)


def _is_utf8(text: str) -> bool:
    """Whether an argument was: Python makes halves of surrogate pairs of bytes that are not."""
    return not any("\ud800" <= c <= "\udfff" for c in text)


def _on_screen(text: str) -> str:
    """What a model says, with the characters that a terminal would obey written as in Python; blanks stay."""
    return showable(text, keep="\n\t")


if __name__ == "__main__":
    run_command(main)
