"""Mirrors of the metrics: what is passed on, and what happens without the package."""

from __future__ import annotations

import sys
import types
from pathlib import Path
from typing import Any

import pytest

from gpt2.base.errors import UserError
from gpt2.config import RunConfig
from gpt2.run.tracking import Trackers
from tests.tiny import tiny


def config(folder: Path, **symbols: str) -> RunConfig:
    return tiny(folder, **symbols).run_config()


@pytest.mark.parametrize(
    ("symbol", "module", "package"),
    [("TRACK_TENSORBOARD", "torch.utils.tensorboard", "tensorboard"), ("TRACK_WANDB", "wandb", "wandb")],
)
def test_a_package_that_is_missing_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, symbol: str, module: str, package: str
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(UserError, match=f"CONFIG_{symbol}=y: {package} is not installed"):
        Trackers(config(tmp_path, **{symbol: "y"}), tmp_path)


def test_without_trackers_nothing_is_written(tmp_path: Path) -> None:
    run = config(tmp_path)
    before = set(tmp_path.iterdir())
    trackers = Trackers(run, tmp_path)
    trackers.write("train", 1, loss=2.0)
    trackers.close()
    assert set(tmp_path.iterdir()) == before


def test_wandb_gets_the_numbers_of_a_line_and_the_run_it_belongs_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[tuple[str, Any]] = []
    wandb: Any = types.ModuleType("wandb")
    wandb.init = lambda **settings: calls.append(("init", settings)) or wandb
    wandb.log = lambda numbers, step: calls.append(("log", (numbers, step)))
    wandb.finish = lambda: calls.append(("finish", None))
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    trackers = Trackers(config(tmp_path, TRACK_WANDB="y"), tmp_path / "baseline" / "seed-1")
    trackers.write("eval", 6, val_loss=2.5, val_bpb=None, message="no number")
    trackers.close()
    assert [name for name, _ in calls] == ["init", "log", "finish"]
    assert (calls[0][1]["group"], calls[0][1]["name"]) == ("tiny", "baseline/seed-1")
    assert calls[0][1]["config"]["train"]["max_iters"] == 12
    assert calls[1][1] == ({"eval/val_loss": 2.5}, 6)


def test_tensorboard_gets_the_numbers_of_a_line(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    trackers = Trackers(config(tmp_path, TRACK_TENSORBOARD="y"), tmp_path)
    trackers.write("eval", 6, val_loss=2.5, val_bpb=None)
    trackers.close()
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert [(e.step, e.value) for e in events.Scalars("eval/val_loss")] == [(6, 2.5)]
