"""Train what `.config` asks for and is not yet done.

    python -m scripts.run
    python -m scripts.run --continue      # all that was ever asked of the experiment that was run last

Stop it any time with Ctrl-C. Exit status 1 if a run failed, 130 if interrupted.
"""

from __future__ import annotations

import argparse
import time

from gpt2.base.errors import run_command
from harness.configure.directories import last_experiment
from harness.configure.kconfig import command_line_assignments, refuse_assignments
from harness.configure.plan import configured_plan
from harness.configure.requests import asked_plan
from harness.configure.slurm import slurm_config
from harness.launch.launchers import get_ready


def main() -> int:
    began = time.monotonic()
    parser = argparse.ArgumentParser(description="Train what the configuration asks for and is not yet done.")
    parser.add_argument("--continue", dest="go_on", action="store_true", help="go on with the last experiment")
    go_on = parser.parse_args().go_on
    if go_on:
        refuse_assignments("continue")
        # Whether everything in it is taken was asked when it was started.
        plan, overrides = asked_plan(last_experiment()), []
    else:
        plan, overrides = configured_plan(), command_line_assignments()
    if not all(run.is_done for run in plan.all_runs) and slurm_config(plan.base.symbols) is None:
        get_ready()
    # torch takes seconds to import, and a mistake in the configuration should not have to wait for it.
    from harness.launch.launch import run_plan
    from harness.launch.status import print_status

    status = run_plan(plan, overrides, began=began)
    # Arms that have been tuned meanwhile have other settings than they had.
    print_status(asked_plan(plan.directory) if go_on else configured_plan())
    return status


if __name__ == "__main__":
    run_command(main)
