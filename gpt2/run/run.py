"""A run in its directory: what it is made of, how far it has come, and what it leaves there.

The loop that drives it is in gpt2/train_ra_mla.py; docs/results.md describes the files.
"""

from __future__ import annotations

import dataclasses
import math
import statistics
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gpt2.base.files import write_json
from gpt2.config import RunConfig, identity_hash
from gpt2.data.batches import Batch, EvalSet
from gpt2.data.dataset import open_dataset
from gpt2.machine.compilation import uncompile
from gpt2.machine.device import select_device
from gpt2.machine.ranks import ALONE, Ranks
from gpt2.machine.sharing import SharedDevice
from gpt2.optimizer import learning_rate
from gpt2.run.behind import Behind, HostCopy
from gpt2.run.checkpoint import (
    Loaded,
    checkpoint_path,
    keep_newest,
    load_newest,
    read_checkpoint,
    save_checkpoint,
)
from gpt2.run.clock import process_age_s
from gpt2.run.directory import clear
from gpt2.run.evaluation import Losses, tail_steps
from gpt2.run.journal import Journal, Silence
from gpt2.run.nonfinite import NOWHERE, NonFiniteError, first_nonfinite
from gpt2.run.parts import Parts
from gpt2.run.progress import Progress
from gpt2.run.record import add_resumption, check_identity, run_identity, write_provenance
from gpt2.run.records import Event, read_provenance
from gpt2.run.resume import restore
from gpt2.run.summary import last_evaluation, numbers, speed, why_not_done

# So many steps in a row that gradient scaling had to skip are no overflow but a run that has diverged: the scale has
# been halved for each of them, from 65536 to nothing.
MAX_OVERFLOWS_IN_A_ROW = 20


class Run:
    """One training run. It begins, or goes on from its newest whole checkpoint, as its directory has it.

    Of several `ranks` each has one, and all do the same at the same time; the first alone writes anything. `share`: in
    the device, where others want that too.

    Raises UserError where something asked for cannot be had, or the directory holds another run, which stays as it is.
    """

    def __init__(
        self,
        config: RunConfig,
        out: Path,
        *,
        given: Sequence[str] = (),
        ranks: Ranks = ALONE,
        share: SharedDevice | None = None,
    ) -> None:
        self.config = config
        self.out = out
        self.ranks = ranks
        dataset = open_dataset(config.data)
        identity = run_identity(config, dataset)
        goes_on = ranks.from_first(lambda: check_identity(out, identity))
        self.share = share or SharedDevice(None, select_device(config.train.device))
        with self.share.beside():
            self.parts = Parts(config, dataset, ranks)
        self.progress = Progress(self.parts.device)
        self.startup_s: float | None = None
        """From the start of the process until it was ready for its first step, without waiting for the device."""
        self.waited_s = 0.0
        """For the device."""
        self.checkpoints: list[Path] = []
        """What this process has written, begun to write, or gone on from, newest last."""
        self._writing, self._copy = Behind(), HostCopy()
        self.unread: list[Tensor] = []
        """Loss and gradient norm of the newest steps, still on the device: reading one makes the loop wait for it."""
        self._saved = self._position
        self.config_hash = identity_hash(identity)
        if not goes_on and ranks.is_first:
            clear(out)
            write_provenance(
                out,
                device=self.parts.device,
                how=self.how(),
                dataset=dataset,
                eval_set=self.parts.eval_set,
                eval_datasets=self.parts.about_eval_datasets(),
                identity=identity,
                config_hash=self.config_hash,
                given=given,
            )
        self.journal = Journal(config, out) if ranks.is_first else Silence()
        if goes_on:
            self.config_hash = read_provenance(out / "provenance.json")["config_hash"]
            self._resume()

    def parallel(self) -> dict[str, Any]:
        """How many processes train it, on how many machines, and what each holds, for provenance.json."""
        several = self.ranks.world_size > 1
        strategy = self.config.train.parallel if several else None
        return {"processes": self.ranks.world_size, "nodes": self.ranks.nodes, "strategy": strategy}

    def how(self) -> dict[str, Any]:
        """By which processes, and by which kernels of those that were asked for, it is trained, for provenance.json."""
        t, parts = self.config.train, self.parts
        return {
            "parallel": self.parallel(),
            "sdpa": {"asked": t.sdpa_kernel, "ran": parts.sdpa_ran},
            "products": {"asked": t.products, "ran": parts.products_ran},
        }

    @property
    def step(self) -> int:
        """Optimizer steps done."""
        return self.progress.step

    @property
    def tokens(self) -> int:
        """Training tokens seen."""
        return self.step * self.config.tokens_per_iter

    def count(self, step: Tensor) -> None:
        """A step has been taken: its loss and gradient norm, [2], on the device."""
        self.unread.append(step)
        self.progress.step += 1

    def read(self) -> None:
        """Wait for the steps that are not read yet. Raises NonFiniteError where one of them was not finite.

        What went wrong in writing a checkpoint is raised here too.
        """
        self._writing.check()
        steps = torch.stack(self.unread).tolist() if self.unread else []
        self.unread.clear()
        losses = self.ranks.mean([loss for loss, _ in steps])
        steps = [(loss, norm) for loss, (_, norm) in zip(losses, steps, strict=True)]
        first = self.step - len(steps)
        for i, (loss, norm) in enumerate(steps):
            if math.isfinite(loss) and math.isfinite(norm):
                self.progress.overflows_in_a_row = 0
            elif self.parts.scaler.is_enabled() and self.progress.overflows_in_a_row < MAX_OVERFLOWS_IN_A_ROW:
                self.progress.overflows += 1
                self.progress.overflows_in_a_row += 1
                message = f"step {first + i} overflowed and was skipped"
                self.journal.event("overflow", self.step, message, is_printed=False)
            else:
                self.log(first + i)  # what came before is as good as any
                batch = next(self.parts.batches(first + i))
                raise self._nonfinite(f"step {first + i}: loss {loss:.4g}, gradient norm {norm:.4g}", batch, first + i)
            self.progress.pending.append([loss, norm])

    def log(self, step: int | None = None) -> None:
        """A line of the log for the steps since the last one, up to `step` or the newest, and one for the gates."""
        p, step = self.progress, self.step if step is None else step
        if not p.pending:
            return
        losses, norms = zip(*p.pending, strict=True)
        ms = 1000 * (p.clock.total_s - p.clock.last_lap_s) / len(p.pending)
        p.clock.last_lap_s = p.clock.total_s
        p.pending.clear()
        p.laps.append(ms)
        p.shared.append(self.share.was_shared())
        finite = [loss for loss in losses if math.isfinite(loss)]
        p.train_loss = statistics.fmean(finite) if finite else None
        self.journal.train(
            step,
            tokens=step * self.config.tokens_per_iter,
            loss=p.train_loss,
            lr=learning_rate(step - 1, self.config.train.max_iters, self.config.optimizer),
            grad_norm=norms[-1] if math.isfinite(norms[-1]) else None,
            ms_per_step=round(ms, 3),
            speed=speed(self.parts, ms),
            time_s=round(p.clock.total_s, 3),
            shared=p.shared[-1],
        )
        self.log_gates()

    def log_gates(self) -> None:
        """A line for the gates, where the arm has any."""
        if gates := self.parts.gates():
            self.journal.write("gates", self.step, gates=gates)

    def log_evaluation(self, losses: Losses) -> None:
        """A line for an evaluation. Raises NonFiniteError."""
        p = self.parts
        self._require_finite("loss", losses.val_loss, p.eval_set)
        if p.average is not None and losses.ema_val_loss is not None:
            self._require_finite("loss of the averaged weights", losses.ema_val_loss, p.eval_set, p.average.in_place())
        for name, loss in losses.val_losses.items():
            self._require_finite(f"loss on {name}", loss, p.eval_sets[name])
        self.progress.take(losses)
        if self.step in tail_steps(self.config.train.max_iters, self.config.train.eval_tail):
            self.progress.tail.append(losses.val_loss)
        self.journal.evaluation(
            self.step,
            tokens=self.tokens,
            **last_evaluation(self.parts, self.progress),
            time_s=round(self.progress.clock.total_s, 3),
        )

    def save(self) -> None:
        """Begin to write a checkpoint of the present step, from a copy. `wait_until_saved` waits for it.

        The last one is as CHECKPOINT_KEEP has it: nobody goes on from there.
        """
        keep = self.config.train.checkpoint_keep if self._is_at_end else "all"
        if keep != "none":
            with self.progress.save_clock.running():
                self._writing.wait()
                state = self._state(weights_only=keep == "weights")
                if self.ranks.is_first:
                    copy, directory, step = self._copy.of(state), self.out / "checkpoints", self.step
                    self._writing.do(lambda: save_checkpoint(directory, step, copy))
                    self.checkpoints.append(checkpoint_path(directory, step))
        self._saved = self._position

    def wait_until_saved(self) -> None:
        """Wait until every checkpoint is on the disk. Raises what went wrong in writing it."""
        self._writing.wait()

    @property
    def is_saved(self) -> bool:
        """Whether a checkpoint of the present step is there already, or there is nothing to save yet."""
        return self._saved == self._position

    @property
    def _is_at_end(self) -> bool:
        """Whether all steps are taken, and the last is evaluated."""
        return self.step == self.progress.val_step == self.config.train.max_iters

    @property
    def _position(self) -> tuple[int, int | None]:
        return self.step, self.progress.val_step

    def take_turn(self) -> None:
        """Take the device, when whoever trains on it has ended."""
        began = time.monotonic()
        self.share.take_turn(lambda: self.event("waiting", "is ready, and waits for the device"))
        self.waited_s = time.monotonic() - began

    def event(self, event: Event, message: str) -> None:
        """Something that happened."""
        self.journal.event(event, self.step, message)

    def differs(self, event: Event, message: str) -> None:
        """An event that makes the run other than what was asked for: the summary says so too."""
        self.progress.events.append(message)
        self.event(event, message)

    def finish(self, status: str, error: str | None = None) -> str:
        """Write the summary: "done", "failed" or "interrupted", the last two also where "done" would not be true."""
        found = numbers(self.parts, self.progress)
        if status == "done" and (reason := why_not_done(self.progress, found)):
            status, error = "failed", reason
            self.event("nonfinite", reason)
        t, parts = self.config.train, self.parts
        if not self.ranks.is_first:
            return status
        write_json(
            self.out / "summary.json",
            {
                "status": status,
                "error": error,
                **found,
                "wall_time_s": self.wall_s(),
                "startup_s": self.startup_s,
                "waited_s": self.waited_s,
                "config_hash": self.config_hash,
                "compile": {
                    "asked": t.compile,
                    "ran": parts.compiled,
                    "mode": None if parts.compiled == "none" else parts.compile_mode,
                },
                "events": self.progress.events,
            },
        )
        keep = {"all": None, "weights": 1, "none": 0}[t.checkpoint_keep]
        if status == "done" and keep is not None:
            keep_newest(self.out / "checkpoints", keep)
        return status

    def wall_s(self) -> float:
        """Seconds that the run's processes have been there."""
        return self.progress.earlier_wall_s + process_age_s()

    def _state(self, *, weights_only: bool) -> dict[str, Any]:
        """What a checkpoint holds. To be called by all ranks."""
        model, optimizer = self.parts.shared.state_dicts()
        state = {
            **self.progress.state_dict(),
            "wall_time_s": self.wall_s(),
            "config_hash": self.config_hash,
            "model_config": dataclasses.asdict(self.config.model),
            "model": model,
        }
        if not weights_only:
            state |= {"optimizer": optimizer, "scaler": self.parts.scaler.state_dict()}
            if self.parts.average is not None:
                state["ema"] = self.parts.average.state_dict()
        return state

    def _resume(self) -> None:
        """Go on from the newest whole checkpoint, or from the beginning if there is none."""
        loaded = self._newest()
        if loaded is not None:
            restore(self.parts, loaded.state, loaded.path, config_hash=self.config_hash)
            self.progress.load_state_dict(loaded.state)
            self._saved = self._position
            self.checkpoints.append(loaded.path)
            for path in loaded.damaged:
                self.differs("damaged", f"{path.name} is damaged and was passed over")
        if self.ranks.is_first:
            add_resumption(self.out, device=self.parts.device, how=self.how(), step=self.step)
        self.differs("resume", f"resumed at step {self.step}")

    def _newest(self) -> Loaded | None:
        """The newest whole checkpoint: the first rank finds it, and the others read it."""
        directory = self.out / "checkpoints"
        found: list[Loaded | None] = []

        def find() -> Path | None:
            found.append(load_newest(directory))
            return found[0].path if found[0] else None

        path = self.ranks.from_first(find)
        if path is None or found:
            return found[0] if found else None
        return Loaded(path=path, state=read_checkpoint(path), damaged=())

    def _require_finite(
        self, name: str, loss: float, of: EvalSet, weights: AbstractContextManager[None] | None = None
    ) -> None:
        """Raise NonFiniteError where the `loss` of a set is not finite; `weights` has in place those that it is of."""
        if not math.isfinite(loss):
            what = f"evaluation at step {self.step}: {name} {loss:.4g}"
            with weights or nullcontext():
                raise self._nonfinite(what, of.dealt(self.ranks.rank, self.ranks.world_size), self.step)

    def _nonfinite(self, what: str, batches: Sequence[Batch], step: int) -> NonFiniteError:
        """The error that says where a number stopped being finite in `step`, and what there is to go back to."""
        self.wait_until_saved()
        uncompile(self.parts.model)
        model = self.parts.shared.plain_model()
        wheres = self.ranks.gather(first_nonfinite(model, batches, self.parts.device, self.config.train))
        # It may be in one rank's batches alone.
        where = next((where for where in wheres if where != NOWHERE), NOWHERE)
        good = [path for path in self.checkpoints if path.exists() and path.name < f"step-{step:08d}.pt"]
        back = f"the last good checkpoint is {good[-1]}" if good else "there is no checkpoint yet"
        return NonFiniteError(f"{what}; first not finite: {where}; {back}")
