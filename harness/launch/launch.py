"""A plan run where its configuration says: on this machine, or by Slurm. What is to be tuned is tuned first."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from gpt2.dotconfig import Assignment
from harness.configure.plan import Plan
from harness.configure.requests import asked_plan
from harness.configure.slurm import slurm_config
from harness.configure.tuning import Tuned, read_tuned, write_tuned
from harness.evidence.tuning import choose
from harness.launch import runner, slurm


def run_plan(plan: Plan, given: Sequence[Assignment] = (), *, began: float | None = None) -> int:
    """Run a plan. Returns 0 if every run is done, 1 if one failed, 130 if it was interrupted.

    `given`: the settings of a command line that are in the plan, for the record. `began`: when `make` did, by
    time.monotonic().

    Raises UserError before anything is run if it cannot be, and after tuning if that found nothing.
    """
    if plan.trials is not None:
        runner.get_ready_to_run(plan)  # so that what is asked for is registered before the first trial
        print(f"tuning first: {len(plan.trials.plan.runs)} trials in {plan.trials.plan.directory}", flush=True)
        if _train(plan.trials.plan, given, began) == 130:
            return 130
        plan, began = _tuned(plan), None
    return _train(plan, given, began)


def _train(plan: Plan, given: Sequence[Assignment], began: float | None) -> int:
    config = slurm_config(plan.base.symbols)
    return runner.run_plan(plan, given, began=began) if config is None else slurm.run_plan(plan, config, given)


def _tuned(plan: Plan) -> Plan:
    """A plan with its arms at the best that their trials found, which is kept in tuned.json."""
    assert plan.trials is not None and plan.study is not None
    known = read_tuned(plan.directory, plan.study)
    choices = {**(known.choices if known else {}), **choose(plan.trials)}
    write_tuned(plan.directory, Tuned(asked=plan.study.tune, seeds=plan.study.tune_seeds, choices=choices))
    for arm in plan.trials.arms:
        choice = choices[arm]
        chosen = ", ".join(f"{symbol}={value}" for symbol, value in choice.settings.items())
        edge = f", at the edge of what was tried of {' and '.join(choice.at_edge)}" * bool(choice.at_edge)
        print(f"{arm}: {chosen}, the best of {len(choice.trials)} trials{edge}", flush=True)
    runs = {run.name: run for run in asked_plan(plan.directory).runs}
    return replace(plan, runs=tuple(runs[run.name] for run in plan.runs), trials=None)
