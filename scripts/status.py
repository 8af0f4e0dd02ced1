"""The table of runs that `.config` asks for, and how far each has come.

python -m scripts.status
"""

from __future__ import annotations

from gpt2.base.errors import run_command
from harness.configure.plan import configured_plan
from harness.launch.status import print_status


def main() -> None:
    print_status(configured_plan())


if __name__ == "__main__":
    run_command(main)
