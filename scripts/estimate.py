"""What will `make` take? Times a few steps of each arm on this machine, and says when the ablation would be done, how
well it would use the devices, how they are best shared out, and what it would cost in FLOP, energy and disk.

    python -m scripts.estimate

Runs that are done are left out. <experiment>/estimate.json keeps it, for `make` to record beside what came to be.
Nothing is downloaded: where data is not there yet, random tokens of its vocabulary do. Exit status 1 if an arm fails.
"""

from __future__ import annotations

from gpt2.base.errors import run_command
from harness.configure.plan import configured_plan
from harness.launch.launchers import get_ready


def main() -> int:
    plan = configured_plan()
    if not all(run.is_done for run in plan.all_runs):
        get_ready()
    # torch takes seconds to import, and a mistake in the configuration should not have to wait for it.
    from harness.launch.estimate import print_estimates

    return 1 if print_estimates(plan) else 0


if __name__ == "__main__":
    run_command(main)
