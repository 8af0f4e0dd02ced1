"""List the sizes of ladders, as CONFIG_ABLATION_SIZES can name them.

python -m scripts.list_sizes
"""

from __future__ import annotations

from gpt2.base.errors import run_command
from harness.configure.kconfig import list_sizes, refuse_assignments


def main() -> None:
    refuse_assignments("list-sizes")
    for size in list_sizes():
        settings = {assignment.symbol: assignment.value for assignment in size.assignments()}
        shape = "{N_LAYER} layers, {N_HEAD} heads, {N_EMBD} wide, {MAX_ITERS} steps".format(**settings)
        print(f"{size.name:12} {shape}")


if __name__ == "__main__":
    run_command(main)
