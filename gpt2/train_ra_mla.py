"""Train one GPT-2 from one resolved `.config`.

    python gpt2/train_ra_mla.py --config .config --out results/mine
    python gpt2/train_ra_mla.py --config .config --dry-run

The run directory is described in docs/results.md. A directory that holds an unfinished run of the same settings is
continued from its newest whole checkpoint; one that holds another run is refused. Exit status: 0 finished, 1 failed
(the loss or a gradient stopped being finite), 2 not as asked, 130 interrupted (a checkpoint was left).
"""

from __future__ import annotations

import argparse
import itertools
import sys
from collections.abc import Iterator
from contextlib import closing, nullcontext
from pathlib import Path
from typing import NoReturn

if not __package__:  # run as a file: Python put gpt2/ itself first, where `import gpt2.x` finds nothing
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

import torch
from torch import Tensor, nn

from gpt2 import dotconfig
from gpt2.base.errors import UserError, one_line, run_command
from gpt2.checks.dry_run import dry_run
from gpt2.config import RunConfig
from gpt2.data.batches import Batch, EvalSet
from gpt2.data.dataset import open_dataset
from gpt2.machine import sdpa
from gpt2.machine.device import autocast, device_name, select_device, slow_precision
from gpt2.machine.ranks import ALONE, Ranks, is_rank, join
from gpt2.machine.sharing import SharedDevice, machine_wide
from gpt2.optimizer import learning_rate, set_lr
from gpt2.run.agreement import AgreedStop, MeetingPlace, RankError
from gpt2.run.clock import process_age_s
from gpt2.run.directory import beginning, hold, is_done
from gpt2.run.evaluation import Losses, is_due
from gpt2.run.lock import RunLock
from gpt2.run.nonfinite import NonFiniteError
from gpt2.run.parts import Parts
from gpt2.run.processes import train_in_ranks
from gpt2.run.record import check_identity, run_identity
from gpt2.run.records import Event
from gpt2.run.run import Run
from gpt2.run.stop import Stop
from gpt2.run.warm_up import compile_and_warm_up, get_ready_beside


def main() -> int:
    parser = argparse.ArgumentParser(description="Train one GPT-2 from one resolved .config.")
    parser.add_argument("--config", type=Path, required=True, help="a complete .config")
    parser.add_argument("--out", type=Path, help="the run's directory")
    parser.add_argument("--dry-run", action="store_true", help="build the model and take one step on dummy tokens")
    parser.add_argument("--stop-with-parent", action="store_true", help="stop when the pipe that is stdin is closed")
    parser.add_argument("--lock-fd", type=int, help="of the lock on --out that whoever started this has taken")
    parser.add_argument("--turn", type=int, help="train when this turn on the device is free; without, at once")
    parser.add_argument("--turns", type=Path, help="where turns are kept (default: GPUs', for all of this machine)")
    parser.add_argument("--record", nargs="+", default=[], help="SYMBOL=value of a command line, to be noted down only")
    args = parser.parse_args()
    resolved = dotconfig.load(args.config)
    config = resolved.run_config()
    if args.dry_run:
        print(dry_run(config).describe(config.train))
        return 0
    if args.out is None:
        raise UserError("--out: name the directory to write the run to (or give --dry-run)")
    stop = Stop(with_parent=args.stop_with_parent)
    stop.install()
    if stop.requested:  # before it has begun
        raise KeyboardInterrupt
    if is_rank() and config.train.processes > 1:
        train_as_rank(resolved, args, stop)
    with hold(args.out, args.lock_fd) as lock:
        lock.keep()
        with beginning(args.out):
            if has_finished(config, args.out):
                return 0
            device = select_device(config.train.device)
            if config.train.processes > 1:
                given = ["--record", *args.record] if args.record else []
                arguments = ["--config", str(args.config), "--out", str(args.out), *given]
                # Kept for the ranks by this process: one wait for all of their devices, in one order.
                gpus = range(config.train.processes) if device.type == "cuda" else ()
                for share in (share_of(torch.device("cuda", i), config, args) for i in gpus):
                    share.keep_turn(lambda: print("waits for its devices", flush=True))
                return train_in_ranks(Path(__file__), arguments, config.train.processes, args.out, lock.fd, stop)
            run = begin(resolved, args, lock, share=share_of(device, config, args))
        status = train(run, stop)
    return STATUS[status]


def begin(
    resolved: dotconfig.Resolved,
    args: argparse.Namespace,
    lock: RunLock | None,
    *,
    ranks: Ranks = ALONE,
    share: SharedDevice | None,
) -> Run:
    """The run in its directory, with its configuration. `lock`: on that; None where another rank holds it."""
    run = Run(resolved.run_config(), args.out, given=args.record, ranks=ranks, share=share)
    if lock is not None:
        if lock.took_over:
            run.differs("taken_over", lock.took_over)
        resolved.write(args.out / "config")
    return run


def share_of(device: torch.device, config: RunConfig, args: argparse.Namespace) -> SharedDevice:
    """This process's share in a device, as the runner that has started it says."""
    turns = args.turns or (machine_wide() if device.type == "cuda" else None)
    return SharedDevice(turns, device, slot=args.turn, alone=config.train.alone)


STATUS = {"done": 0, "failed": 1, "interrupted": 130}
"""Exit status by that of the summary."""


def has_finished(config: RunConfig, out: Path) -> bool:
    """Whether the run there is this one, and done; says so. UserError if it is another one, and done."""
    is_finished = is_done(out) and check_identity(out, run_identity(config, open_dataset(config.data)))
    if is_finished:
        print(f"{out}: has finished already")
    return is_finished


def train_as_rank(resolved: dotconfig.Resolved, args: argparse.Namespace, stop: Stop) -> NoReturn:
    """Train as one of several processes. The first holds the directory and writes; all end together, or at once."""
    config, out = resolved.run_config(), args.out
    place = MeetingPlace(out)
    try:
        ranks = join(config.train.device, config.train.processes)
        agreed = AgreedStop(ranks, place, wish=stop)
        with hold(out, args.lock_fd) if ranks.is_first else nullcontext() as lock:
            if lock is not None:
                lock.keep()
            if ranks.from_first(lambda: has_finished(config, out)):
                status = "done"
            else:
                with beginning(out) if ranks.is_first else nullcontext():
                    device = select_device(config.train.device)
                    # On a processor, all of them are on one device.
                    share = share_of(device, config, args) if device.type == "cuda" else None
                    run = begin(resolved, args, lock, ranks=ranks, share=share)
                status = train(run, agreed)
            ranks.gather(status)  # the others are as far as that
        agreed.leave()
    except BaseException as error:
        place.fail(error)
    place.end(STATUS[status] if ranks.is_first else 0)


def train(run: Run, stop: Stop) -> str:
    """Train to the last step, or until asked to stop. Returns the status that summary.json has."""
    parts, t = run.parts, run.config.train
    try:
        run.event("start", f"{parts.model.num_params():,} parameters on {device_name(parts.device)}")
        if run.ranks.world_size > 1:
            run.event("ranks", "{processes} processes, nodes: {nodes}, {strategy}".format(**run.parallel()))
        warnings: list[tuple[Event, str]] = [("data", line) for line in parts.dataset.warnings]
        if slow := slow_precision(parts.device, t.dtype):
            warnings.append(("slow_precision", slow))
        if other := sdpa.differs(t.sdpa_kernel, parts.sdpa_ran, parts.device, t.dtype):
            warnings.append(("sdpa", other))
        for event, line in warnings:
            if line not in run.progress.events:  # of the process before this one
                run.differs(event, line)
        if t.compile != "none":
            run.event("compile", f"compiling: {t.compile}, {t.compile_mode}")
        is_ready = get_ready_beside(parts, run.share, run.differs)
        if not is_ready:
            run.event("memory", "does not fit beside the run that trains: gets ready when that has ended")
        with closing(parts.batches(run.step)) as stream:
            first = next(stream)  # and the thread that makes the others works ahead
            run.take_turn()
            if not is_ready:
                compile_and_warm_up(parts, run.differs)
            stop.defer()
            run.startup_s = process_age_s() - run.waited_s
            run.event("training", f"steps {run.step} to {t.max_iters}")
            is_done = loop(run, itertools.chain([first], stream), stop)
        # The next run may have the device. What is left is the disk's.
        run.share.leave()
        run.wait_until_saved()
        if not is_done:
            left = f"left a checkpoint at step {run.step}" if run.checkpoints else "before the first step"
            run.event("interrupted", f"{stop.requested}: {left}")
        status, error = "done" if is_done else "interrupted", None
    except NonFiniteError as failure:
        status, error = "failed", str(failure)
        run.event("nonfinite", error)
    except torch.OutOfMemoryError as failure:
        status, error = "failed", f"{one_line(failure)}; try a smaller BATCH_SIZE and more GRADIENT_ACCUMULATION_STEPS"
        if run.ranks.world_size > 1:
            raise RankError(error) from None  # the others are somewhere else
        run.event("out_of_memory", error)
    except Exception as failure:
        # A mistake in the code. The summary says that the run failed, and the log keeps where.
        if run.ranks.world_size == 1:
            run.finish("failed", f"{type(failure).__name__}: {one_line(failure)}")
        raise
    status = run.finish(status, error)
    run.journal.close()
    return status


def loop(run: Run, stream: Iterator[list[Batch]], stop: Stop) -> bool:
    """Take the steps that are left. Returns whether all are taken; if not, it was asked to stop.

    What is logged at a step depends on the step alone, wherever the run has been stopped, or killed, in between.
    """
    parts, progress, t = run.parts, run.progress, run.config.train
    save_due = False
    while True:
        if run.step == 0:
            run.log_gates()
        is_last = run.step == t.max_iters
        if progress.val_step != run.step and is_due(run.step, t):
            with progress.eval_clock.running():
                losses = evaluate(parts, stop)
            if losses is not None:
                run.log_evaluation(losses)
        if save_due:
            run.save()
        is_done = is_last and progress.val_step == run.step
        if is_done or stop.requested:
            break

        # Between two looks at what it has done, the device never waits for the host.
        progress.clock.start()
        while True:
            set_lr(parts.optimizer, learning_rate(run.step, t.max_iters, run.config.optimizer))
            run.count(train_step(parts, next(stream), step=run.step))
            is_last = run.step == t.max_iters
            log_due = is_last or run.step % t.log_interval == 0
            save_due = is_last or (t.checkpoint_interval > 0 and run.step % t.checkpoint_interval == 0)
            if log_due or save_due or is_due(run.step, t) or stop.requested:
                break
        progress.clock.stop()
        run.read()
        if log_due:
            run.log()
    if not run.is_saved:
        run.save()
    return is_done


def train_step(parts: Parts, micro_batches: list[Batch], *, step: int) -> Tensor:
    """One optimizer step. Returns the loss of this rank's micro-batches and the gradient norm, [2], on the device.

    Where the gradient is not finite, no weight changes: what went wrong can then still be found out.
    """
    c = parts.config
    loss_sum = torch.zeros((), device=parts.device)
    for i, (x, y) in enumerate(micro_batches, start=1):
        with parts.micro_batch(step, i - 1, is_last=i == len(micro_batches)):
            with autocast(parts.device, c.train.dtype):
                loss = parts.loss(x, y) / len(micro_batches)
            parts.scaler.scale(loss).backward()
        loss_sum += loss.detach()
    parts.scaler.unscale_(parts.optimizer)
    norm = nn.utils.clip_grad_norm_(parts.parameters, c.optimizer.grad_clip or float("inf"))
    norm = parts.shared.whole(norm)
    if not parts.scaler.is_enabled():
        # What GradScaler does, for every precision: the fused kernel leaves everything as it is if this is 1.
        parts.shared.stepping.found_inf = (~norm.isfinite()).float()
    parts.scaler.step(parts.optimizer)
    parts.scaler.update()
    if parts.average is not None:
        parts.average.update(step + 1)
    parts.zero_grad()
    return torch.stack([loss_sum, norm])


def evaluate(parts: Parts, stop: Stop) -> Losses | None:
    """The losses of an evaluation; None where it was asked to stop."""
    val_loss = mean_loss(parts, parts.eval_set, stop)
    val_losses = {name: mean_loss(parts, of, stop) for name, of in parts.eval_sets.items()}
    ema_val_loss = None
    if parts.average is not None:
        with parts.average.in_place():
            ema_val_loss = mean_loss(parts, parts.eval_set, stop)
    made = {name: loss for name, loss in val_losses.items() if loss is not None}
    if val_loss is None or len(made) < len(val_losses) or (parts.average is not None and ema_val_loss is None):
        return None
    return Losses(val_loss=val_loss, ema_val_loss=ema_val_loss, val_losses=made)


@torch.no_grad()
def mean_loss(parts: Parts, of: EvalSet, stop: Stop) -> float | None:
    """Mean loss per target of an evaluation, of all ranks' batches; None where it was asked to stop."""
    parts.model.eval()
    batches, losses = of.dealt(parts.ranks.rank, parts.ranks.world_size), []
    for x, y in batches:
        if stop.requested:
            break
        parts.mark_pass()
        with autocast(parts.device, parts.config.train.dtype):
            loss = parts.loss(x, y)
        losses.append(loss.clone())
    parts.model.train()
    if len(losses) < len(batches):
        return None
    of_ranks = parts.ranks.gather(torch.stack(losses).tolist())
    return of.mean(of.put_together(of_ranks))


if __name__ == "__main__":
    run_command(main)
