"""List the sizes of ladders, as CONFIG_ABLATION_SIZES can name them.

python -m scripts.list_sizes
"""

from __future__ import annotations

from gpt2.base.errors import run_command
from gpt2.dotconfig import resolve
from harness.configure.kconfig import list_sizes, refuse_assignments

SHAPE = {"N_LAYER": "layers", "N_HEAD": "heads", "N_EMBD": "wide", "MAX_ITERS": "steps"}


def main() -> None:
    refuse_assignments("list-sizes")
    for size in list_sizes():
        assignments = size.assignments()
        symbols, decided = resolve(assignments).symbols, {a.symbol for a in assignments}
        if any(symbol.startswith("MODEL_GPT2") for symbol in decided):
            decided |= SHAPE.keys() - {"MAX_ITERS"}
        # What it leaves open is as the configuration has it.
        print(f"{size.name:12} {', '.join(f'{symbols[s]} {what}' for s, what in SHAPE.items() if s in decided)}")


if __name__ == "__main__":
    run_command(main)
