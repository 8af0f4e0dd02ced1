"""A run is done only if it has trained a model, and its numbers are numbers."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from gpt2 import train_ra_mla
from gpt2.run.parts import Parts
from gpt2.run.run import Run
from gpt2.run.stop import Stop
from gpt2.symbols import run_config
from gpt2.train_ra_mla import train, train_step
from tests.tiny import tiny


def trained(folder: Path, **symbols: str) -> tuple[str, dict[str, Any]]:
    """Status and summary of a run."""
    out = folder / "run"
    out.mkdir()
    status = train(Run(run_config(tiny(folder, **symbols).symbols), out), Stop())
    summary: dict[str, Any] = json.loads((out / "summary.json").read_text(), parse_constant=pytest.fail)
    assert summary["status"] == status
    return status, summary


def finite(value: Any) -> bool:
    if isinstance(value, dict | list):
        return all(map(finite, value.values() if isinstance(value, dict) else value))
    return not isinstance(value, float) or math.isfinite(value)


HUGE = {"WARMUP_ITERS": "0", "LEARNING_RATE": "1e30", "MIN_LR": "1e30"}


@pytest.mark.parametrize(
    ("symbols", "reason"),
    [
        # The only step leaves weights that nothing can be computed with: no loss of a step tells.
        (HUGE | {"MAX_ITERS": "1"}, "evaluation at step 1: loss nan"),
        (HUGE | {"MAX_ITERS": "1", "ATTENTION_RA_V5": "y"}, "evaluation at step 1: loss nan"),
        (HUGE | {"MAX_ITERS": "2", "DTYPE_BFLOAT16": "y"}, "step 1: loss nan"),
        (HUGE | {"MAX_ITERS": "12", "EVAL_INTERVAL": "1"}, "evaluation at step 1: loss nan"),
    ],
)
def test_a_run_whose_numbers_are_not_finite_has_failed(tmp_path: Path, symbols: dict[str, str], reason: str) -> None:
    status, summary = trained(tmp_path, **symbols)
    assert status == "failed"
    assert summary["error"].startswith(reason)
    assert "first not finite: " in summary["error"]
    assert finite(summary)


def test_a_run_whose_steps_were_all_skipped_has_failed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def overflowing(parts: Parts, batch: Any, *, step: int) -> torch.Tensor:
        parts.scaler.load_state_dict(parts.scaler.state_dict() | {"scale": 2.0**80})
        return train_step(parts, batch, step=step)

    monkeypatch.setattr(train_ra_mla, "train_step", overflowing)
    status, summary = trained(tmp_path, DTYPE_FLOAT16="y")
    assert status == "failed"
    assert summary["error"] == "gradient scaling skipped every one of 12 steps: nothing has been learned"
    lines = map(json.loads, (tmp_path / "run" / "metrics.jsonl").read_text().splitlines())
    assert [line["message"] for line in lines if line.get("event") == "nonfinite"] == [summary["error"]]


def test_a_precision_that_the_processor_is_slow_at_is_printed_and_recorded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(train_ra_mla, "slow_precision", lambda device, dtype: f"{dtype} is slow on a {device.type}")
    _, summary = trained(tmp_path)
    assert summary["events"] == ["float32 is slow on a cpu"]
    assert "float32 is slow on a cpu\n" in capsys.readouterr().out


def test_steps_before_a_divergence_are_on_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def diverging(parts: Parts, batch: Any, *, step: int) -> torch.Tensor:
        if step == 7:
            with torch.no_grad():
                parts.model.transformer.ln_f.weight[0] = float("nan")
        return train_step(parts, batch, step=step)

    peaceful = tmp_path / "peaceful"
    peaceful.mkdir()
    symbols = {"LOG_INTERVAL": "5", "EVAL_INTERVAL": "100"}
    train(Run(run_config(tiny(tmp_path, LOG_INTERVAL="7", EVAL_INTERVAL="100").symbols), peaceful), Stop())
    monkeypatch.setattr(train_ra_mla, "train_step", diverging)
    status, summary = trained(tmp_path, **symbols)
    assert status == "failed"
    assert summary["error"].startswith("step 7: loss nan")
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    losses = {line["step"]: line["loss"] for line in lines if line["kind"] == "train"}
    assert list(losses) == [5, 7]
    # 7 steps, as the mean of five and the mean of two of them.
    reference = json.loads((peaceful / "metrics.jsonl").read_text().split('"loss": ')[1].split(",")[0])
    assert (5 * losses[5] + 2 * losses[7]) / 7 == pytest.approx(reference, rel=1e-12)
    assert summary["train_loss"] == losses[7]
