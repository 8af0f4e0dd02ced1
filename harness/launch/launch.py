"""A plan run where its configuration says: on this machine, or by Slurm."""

from __future__ import annotations

from collections.abc import Sequence

from gpt2.dotconfig import Assignment
from harness.configure.plan import Plan
from harness.configure.slurm import slurm_config
from harness.launch import runner, slurm


def run_plan(plan: Plan, given: Sequence[Assignment] = (), *, began: float | None = None) -> int:
    """Run a plan. Returns 0 if every run is done, 1 if one failed, 130 if it was interrupted.

    `given`: the settings of a command line that are in the plan, for the record. `began`: when `make` did, by
    time.monotonic().

    Raises UserError before anything is run if it cannot be.
    """
    config = slurm_config(plan.base.symbols)
    return runner.run_plan(plan, given, began=began) if config is None else slurm.run_plan(plan, config, given)
