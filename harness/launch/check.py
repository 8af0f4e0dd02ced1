"""`make check`: every planned run tried out on the CPU before hours are spent on it."""

from __future__ import annotations

import functools
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from gpt2.base.errors import UserError, one_line
from gpt2.base.files import check_can_hold, existing_parent
from gpt2.base.numbers import decimal
from gpt2.base.text import shown
from gpt2.checks.compiler import cpu_compile_error
from gpt2.checks.dry_run import DryRun, dry_run
from gpt2.config import RunConfig
from gpt2.data.batches import check_eval_windows, check_windows
from gpt2.data.dataset import open_dataset
from gpt2.data.evaluation import open_eval_datasets
from gpt2.data.prepare import dataset_status, preview
from gpt2.machine import products, sdpa
from gpt2.machine.device import select_device, slow_precision
from gpt2.model import GPT
from gpt2.run.record import check_identity, run_identity
from gpt2.run.records import identity_beside, read_provenance
from harness.configure.plan import Plan, PlannedRun
from harness.configure.slurm import slurm_config
from harness.evidence.digests import Digests
from harness.launch import slurm
from harness.launch.launchers import compiler_cache
from harness.launch.runner import refuse_damage


@dataclass(frozen=True, kw_only=True)
class Check:
    """How a planned run did."""

    run: PlannedRun
    result: DryRun | None
    """None if it failed."""

    data: str
    """Whether its data is there, or what will make it so."""

    error: str | None
    """Why it failed, one line."""


def check_plan(plan: Plan) -> Iterator[Check]:
    """Dry-run every run of a plan, going on after failures.

    Runs of one shape are one model, and are tried once.
    """
    tried: dict[tuple[str, int, str, bool], DryRun | str] = {}
    known = {stage.directory: Digests(stage.directory) for stage in plan.stages}
    for run in plan.runs_on_data:
        t = run.config.train
        key = (run.shape, t.processes, t.parallel, t.activation_checkpointing)
        if key not in tried:
            tried[key] = _try(run)
        outcome, data = tried[key], ""
        try:
            data = describe_data(run.config)
            if isinstance(outcome, DryRun):
                look_at_place(run, known[run.path.parents[1]])
        except UserError as error:
            outcome = str(error)
        except OSError as error:
            outcome = f"{error.filename or run.path}: {error.strerror}"
        if isinstance(outcome, DryRun):
            yield Check(run=run, result=outcome, data=data, error=None)
        else:
            yield Check(run=run, result=None, data=data, error=outcome)
    for digests in known.values():
        digests.keep()


def describe_data(config: RunConfig) -> str:
    """What is known of a run's data, in a line.

    Raises UserError where it can be neither opened nor prepared, or does not fill a sequence of training or evaluation.
    """
    others = open_eval_datasets(config.data)
    check_eval_windows(others, block_size=config.model.block_size)
    ready, line = dataset_status(config.data)
    if not ready:
        _look_at_directory(Path(config.data.data_dir), "DATA_DIR")
    dataset = open_dataset(config.data) if ready else preview(config.data)
    if dataset is None:
        return line
    check_windows(dataset, block_size=config.model.block_size)
    facts = [line, *(f"{name} {len(of.val):,} validation tokens" for name, of in others.items())]
    if config.train.eval_tokens >= dataset.val_tokens:
        facts.append(f"EVAL_TOKENS={config.train.eval_tokens} is more than there are: all of validation is evaluated")
    if dataset.vocabulary.unknown is not None:
        facts.append(f"bits per byte unknown: {dataset.vocabulary.unknown}")
    return "; ".join([*facts, *dataset.warnings])


def print_checks(plan: Plan) -> int:
    """Dry-run a plan, a line per run and one for the whole. Returns how many failed."""
    runs = plan.runs_on_data
    width = max(len(run.name) for run in runs)
    failed = 0
    disk = more = flops = memory = 0.0
    data: dict[str, None] = {}
    for check in check_plan(plan):
        if check.result is None:
            failed += 1
            print(f"FAIL  {check.run.name:{width}}  {shown(check.error, 1000)}", flush=True)
            continue
        train = check.run.config.train
        print(f"ok    {check.run.name:{width}}  {check.result.describe(train)}", flush=True)
        kept, while_it_trains = check.result.checkpoints_gib(train)
        disk += kept
        more = max(more, while_it_trains)
        flops += train.max_iters * check.result.flops_per_iter
        memory = max(memory, check.result.memory_gib)
        data[check.data] = None
    for line in data:
        print(f"data: {line}")
    for line in (*precision_notes(plan), *schedule_notes(plan), *slurm_notes(plan)):
        print(f"note: {line}")
    print(
        f"{len(runs)} runs, {failed} failed; in all {flops:.3g} FLOP, {decimal(disk, 1)} GiB of checkpoints, and up "
        f"to {decimal(more, 1)} GiB more for each that is being trained, at most about {decimal(memory, 1)} GiB of "
        "GPU memory",
        flush=True,
    )
    return failed


def precision_notes(plan: Plan) -> list[str]:
    """What is to be said of runs whose precision does not fit the device that they would have here."""
    asked = dict.fromkeys((run.config.train.device, run.config.train.dtype) for run in plan.all_runs)
    # A device that is named and not here will be where the runs are trained.
    here = {device: select_device(device) for device, _ in asked if device in ("auto", "cpu")}
    notes = (slow_precision(here[device], dtype) for device, dtype in asked if device in here)
    return list(dict.fromkeys(note for note in notes if note))


def schedule_notes(plan: Plan) -> list[str]:
    """What is to be said of runs that would end in their warm-up: they train, at less than LEARNING_RATE."""
    lengths = dict.fromkeys((run.config.optimizer.warmup_iters, run.config.train.max_iters) for run in plan.all_runs)
    return [
        f"WARMUP_ITERS={warmup} is more than MAX_ITERS={iters}: the run ends in its warm-up, below LEARNING_RATE"
        for warmup, iters in lengths
        if warmup > iters
    ]


def slurm_notes(plan: Plan) -> list[str]:
    """What keeps this machine from submitting a plan that is Slurm's: it may be no place to do so."""
    if slurm_config(plan.base.symbols) is None:
        return []
    try:
        slurm.require()
    except UserError as error:
        return [str(error)]
    return []


def _try(run: PlannedRun) -> DryRun | str:
    try:
        result = dry_run(run.config)
        if _trains_on_cpu(run):
            _look_at_compiler(run)
            _look_at_kernels(run)
    except Exception as error:  # whatever an arm does wrong is this arm's failure: the others are still tried
        return str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {one_line(error)}"
    return result


def _look_at_compiler(run: PlannedRun) -> None:
    """Raise UserError if torch could not compile for the CPU on which the run would train here."""
    t = run.config.train
    if t.compile == "none":
        return
    cache = compiler_cache(run)
    if reason := _cpu_compile_error(cache, os.environ.get("PATH")):
        raise UserError(
            f"COMPILE_{t.compile.upper()}=y: torch cannot compile for this CPU in {cache}: {reason}; it needs g++, "
            "and a path without blanks; COMPILE_NONE=y needs neither"
        )


def _look_at_kernels(run: PlannedRun) -> None:
    """Raise UserError if the CPU on which the run would train here has not the products or the kernel that it names."""
    t = run.config.train
    cpu = torch.device("cpu")
    products.request(t.products, cpu, t.dtype)  # which has torch's alone
    if t.sdpa_kernel == sdpa.AUTO:
        return
    sdpa.request(t.sdpa_kernel, cpu, t.dtype)
    try:
        one_layer = GPT(run.config.model.shortened(1), seed=t.seed)
        sdpa.kernels_of(one_layer, cpu, t.dtype, kernel=t.sdpa_kernel)
    finally:
        sdpa.request(sdpa.AUTO, cpu, t.dtype)


def _trains_on_cpu(run: PlannedRun) -> bool:
    """Whether the run would train on the CPU of this machine."""
    accelerated = torch.cuda.is_available() or torch.backends.mps.is_available()
    device = run.config.train.device
    return device == "cpu" or (device == "auto" and not accelerated)


@functools.cache
def _cpu_compile_error(cache: Path, path: str | None) -> str | None:
    return cpu_compile_error(cache)


def _look_at_directory(path: Path, symbol: str) -> None:
    """Raise UserError if a directory could not be made or written to; `symbol` says where it is."""
    there = existing_parent(path)
    if not there.is_dir():
        raise UserError(f"{there}: is in the way of {path}; choose another CONFIG_{symbol}, or move it")
    check_can_hold(there)


def look_at_place(run: PlannedRun, digests: Digests) -> None:
    """Raise UserError if the run's directory cannot be made or written to, or holds another run, or a damaged one."""
    _look_at_directory(run.path, "MODEL_NAME")
    refuse_damage(run, digests)
    provenance = run.path / "provenance.json"
    recorded = read_provenance(provenance)["identity"] if provenance.exists() else {}
    if recorded and dataset_status(run.config.data)[0]:
        identity = run_identity(run.config, open_dataset(run.config.data))
    else:  # of the data there is nothing to say yet
        identity = identity_beside(run.config, recorded)
    check_identity(run.path, identity)
