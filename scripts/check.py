"""Try out every run that `make` would train: build it, take one step on dummy tokens, see what it needs.

    python -m scripts.check

Nothing is trained or downloaded. One line per run; exit status 1 if any of them fails.
"""

from __future__ import annotations

from gpt2.base.errors import run_command
from harness.configure.plan import configured_plan


def main() -> int:
    plan = configured_plan()
    # torch takes seconds to import, and a mistake in the configuration should not have to wait for it.
    from harness.launch.check import print_checks

    return 1 if print_checks(plan) else 0


if __name__ == "__main__":
    run_command(main)
