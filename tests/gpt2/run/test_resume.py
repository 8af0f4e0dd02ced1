"""Stops and kills are not in the numbers, and no run goes on from what is not its own."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from gpt2 import train_ra_mla
from gpt2.base.errors import UserError
from gpt2.dotconfig import Resolved
from gpt2.run.checkpoint import save_checkpoint
from gpt2.run.run import Run
from gpt2.run.stop import Stop
from gpt2.symbols import run_config
from gpt2.train_ra_mla import train
from tests.tiny import tiny

TIMES = {"ms_per_step", "ms_per_step_iqr", "tokens_per_s", "mfu", "time_s", "shared", "timed", "peak_mem_gib"}
TIMES |= {"startup_s", "wall_time_s", "waited_s", "train_time_s", "eval_time_s", "checkpoint_time_s"}

# Lines of the log, evaluations and checkpoints fall together, and do not.
SETTINGS = {"MAX_ITERS": "17", "LOG_INTERVAL": "3", "EVAL_INTERVAL": "5", "CHECKPOINT_INTERVAL": "2", "DROPOUT": "0.1"}
SETTINGS |= {"EMA_DECAY": "0.9", "EVAL_TAIL": "3"}


def counting(out: Path) -> list[dict[str, Any]]:
    """What metrics.jsonl says apart from events and times; of two lines for one step the later."""
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    found = {(line["kind"], line["step"]): line for line in lines if line["kind"] != "event"}
    return [{k: v for k, v in found[key].items() if k not in TIMES} for key in sorted(found)]


def result(out: Path) -> dict[str, Any]:
    """summary.json without times and events."""
    summary = json.loads((out / "summary.json").read_text())
    return {key: value for key, value in summary.items() if key not in TIMES | {"events"}}


class Looked(Stop):
    """Asks to stop when it has been looked at so many times: between steps, and within evaluations."""

    def __init__(self, looks: int) -> None:
        super().__init__()
        self.looks = looks

    @property
    def requested(self) -> str | None:
        self.looks -= 1
        return "test" if self.looks < 0 else None


class Killed(BaseException):
    """What no handler expects."""


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Resolved, Path]]:
    """A configuration, and the directory of its run, left in peace."""
    folder = tmp_path_factory.mktemp("whole")
    resolved = tiny(folder, ATTENTION_RA_V5="y", **SETTINGS)
    out = folder / "run"
    out.mkdir()
    assert train(Run(run_config(resolved.symbols), out), Stop()) == "done"
    yield resolved, out


@settings(max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture])
@example(stops=[4, 1])  # after the first evaluation, before the first step
@example(stops=[0, 3, 9])
@given(stops=st.lists(st.integers(0, 30), min_size=1, max_size=4))
def test_a_run_that_was_stopped_anywhere_says_what_the_run_left_in_peace_says(
    whole: tuple[Resolved, Path], tmp_path_factory: pytest.TempPathFactory, stops: list[int]
) -> None:
    resolved, peaceful = whole
    out = tmp_path_factory.mktemp("parts")
    for looks in stops:
        status = train(Run(run_config(resolved.symbols), out), Looked(looks))
        stopped = result(out)
        assert stopped["status"] == status
        lines = counting(out)
        for kind, key in (("train", "train_loss"), ("eval", "val_loss")):
            of_kind = [line for line in lines if line["kind"] == kind]
            assert stopped[key] == (of_kind[-1][key.removeprefix("train_")] if of_kind else None)
        assert lines == [line for line in counting(peaceful) if line in lines]
        if status == "done":  # which nobody starts again
            break
    else:
        train(Run(run_config(resolved.symbols), out), Stop())
    assert counting(out) == counting(peaceful)
    assert result(out) == result(peaceful)


@pytest.mark.parametrize("seed", range(6))
def test_a_run_that_was_killed_anywhere_says_so_too(
    whole: tuple[Resolved, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    resolved, peaceful = whole
    dice = random.Random(seed)
    calls = [(train_ra_mla, "train_step"), (train_ra_mla, "evaluate"), (Run, "log"), (Run, "save"), (Run, "finish")]
    module, name = dice.choice(calls)
    left = dice.randrange(5)
    original = getattr(module, name)

    def killed(*args: Any, **options: Any) -> Any:
        nonlocal left
        left -= 1
        if left < 0 and dice.random() < 0.5:
            raise Killed
        value = original(*args, **options)
        if left < 0:
            raise Killed
        return value

    with monkeypatch.context() as patch:
        patch.setattr(module, name, killed)
        for _ in range(2):
            left = dice.randrange(3)
            run = Run(run_config(resolved.symbols), tmp_path)
            try:
                train(run, Stop())
            except Killed:
                run.wait_until_saved()  # the death of a process would end its threads; torture.py kills these too
    train(Run(run_config(resolved.symbols), tmp_path), Stop())
    assert counting(tmp_path) == counting(peaceful)
    assert result(tmp_path) == result(peaceful)


def interrupted(resolved: Resolved, out: Path, looks: int = 20) -> Path:
    """A run that was stopped; returns its newest checkpoint."""
    out.mkdir()
    assert train(Run(run_config(resolved.symbols), out), Looked(looks)) == "interrupted"
    return max((out / "checkpoints").glob("step-*.pt"))


def changed(state: dict[str, Any], how: str) -> None:
    """Make a checkpoint's content that of something else."""
    optimizer = state["optimizer"]
    first = next(iter(optimizer["state"].values()))
    changes: dict[str, Any] = {
        "config_hash": lambda: state.update(config_hash="0" * 64),
        "step beyond the end": lambda: state.update(step=18),
        "step before the beginning": lambda: state.update(step=-1),
        "another step than its name says": lambda: state.update(step=state["step"] - 1),
        "step no number": lambda: state.update(step="7"),
        "no step": lambda: state.pop("step"),
        "no weights": lambda: state.pop("model"),
        "weights of another shape": lambda: state["model"].update({"lm_head.weight": torch.zeros(3, 3)}),
        "a weight too few": lambda: state["model"].popitem(),
        "a weight too many": lambda: state["model"].update(extra=torch.zeros(1)),
        "no optimizer": lambda: state.pop("optimizer"),
        "moments of another shape": lambda: first.update(exp_avg=torch.zeros(3)),
        "moments missing a group": lambda: optimizer["param_groups"].pop(),
        "parameters in another order": lambda: optimizer["param_groups"][0]["params"].reverse(),
        "laps no list": lambda: state.update(laps=None),
    }
    changes[how]()


CHANGES = [
    *("config_hash", "step beyond the end", "step before the beginning", "another step than its name says"),
    *("step no number", "no step", "no weights", "weights of another shape", "a weight too few", "a weight too many"),
    *("no optimizer", "moments of another shape", "moments missing a group", "parameters in another order"),
    "laps no list",
]


@pytest.mark.parametrize("how", CHANGES)
def test_a_checkpoint_that_is_not_the_runs_own_is_refused(
    whole: tuple[Resolved, Path], tmp_path: Path, how: str
) -> None:
    resolved, _ = whole
    path = interrupted(resolved, tmp_path / "run")
    state = torch.load(path, weights_only=True)
    changed(state, how)
    before = (tmp_path / "run" / "metrics.jsonl").read_text()
    save_checkpoint(path.parent, int(path.stem.removeprefix("step-")), state)
    with pytest.raises(UserError, match=r"step-\d+\.pt: "):
        Run(run_config(resolved.symbols), tmp_path / "run")
    assert (tmp_path / "run" / "metrics.jsonl").read_text() == before


def test_the_checkpoints_of_another_seed_are_refused(whole: tuple[Resolved, Path], tmp_path: Path) -> None:
    resolved, _ = whole
    other = tiny(tmp_path, ATTENTION_RA_V5="y", SEED="2", **SETTINGS)
    interrupted(resolved, tmp_path / "one")
    interrupted(other, tmp_path / "two")
    shutil.rmtree(tmp_path / "one" / "checkpoints")
    shutil.copytree(tmp_path / "two" / "checkpoints", tmp_path / "one" / "checkpoints")
    with pytest.raises(UserError, match="belongs to another run"):
        Run(run_config(resolved.symbols), tmp_path / "one")


def test_checkpoints_without_a_record_of_what_they_are_stop_a_run(whole: tuple[Resolved, Path], tmp_path: Path) -> None:
    resolved, _ = whole
    path = interrupted(resolved, tmp_path / "run")
    (tmp_path / "run" / "provenance.json").unlink()
    with pytest.raises(UserError, match=r"holds a run without provenance\.json"):
        Run(run_config(resolved.symbols), tmp_path / "run")
    assert path.exists()


def test_checkpoints_of_earlier_versions_are_gone_on_from(whole: tuple[Resolved, Path], tmp_path: Path) -> None:
    resolved, peaceful = whole
    path = interrupted(resolved, tmp_path / "run")
    state = torch.load(path, weights_only=True)
    later = ("pending", "val_loss", "val_step", "overflows_in_a_row", "lap_s", "eval_time_s", "checkpoint_time_s")
    for key in (*later, "ema_val_loss", "val_losses", "tail"):
        del state[key]
    save_checkpoint(path.parent, state["step"], state)
    assert train(Run(run_config(resolved.symbols), tmp_path / "run"), Stop()) == "done"
    assert result(tmp_path / "run")["val_loss"] == result(peaceful)["val_loss"]
