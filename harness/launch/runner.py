"""Running what a plan asks for and is not yet done, on the devices that there are.

A finished run is not run again, an unfinished one is continued, a directory that holds another run is refused before
anything starts. A run that fails is reported and the others go on. Of several at once in one experiment each takes the
runs that nobody trains, and waits at the end for those of the others.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from gpt2.assignments import Assignment
from gpt2.base.errors import UserError
from gpt2.base.terminal import progress_bar
from gpt2.data.batches import check_eval_windows, check_windows
from gpt2.data.dataset import open_dataset
from gpt2.data.evaluation import open_eval_datasets
from gpt2.data.prepare import dataset_status, is_local, prepare
from gpt2.run.record import check_identity, code_state, run_identity
from gpt2.run.records import read_summary
from harness.configure.directories import remember_experiment
from harness.configure.plan import Plan, PlannedRun, running_order
from harness.configure.registration import register
from harness.configure.requests import record_request
from harness.evidence.digests import Digests, SummaryTable
from harness.evidence.launches import Launch
from harness.launch.pipeline import Pipeline
from harness.launch.prediction import predicted_wall_s
from harness.launch.slots import count_devices, slots
from harness.launch.terminal import LiveView


def run_plan(plan: Plan, given: Sequence[Assignment] = (), *, began: float | None = None) -> int:
    """Run a plan. Returns 0 if every run is done, 1 if one failed, 130 if it was interrupted.

    `given`: the settings of a command line that are in the plan, for the record. `began`: when `make` did, by
    time.monotonic().

    Raises UserError before anything is run if data is missing, or a directory holds another run, or a damaged one.
    """
    here = slots(plan)
    began = time.monotonic() if began is None else began
    identities, prepared_s = get_ready_to_run(plan)
    began += prepared_s
    open_runs = [run.name for run in plan.runs if not run.is_done]
    course = LiveView([(run.name, run.config.train.max_iters) for run in plan.runs], slots=len(here))
    with course as view, SummaryTable(plan.directory) as table:
        pipeline = Pipeline(
            running_order(plan.runs),
            here,
            view,
            identities=identities,
            given=[f"{a.symbol}={a.value}" for a in given],
            keep_going=plan.keeps_going,
            ended=table.run_ended,
        )
        is_finished = pipeline.run()
        if pipeline.trained:
            shares = {"devices": count_devices(here), "slots": len(here)}
            launch = Launch(
                **shares,
                runs=len(pipeline.trained),
                done={run.name: read_summary(run.path / "summary.json")["val_loss"] for run in pipeline.done},
                train_s=sum(running.train_s() for running in pipeline.trained),
                wall_s=time.monotonic() - began,
                ready_s=None if pipeline.trains_since is None else pipeline.trains_since - began,
                predicted_s=predicted_wall_s(plan.directory, runs=open_runs, **shares),
            )
            launch.record(plan.directory)
            view.say(launch.describe(", ".join(slot.name for slot in here)))
    if not is_finished:
        return 130
    return 1 if pipeline.failed else 0


def get_ready_to_run(plan: Plan, say: Callable[[str], object] = print) -> tuple[dict[Path, dict[str, Any]], float]:
    """What has to be before any of a plan is run, wherever: its data, and room for it.

    Returns identities by directory, and the seconds that preparing data took. Raises UserError if data is missing, or a
    directory holds another run, or a damaged one. What a study asks for is kept, and registered.
    """
    digests = Digests(plan.directory)
    for run in plan.runs:
        refuse_damage(run, digests)
    prepared_s = prepare_data(plan)
    # Opened once: the runs of a plan mostly share one data set.
    datasets = {config: open_dataset(config) for config in {run.config.data for run in plan.runs}}
    of_arms = {run.step: run_identity(run.config, datasets[run.config.data]) for run in plan.arms}
    identities = {run.path: of_arms[run.step] | {"SEED": run.seed} for run in plan.runs}
    for config, block_size in dict.fromkeys((run.config.data, run.config.model.block_size) for run in plan.runs):
        check_windows(datasets[config], block_size=block_size)
        check_eval_windows(open_eval_datasets(config), block_size=block_size)
    for run in plan.runs:
        check_identity(run.path, identities[run.path])
    digests.keep()
    if plan.study is not None:
        record_request(plan)
        remember_experiment(plan.directory)
        data = {f"{config.dataset}, {config.tokenizer}": dataset.hash for config, dataset in datasets.items()}
        if said := register(plan, code=code_state(), data=data):
            say(said)
    return identities, prepared_s


def refuse_damage(run: PlannedRun, digests: Digests) -> None:
    """Raise UserError where what a run has left cannot be read. `digests`: of its experiment."""
    if damage := digests.of(run.path, run.step, run.seed).damage:
        raise UserError(f"{damage}. Restore the file, or move {run.path} away to train this run again")


def prepare_data(plan: Plan) -> float:
    """Prepare the data sets of a plan that are made from what is on this machine. Returns the seconds that took.

    UserError where one is missing.
    """
    began = time.monotonic()
    for config in dict.fromkeys(run.config.data for run in plan.runs):
        ready, message = dataset_status(config)
        if ready:
            continue
        if not is_local(config):
            raise UserError(f"DATASET_{config.dataset.upper()}: {message}")
        with progress_bar(f"{config.dataset}, {config.tokenizer} tokens") as report:
            prepare(config, report)
    return time.monotonic() - began
