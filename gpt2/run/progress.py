"""How far a run has come: all that it keeps besides weights and optimizer, and takes up again when it goes on.

Whatever a summary or a line of metrics.jsonl says is made of this and of the step alone. So a run that was stopped, or
killed, and went on says what the run left in peace says; its times are its own.
"""

from __future__ import annotations

from typing import Any

import torch

from gpt2.run.clock import StepClock
from gpt2.run.evaluation import Losses


class Progress:
    """Steps done, losses, times and what went differently from what was asked."""

    def __init__(self, device: torch.device) -> None:
        self.step = 0
        """Optimizer steps done."""
        self.pending: list[list[float]] = []
        """[loss, gradient norm] of the steps since the last line of the log."""
        self.train_loss: float | None = None
        """Mean over the steps of the last line of the log."""
        self.val_loss: float | None = None
        """Of the last evaluation."""
        self.ema_val_loss: float | None = None
        """Likewise, of the average of weights."""
        self.val_losses: dict[str, float] = {}
        """Likewise, on each of EVAL_DATASETS."""
        self.tail: list[float] = []
        """Validation losses of those of the run's last evaluations (EVAL_TAIL) that it has had."""
        self.val_step: int | None = None
        """The step of the last evaluation."""
        self.overflows = 0
        """Steps that gradient scaling skipped."""
        self.overflows_in_a_row = 0
        self.clock, self.eval_clock, self.save_clock = (StepClock(device) for _ in range(3))
        """Of training steps, of evaluation, of checkpoints."""
        self.laps: list[float] = []
        """ms per step of each line of the log."""
        self.shared: list[bool] = []
        """Of each, whether another process used the device meanwhile."""
        self.earlier_wall_s = 0.0
        """Of the processes before this one."""
        self.events: list[str] = []
        """What went differently from what was asked."""

    def take(self, losses: Losses) -> None:
        """An evaluation of the present step."""
        self.val_loss, self.ema_val_loss = losses.val_loss, losses.ema_val_loss
        self.val_losses = dict(losses.val_losses)
        self.val_step = self.step

    def state_dict(self) -> dict[str, Any]:
        """As a checkpoint keeps it. `wall_time_s` is the run's to add."""
        return {
            "step": self.step,
            "pending": self.pending,
            "train_loss": self.train_loss,
            "val_loss": self.val_loss,
            "ema_val_loss": self.ema_val_loss,
            "val_losses": self.val_losses,
            "tail": self.tail,
            "val_step": self.val_step,
            "overflows": self.overflows,
            "overflows_in_a_row": self.overflows_in_a_row,
            "train_time_s": self.clock.total_s,
            "lap_s": self.clock.total_s - self.clock.last_lap_s,
            "eval_time_s": self.eval_clock.total_s,
            "checkpoint_time_s": self.save_clock.total_s,
            "laps": self.laps,
            "shared": self.shared,
            "events": self.events,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up what a checkpoint keeps. Those of earlier versions have less in them."""
        self.step = state["step"]
        self.pending = state.get("pending", [])
        self.train_loss = state["train_loss"]
        self.val_loss = state.get("val_loss")
        self.ema_val_loss = state.get("ema_val_loss")
        self.val_losses = state.get("val_losses", {})
        self.tail = state.get("tail", [])
        self.val_step = state.get("val_step")
        self.overflows = state["overflows"]
        self.overflows_in_a_row = state.get("overflows_in_a_row", 0)
        self.clock.total_s = state["train_time_s"]
        self.clock.last_lap_s = self.clock.total_s - state.get("lap_s", 0.0)
        self.eval_clock.total_s = state.get("eval_time_s", 0.0)
        self.save_clock.total_s = state.get("checkpoint_time_s", 0.0)
        self.earlier_wall_s = state["wall_time_s"]
        self.laps = state["laps"]
        self.shared = state.get("shared", [False] * len(self.laps))
        self.events = state["events"]
