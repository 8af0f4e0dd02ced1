"""A plan run where its configuration says: on this machine, or by Slurm. What is to be tuned is tuned first, and gates
are trained on noise last."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from gpt2.assignments import Assignment
from gpt2.base.errors import UserError
from harness.configure.arms import reference_among, references_of
from harness.configure.gate_noise import write_noise
from harness.configure.plan import Plan, Trials
from harness.configure.requests import asked_plan, requests
from harness.configure.slurm import slurm_config
from harness.configure.tuning import TUNED, add_choices, check_seeds, read_tuned
from harness.evidence.tuning import choose
from harness.launch import runner, slurm


def run_plan(plan: Plan, given: Sequence[Assignment] = (), *, began: float | None = None) -> int:
    """Run a plan. Returns 0 if every run is done, 1 if one failed, 130 if it was interrupted.

    `given`: the settings of a command line that are in the plan, for the record. `began`: when `make` did, by
    time.monotonic().

    Raises UserError before anything is run if it cannot be, and after tuning if that found nothing.
    """
    if plan.trials is not None:
        assert plan.study is not None
        _refuse_late_tuning(plan, plan.trials)
        runner.get_ready_to_run(plan)  # so that what is asked for is registered before the first trial
        add_choices(plan.directory, plan.study, plan.trials.runs, {})
        print(f"tuning first: {len(plan.trials.plan.runs)} runs in {plan.trials.plan.directory}", flush=True)
        if _train(plan.trials.plan, given, began) == 130:
            return 130
        plan, began = _tuned(plan), None
    status = _train(plan, given, began)
    if status == 130 or (status and not plan.keeps_going) or plan.gate_noise is None:
        return status
    for run in plan.gate_noise.arms:
        write_noise(run.config)
    n, directory = len(plan.gate_noise.runs), plan.gate_noise.directory
    print(f"gates on noise, which has nothing to learn: {n} run{'s' * (n > 1)} in {directory}", flush=True)
    return max(status, _train(plan.gate_noise, given, None))


def _train(plan: Plan, given: Sequence[Assignment], began: float | None) -> int:
    config = slurm_config(plan.base.symbols)
    if config is None:
        return runner.run_plan(plan, given, began=began)
    return slurm.run_plan(plan, config, given, began=began)


def _tuned(plan: Plan) -> Plan:
    """A plan with its arms at the best that their trials found, which is kept in tuned.json."""
    assert plan.trials is not None and plan.study is not None
    trials = plan.trials
    before = read_tuned(plan.directory, plan.study)
    add_choices(plan.directory, plan.study, trials.runs, choose(trials, before.choices if before else {}))
    tuned = read_tuned(plan.directory, plan.study)
    assert tuned is not None
    for arm, reference in ((arm, trials.references.get(arm)) for arm in trials.arms):
        choice = tuned.choices[arm]
        chosen = ", ".join(f"{symbol}={value}" for symbol, value in choice.settings.items())
        beside = f", beside {reference}" if reference else ""
        edge = f", at the edge of what was tried of {' and '.join(choice.at_edge)}" * bool(choice.at_edge)
        print(f"{arm}: {chosen}, from {trials.runs} runs{beside}{edge}", flush=True)
    runs = {run.name: run for run in asked_plan(plan.directory).runs}
    return replace(plan, runs=tuple(runs[run.name] for run in plan.runs), trials=None)


def _refuse_late_tuning(plan: Plan, trials: Trials) -> None:
    """Raise UserError where an arm that is to be tuned has begun without, others were tuned without it, or its trials
    would go by seeds that judge others."""
    assert plan.study is not None
    tuned = read_tuned(plan.directory, plan.study)
    known = tuned.choices if tuned else {}
    if requests(plan.directory):
        check_seeds((run.seed for run in trials.plan.runs), {run.seed for run in asked_plan(plan.directory).runs})
    for arm in known:
        steps = references_of(arm)
        if (late := reference_among(arm, steps, {*known, *trials.arms})) != reference_among(arm, steps, known):
            raise UserError(
                f"{plan.directory / TUNED}: {arm} was tuned before {late}, which it is to be compared with, and so not "
                "beside it: that is another experiment: choose another CONFIG_MODEL_NAME"
            )
    for run in plan.runs:
        if run.step in trials.arms and (run.path / "provenance.json").exists():
            raise UserError(
                f"{run.path}: has begun, and {run.step} is to be tuned first: that is another experiment: choose "
                "another CONFIG_MODEL_NAME"
            )
