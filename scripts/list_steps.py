"""List the ablation steps, as CONFIG_RA_MLA_ABLATION_STEPS can name them.

python -m scripts.list_steps
"""

from __future__ import annotations

from gpt2.base.errors import run_command
from gpt2.dotconfig import resolve
from harness.configure.kconfig import list_steps, refuse_assignments


def main() -> None:
    refuse_assignments("list-steps")
    defaults = resolve().symbols
    for step in list_steps():
        settings = {**defaults, **{assignment.symbol: assignment.value for assignment in step.assignments()}}
        reference = str(settings["STEP_REFERENCE"]).replace(",", " or ")
        against = f", against {reference}" if reference else ""
        print(f"{step.number:2}  {step.name:18} {settings['STEP_TITLE'] or step.name}{against}")


if __name__ == "__main__":
    run_command(main)
