"""Train one GPT-2 from one resolved `.config`.

    python gpt2/train_ra_mla.py --config .config --out results/mine
    python gpt2/train_ra_mla.py --config .config --dry-run

The run directory is described in docs/results.md. A directory that holds an unfinished run of the same settings is
continued from its newest whole checkpoint; one that holds another run is refused. Exit status: 0 finished, 1 failed
(the loss or a gradient stopped being finite), 2 not as asked, 130 interrupted (a checkpoint was left).
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import math
import statistics
import sys
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

if not __package__:  # run as a file: Python put gpt2/ itself first, where `import gpt2.x` finds nothing
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

import torch
from torch import Tensor, nn

from gpt2 import dotconfig
from gpt2.base.errors import UserError, one_line, run_command
from gpt2.base.files import write_json
from gpt2.checks.dry_run import dry_run
from gpt2.config import RunConfig, identity_hash
from gpt2.data.batches import Batch, batches, eval_batches
from gpt2.data.dataset import open_dataset
from gpt2.machine.compilation import compile_attempts, compile_scope, uncompile
from gpt2.machine.device import (
    autocast,
    device_name,
    keep_freed_memory,
    peak_flops,
    peak_memory_gib,
    select_device,
    set_precision,
    synchronize,
)
from gpt2.model import GPT
from gpt2.optimizer import learning_rate, make_optimizer, set_lr
from gpt2.run.checkpoint import load_newest, save_checkpoint
from gpt2.run.clock import StepClock, process_age_s
from gpt2.run.load import load_initial_weights
from gpt2.run.nonfinite import first_nonfinite
from gpt2.run.record import Metrics, RunLock, add_resumption, check_identity, run_identity, write_provenance
from gpt2.run.stop import Stop
from gpt2.run.tracking import Trackers

# So many steps in a row that gradient scaling had to skip are no overflow but a run that has diverged: the scale has
# been halved for each of them, from 65536 to nothing.
MAX_OVERFLOWS_IN_A_ROW = 20


def main() -> int:
    parser = argparse.ArgumentParser(description="Train one GPT-2 from one resolved .config.")
    parser.add_argument("--config", type=Path, required=True, help="a complete .config")
    parser.add_argument("--out", type=Path, help="the run's directory")
    parser.add_argument("--dry-run", action="store_true", help="build the model and take one step on dummy tokens")
    parser.add_argument("--stop-with-parent", action="store_true", help="stop when the pipe that is stdin is closed")
    parser.add_argument(
        "--record-settings", nargs="+", default=[], help="what a command line set; --config has it, and this records it"
    )
    args = parser.parse_args()
    resolved = dotconfig.load(args.config)
    config = resolved.run_config()
    if args.dry_run:
        print(dry_run(config).describe())
        return 0
    if args.out is None:
        raise UserError("--out: name the directory to write the run to (or give --dry-run)")
    stop = Stop(with_parent=args.stop_with_parent)
    stop.install()
    if stop.requested:  # before it has begun
        raise KeyboardInterrupt
    args.out.mkdir(parents=True, exist_ok=True)
    lock = RunLock(args.out)
    try:
        run = Run(config, args.out, overrides=args.record_settings)
        resolved.write(args.out / "config")
        status = run.train(stop)
    finally:
        lock.release()
    return {"done": 0, "failed": 1, "interrupted": 130}[status]


class Run:
    """One training run in its directory: everything that the loop needs, and the loop.

    Raises UserError where something asked for cannot be had, or the directory holds another run.
    """

    def __init__(self, config: RunConfig, out: Path, *, overrides: Sequence[str] = ()) -> None:
        t = config.train
        self.config = config
        self.out = out
        self.dataset = open_dataset(config.data)
        self.device = select_device(t.device)
        identity = run_identity(config, self.dataset)
        self.config_hash = identity_hash(identity)
        goes_on = check_identity(out, identity)
        if not goes_on:
            write_provenance(
                out,
                device=self.device,
                dataset=self.dataset,
                identity=identity,
                config_hash=self.config_hash,
                overrides=overrides,
            )
        self.metrics = Metrics(out / "metrics.jsonl")
        self.trackers = Trackers(config, out)

        set_precision(t.tf32)
        if self.device.type == "cpu":
            keep_freed_memory()
        self.model = GPT(config.model, seed=t.seed)
        if t.init_from:
            load_initial_weights(self.model, t.init_from)
        self.model.to(self.device)
        self.parameters = list(self.model.parameters())
        self.optimizer = make_optimizer(self.model, config.optimizer, self.device.type)
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=t.dtype == "float16")
        self.eval_set = [(x.to(self.device), y.to(self.device)) for x, y in self._eval_batches()]
        self.flops_per_token = self.model.flops_per_token()
        self.peak_flops = peak_flops(self.device)

        self.step = 0
        """Optimizer steps done."""
        self.clock, self.eval_clock, self.save_clock = (StepClock(self.device) for _ in range(3))
        """Of training steps, of evaluation, of checkpoints."""
        self.earlier_wall_s = 0.0
        """Of the processes before this one."""
        self.startup_s: float | None = None
        """From the start of the process until it was ready for its first step."""
        self.laps: list[float] = []
        """ms per step of each log line."""
        self.overflows = 0
        self.overflows_in_a_row = 0
        self.train_loss = self.val_loss = float("nan")
        self.compiled, self.compile_mode = t.compile, t.compile_mode
        """What is compiled and how: as asked, until it turns out not to work."""
        self.events: list[str] = []
        """What went differently from what was asked."""
        self.checkpoint: Path | None = None
        if goes_on:
            self._resume()

    # The loop ---------------------------------------------------------------------------------------------------------

    def train(self, stop: Stop) -> str:
        """Train to the last step, or until asked to stop. Returns the status that summary.json has."""
        t = self.config.train
        self._event("start", f"{self.model.num_params():,} parameters on {device_name(self.device)}")
        status, error = "done", None
        try:
            self._compile_and_warm_up()
            stop.defer()
            self.startup_s = process_age_s()
            self._event("training", f"steps {self.step} to {t.max_iters}")
            with closing(self._batches()) as stream:
                self._loop(stream, stop)
            if self.step < t.max_iters:
                status = "interrupted"
                left = f"left a checkpoint at step {self.step}" if self.checkpoint else "before the first step"
                self._event("interrupted", f"{stop.requested}: {left}")
        except NonFiniteError as failure:
            status, error = "failed", str(failure)
            self._event("nonfinite", error)
        except torch.OutOfMemoryError as failure:
            advice = "try a smaller BATCH_SIZE and more GRADIENT_ACCUMULATION_STEPS"
            status, error = "failed", f"{one_line(failure)}; {advice}"
            self._event("out_of_memory", error)
        except Exception as failure:
            # A mistake in the code. The summary says that the run failed, and the log keeps where.
            self._write_summary("failed", f"{type(failure).__name__}: {one_line(failure)}")
            raise
        self._write_summary(status, error)
        self.metrics.close()
        self.trackers.close()
        return status

    def _loop(self, stream: Iterator[list[Batch]], stop: Stop) -> None:
        t = self.config.train
        # Losses and gradient norms stay on the device until they are logged: reading one makes the loop wait for it.
        pending: list[Tensor] = []
        asked = stop.requested
        self.clock.start()
        while self.step < t.max_iters and not asked:
            if self.step % t.eval_interval == 0:
                self.clock.stop()
                with self.eval_clock.running():
                    self._evaluate(stop)
                self.clock.start()
            set_lr(self.optimizer, learning_rate(self.step, t.max_iters, self.config.optimizer))
            pending.append(self.train_step(next(stream)))
            self.step += 1

            # Asked once a step: what comes while this one is logged ends with the next, and with its checkpoint.
            asked = stop.requested
            at_end = self.step == t.max_iters or asked is not None
            checkpoint_due = at_end or (t.checkpoint_interval > 0 and self.step % t.checkpoint_interval == 0)
            if checkpoint_due or self.step % t.log_interval == 0:
                self.clock.stop()
                self._log(torch.stack(pending).tolist())
                pending.clear()
                if checkpoint_due:
                    with self.save_clock.running():
                        self._save()
                self.clock.start()
        self.clock.stop()
        if self.step == t.max_iters:
            with self.eval_clock.running():
                self._evaluate(stop)

    def train_step(self, micro_batches: list[Batch]) -> Tensor:
        """One optimizer step. Returns its loss and gradient norm, [2], still on the device.

        Where the gradient is not finite, no weight changes: what went wrong can then still be found out.
        """
        c = self.config
        if c.model.dropout > 0:
            # Dropout is a function of the step too, so that a resumed run draws what it would have drawn.
            torch.manual_seed(c.train.seed * 1_000_003 + self.step)
        loss_sum = torch.zeros((), device=self.device)
        for x, y in micro_batches:
            self._mark_pass()
            with autocast(self.device, c.train.dtype):
                loss = self._loss(x, y) / len(micro_batches)
            self.scaler.scale(loss).backward()
            loss_sum += loss.detach()
        self.scaler.unscale_(self.optimizer)
        clip = c.optimizer.grad_clip or float("inf")
        norm = nn.utils.clip_grad_norm_(self.parameters, clip)
        if not self.scaler.is_enabled():
            # What GradScaler does, for every precision: the fused kernel leaves everything as it is if this is 1.
            self.optimizer.found_inf = (~norm.isfinite()).float()  # type: ignore[attr-defined]
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.zero_grad()
        return torch.stack([loss_sum, norm])

    def _loss(self, x: Tensor, y: Tensor) -> Tensor:
        """Mean cross-entropy of a batch. No logits outlive it: at half precision they are 100 KB per token."""
        loss: Tensor = self.model(x, y, keep_logits=not self.config.train.fused_loss)[1]
        return loss

    def zero_grad(self) -> None:
        """Forget the gradients."""
        # A CUDA graph writes its gradients to the same place each time. To be added up over micro-batches they need
        # memory of their own; elsewhere the first backward pass may as well bring it.
        keep = self.uses_cuda_graphs
        for p in self.parameters:
            if keep and p.requires_grad:
                p.grad = torch.zeros_like(p) if p.grad is None else p.grad.zero_()
            else:
                p.grad = None

    def _mark_pass(self) -> None:
        """Tell CUDA graphs that what earlier passes returned may be overwritten. Costs an import of a second."""
        if self.uses_cuda_graphs:
            torch.compiler.cudagraph_mark_step_begin()

    @property
    def uses_cuda_graphs(self) -> bool:
        """Whether what is compiled is replayed as CUDA graphs."""
        graphs = self.compiled != "none" and self.compile_mode in ("reduce_overhead", "max_autotune")
        return graphs and self.device.type == "cuda"

    @torch.no_grad()
    def _evaluate(self, stop: Stop) -> None:
        """Mean loss over the evaluation batches, logged. Given up when asked to stop."""
        self.model.eval()
        losses = []
        for x, y in self.eval_set:
            if stop.requested and self.step < self.config.train.max_iters:
                break
            self._mark_pass()
            with autocast(self.device, self.config.train.dtype):
                loss = self._loss(x, y)
            losses.append(loss.clone())
        self.model.train()
        if len(losses) < len(self.eval_set):
            return
        self.val_loss = torch.stack(losses).mean().item()
        values = {"tokens": self.tokens, "val_loss": self.val_loss, "val_bpb": self._bpb(self.val_loss)}
        self._write("eval", **values, time_s=round(self.clock.total_s, 3))
        bpb = "" if values["val_bpb"] is None else f" | {values['val_bpb']:.4f} bits/byte"
        print(f"step {self.step:>6} | val_loss {self.val_loss:.4f}{bpb}", flush=True)

    def _log(self, steps: list[list[float]]) -> None:
        """Log the steps since the last line; each is [loss, gradient norm]. Raises NonFiniteError."""
        self._check_finite(steps)
        losses, norms = zip(*steps, strict=True)
        ms = 1000 * (self.clock.total_s - self.clock.last_lap_s) / len(steps)
        self.clock.last_lap_s = self.clock.total_s
        self.laps.append(ms)
        self.train_loss = statistics.fmean(losses)
        lr = self.optimizer.param_groups[0]["lr"]
        speed = self._speed(ms)
        self._write(
            "train",
            tokens=self.tokens,
            loss=self.train_loss,
            lr=lr,
            grad_norm=norms[-1],
            ms_per_step=round(ms, 3),
            **speed,
            time_s=round(self.clock.total_s, 3),
        )
        gates = {name: gate.tolist() for name, gate in self.model.gates().items()}
        if gates:
            self._write("gates", gates=gates)
        mfu = "" if speed["mfu"] is None else f" | mfu {speed['mfu']:.1%}"
        print(
            f"step {self.step:>6} | loss {self.train_loss:.4f} | lr {lr:.2e} | norm {norms[-1]:.2f} | {ms:.1f} ms/step"
            f" | {speed['tokens_per_s']:,.0f} tokens/s{mfu}",
            flush=True,
        )

    def _check_finite(self, steps: list[list[float]]) -> None:
        first = self.step - len(steps)
        for i, (loss, norm) in enumerate(steps):
            if math.isfinite(loss) and math.isfinite(norm):
                self.overflows_in_a_row = 0
                continue
            if self.scaler.is_enabled() and self.overflows_in_a_row < MAX_OVERFLOWS_IN_A_ROW:
                self.overflows += 1
                self.overflows_in_a_row += 1
                self._write("event", event="overflow", message=f"step {first + i} overflowed and was skipped")
                continue
            uncompile(self.model)
            batch = next(self._batches(first + i))
            where = first_nonfinite(self.model, batch, self.device, self.config.train)
            good = f"the last good checkpoint is {self.checkpoint}" if self.checkpoint else "there is no checkpoint yet"
            raise NonFiniteError(
                f"step {first + i}: loss {loss:.4g}, gradient norm {norm:.4g}; first not finite: {where}; {good}"
            )

    # Starting and stopping --------------------------------------------------------------------------------------------

    def _compile_and_warm_up(self) -> None:
        """Compile what is to be compiled, and run every kernel once, so that no step is timed with either."""
        t = self.config.train
        batch = next(self._batches(0))[0]
        if t.compile != "none":
            self._event("compile", f"compiling: {t.compile}, {t.compile_mode}")
        attempts = compile_attempts(t.compile, t.compile_mode)
        for this, after in itertools.zip_longest(attempts, attempts[1:]):
            self.compiled, self.compile_mode = this
            compile_scope(self.model, self.compiled, mode=self.compile_mode)
            try:
                self._warm_up(batch)
                break
            except Exception as error:
                if after is None or isinstance(error, torch.OutOfMemoryError):
                    raise
                uncompile(self.model)
                torch.compiler.reset()
                instead = "running eager" if after[0] == "none" else f"compiling in mode {after[1]}"
                self._differs("compile_fallback", f"torch.compile failed, {instead}: {one_line(error)}")
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()

    def _warm_up(self, batch: Batch) -> None:
        x, y = batch
        self.model.train()
        self.zero_grad()
        for _ in range(min(2, self.config.train.gradient_accumulation_steps)):
            self._mark_pass()
            with autocast(self.device, self.config.train.dtype):
                loss = self._loss(x, y)
            loss.backward()
        self.zero_grad()
        self.model.eval()
        with torch.no_grad(), autocast(self.device, self.config.train.dtype):
            self._loss(*self.eval_set[0])
        self.model.train()
        synchronize(self.device)

    def _resume(self) -> None:
        """Go on from the newest whole checkpoint, or from the beginning if there is none."""
        loaded = load_newest(self.out / "checkpoints")
        if loaded is not None:
            state = loaded.state
            self.checkpoint = loaded.path
            self.model.load_state_dict(state["model"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.scaler.load_state_dict(state["scaler"])
            self.step = state["step"]
            self.clock = StepClock(self.device, state["train_time_s"])
            # Not in the checkpoints of earlier versions.
            self.eval_clock = StepClock(self.device, state.get("eval_time_s", 0.0))
            self.save_clock = StepClock(self.device, state.get("checkpoint_time_s", 0.0))
            self.earlier_wall_s = state["wall_time_s"]
            self.laps = state["laps"]
            self.train_loss = state["train_loss"]
            self.overflows = state["overflows"]
            self.events = state["events"]
            for path in loaded.damaged:
                self._differs("damaged", f"{path.name} is damaged and was passed over")
        add_resumption(self.out, device=self.device, step=self.step)
        self._differs("resume", f"resumed at step {self.step}")

    def _save(self) -> None:
        state = {
            "step": self.step,
            "config_hash": self.config_hash,
            "model_config": dataclasses.asdict(self.config.model),
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "train_time_s": self.clock.total_s,
            "eval_time_s": self.eval_clock.total_s,
            "checkpoint_time_s": self.save_clock.total_s,
            "wall_time_s": self._wall_s(),
            "laps": self.laps,
            "train_loss": self.train_loss,
            "overflows": self.overflows,
            "events": self.events,
        }
        self.checkpoint = save_checkpoint(self.out / "checkpoints", self.step, state)

    def _write_summary(self, status: str, error: str | None) -> None:
        # The first line's steps are slower than the rest where anything still warms up.
        laps = self.laps[1:] or self.laps or [float("nan")]
        ms = statistics.median(laps)
        quartiles = statistics.quantiles(laps, n=4) if len(laps) > 1 else [ms, ms, ms]
        write_json(
            self.out / "summary.json",
            {
                "status": status,
                "error": error,
                "iters": self.step,
                "tokens": self.tokens,
                "val_loss": self.val_loss,
                "val_bpb": self._bpb(self.val_loss),
                "train_loss": self.train_loss,
                "ms_per_step": ms,
                "ms_per_step_iqr": quartiles[2] - quartiles[0],
                **self._speed(ms),
                "peak_mem_gib": peak_memory_gib(self.device),
                "train_time_s": self.clock.total_s,
                "eval_time_s": self.eval_clock.total_s,
                "checkpoint_time_s": self.save_clock.total_s,
                "wall_time_s": self._wall_s(),
                "startup_s": self.startup_s,
                "params": self.model.num_params(),
                "config_hash": self.config_hash,
                "compile": {
                    "asked": self.config.train.compile,
                    "ran": self.compiled,
                    "mode": None if self.compiled == "none" else self.compile_mode,
                },
                "overflows": self.overflows,
                "gates": {name: gate.tolist() for name, gate in self.model.gates().items()},
                "events": self.events,
            },
        )

    # Small things -----------------------------------------------------------------------------------------------------

    @property
    def tokens(self) -> int:
        """Training tokens seen."""
        return self.step * self.config.tokens_per_iter

    def _batches(self, step: int | None = None) -> Generator[list[Batch], None, None]:
        return batches(
            self.dataset,
            seed=self.config.train.seed,
            start_step=self.step if step is None else step,
            batch_size=self.config.train.batch_size,
            block_size=self.config.model.block_size,
            accumulation=self.config.train.gradient_accumulation_steps,
            device=self.device,
        )

    def _eval_batches(self) -> Iterator[Batch]:
        return eval_batches(
            self.dataset,
            batch_size=self.config.train.batch_size,
            block_size=self.config.model.block_size,
            iters=self.config.train.eval_iters,
        )

    def _speed(self, ms: float) -> dict[str, float | None]:
        tokens_per_s = 1000 * self.config.tokens_per_iter / ms
        mfu = None if self.peak_flops is None else tokens_per_s * self.flops_per_token / self.peak_flops
        return {"tokens_per_s": tokens_per_s, "mfu": mfu}

    def _bpb(self, loss: float) -> float | None:
        """Bits per byte of text from nats per token."""
        bytes_per_token = self.dataset.val_bytes_per_token
        return None if bytes_per_token is None else loss / (math.log(2) * bytes_per_token)

    def _wall_s(self) -> float:
        return self.earlier_wall_s + process_age_s()

    def _write(self, kind: str, **values: Any) -> None:
        self.metrics.write(kind, self.step, **values)
        self.trackers.write(kind, self.step, **values)

    def _event(self, event: str, message: str) -> None:
        self._write("event", event=event, message=message)
        print(message, flush=True)

    def _differs(self, event: str, message: str) -> None:
        """An event that makes the run other than what was asked for: the summary says so too."""
        self.events.append(message)
        self._event(event, message)


class NonFiniteError(Exception):
    """The loss or a gradient stopped being finite. The message is one line."""


if __name__ == "__main__":
    run_command(main)
