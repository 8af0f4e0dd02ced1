"""Checkpoints behind the training: whole, of the step they name, and what went wrong is not lost."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest
import torch

from gpt2 import train_ra_mla
from gpt2.checks.dry_run import dry_run
from gpt2.dotconfig import Resolved
from gpt2.run import checkpoint
from gpt2.run import run as run_module
from gpt2.run.behind import Behind, HostCopy
from gpt2.run.checkpoint import (
    bytes_held,
    bytes_kept,
    keep_newest,
    n_written,
    read_checkpoint,
    save_checkpoint,
    verified,
)
from gpt2.run.load import load_model
from gpt2.run.records import read_summary
from gpt2.run.run import Run
from gpt2.run.stop import Stop
from gpt2.symbols import run_config
from gpt2.train_ra_mla import train
from tests.tiny import tiny


def test_a_copy_is_of_its_moment_and_keeps_what_was_one() -> None:
    w = torch.arange(4.0)
    state = {"a": w, "b": [w, 3], "c": (w[:2], w.view(2, 2)), "empty": torch.empty(0), "text": "x", "more": w + 1}
    host = HostCopy()
    copied = host.of(state)
    w.zero_()
    assert copied["a"].tolist() == [0, 1, 2, 3]
    assert copied["b"][0] is copied["a"]
    assert copied["c"][1].tolist() == [[0, 1], [2, 3]]
    assert copied["b"][1] == 3 and copied["text"] == "x"
    assert copied["more"].tolist() == [1, 2, 3, 4]
    # The next one is in the same memory, whatever is in it.
    place = copied["a"].data_ptr()
    again = host.of({"a": w, "half": w[:2].half(), "more": w + 5})
    assert again["a"].data_ptr() == place
    assert [again[name].tolist() for name in ("a", "half", "more")] == [[0] * 4, [0, 0], [5] * 4]


def test_one_thing_at_a_time_and_what_goes_wrong_is_raised() -> None:
    behind, gate, done = Behind(), threading.Event(), []
    behind.do(lambda: (gate.wait(10), done.append(1)))
    behind.check()
    assert not done
    gate.set()
    behind.do(lambda: done.append(2))
    behind.wait()
    assert done == [1, 2]

    def fail() -> None:
        raise OSError(28, "No space left on device")

    behind.do(fail)
    with pytest.raises(OSError, match="No space left"):
        behind.wait()
    behind.wait()


def test_steps_go_on_while_a_checkpoint_is_written_and_do_not_change_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    resolved = tiny(tmp_path, MAX_ITERS="8", CHECKPOINT_INTERVAL="4")
    steps_meanwhile, stepped = 0, threading.Event()
    in_writing = threading.Event()

    def save(directory: Path, step: int, state: dict[str, Any]) -> Path:
        in_writing.set()
        if step == 4:
            assert stepped.wait(30)  # no step would be taken if the training waited for this
        in_writing.clear()
        return save_checkpoint(directory, step, state)

    def step(*args: Any, **options: Any) -> Any:
        nonlocal steps_meanwhile
        result = original(*args, **options)
        if in_writing.is_set():
            steps_meanwhile += 1
            stepped.set()
        return result

    original = train_ra_mla.train_step
    with monkeypatch.context() as patch:
        patch.setattr(run_module, "save_checkpoint", save)
        patch.setattr(train_ra_mla, "train_step", step)
        assert train(begin(resolved, tmp_path / "a"), Stop()) == "done"
    assert steps_meanwhile >= 1
    monkeypatch.setattr(Run, "save", _save_and_wait)
    assert train(begin(resolved, tmp_path / "b"), Stop()) == "done"
    for name in ("step-00000004.pt", "step-00000008.pt"):
        ours, theirs = (read_checkpoint(tmp_path / run / "checkpoints" / name) for run in "ab")
        for key, tensor in ours["model"].items():
            assert torch.equal(tensor, theirs["model"][key])
        for index, moments in ours["optimizer"]["state"].items():
            for key, tensor in moments.items():
                assert torch.equal(tensor, theirs["optimizer"]["state"][index][key])


def begin(resolved: Resolved, out: Path) -> Run:
    out.mkdir(exist_ok=True)
    return Run(run_config(resolved.symbols), out)


_SAVE = Run.save


def _save_and_wait(run: Run) -> None:
    _SAVE(run)
    run.wait_until_saved()


@pytest.mark.parametrize("step", [4, 8])
def test_done_means_on_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    resolved = tiny(tmp_path, MAX_ITERS="8", CHECKPOINT_INTERVAL="4")

    def save(directory: Path, at: int, state: dict[str, Any]) -> Path:
        if at == step:
            raise OSError(28, "No space left on device", str(directory))
        return save_checkpoint(directory, at, state)

    monkeypatch.setattr(run_module, "save_checkpoint", save)
    with pytest.raises(OSError, match="No space left"):
        train(begin(resolved, tmp_path / "run"), Stop())
    summary = read_summary(tmp_path / "run" / "summary.json")
    assert summary["status"] == "failed"
    assert "No space left" in summary["error"]


@pytest.mark.parametrize("keep", ["all", "weights", "none"])
def test_what_a_finished_run_keeps(tmp_path: Path, keep: str) -> None:
    resolved = tiny(tmp_path, **{f"CHECKPOINT_KEEP_{keep.upper()}": "y"})
    run = begin(resolved, tmp_path / "run")
    assert train(run, Stop()) == "done"
    paths = sorted((tmp_path / "run" / "checkpoints").glob("*.pt"))
    expected = {"all": ["step-00000008.pt", "step-00000012.pt"], "weights": ["step-00000012.pt"], "none": []}
    assert [path.name for path in paths] == expected[keep]
    assert all(verified(path) for path in paths)
    assert len(list((tmp_path / "run" / "checkpoints").iterdir())) == 2 * len(paths)
    for path in paths:
        assert ("optimizer" in read_checkpoint(path)) == (keep == "all")
    if paths:
        model = load_model(tmp_path / "run")
        for name, tensor in run.parts.model.state_dict().items():
            assert torch.equal(tensor, model.state_dict()[name])


@pytest.mark.parametrize("interval", ["0", "1", "4", "5", "7", "12", "100"])
@pytest.mark.parametrize("keep", ["all", "weights", "none"])
def test_what_is_said_of_checkpoints_is_what_a_run_writes_and_leaves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, keep: str, interval: str
) -> None:
    resolved = tiny(tmp_path, **{f"CHECKPOINT_KEEP_{keep.upper()}": "y", "CHECKPOINT_INTERVAL": interval})
    train_config = resolved.run_config().train
    out = tmp_path / "run"
    written: list[int] = []

    def held() -> int:
        return sum(path.stat().st_size for path in (out / "checkpoints").glob("step-*.pt"))

    def seen(directory: Path, n: int) -> None:
        """As the newest is there, and the oldest is there still."""
        written.append(held())
        keep_newest(directory, n)

    monkeypatch.setattr(checkpoint, "keep_newest", seen)
    run = begin(resolved, out)
    assert train(run, Stop()) == "done"
    assert n_written(train_config) == len(written)
    params = run.parts.model.num_params()
    sizes = {"whole": 12 * params, "weights": 4 * params}
    # A pickle's own names, and what is kept of each step, come on top.
    assert bytes_held(train_config, **sizes) == pytest.approx(max(written, default=0), rel=0.1)
    assert bytes_kept(train_config, **sizes) == pytest.approx(held(), rel=0.1)
    kept, more = dry_run(resolved.run_config()).checkpoints_gib(train_config)
    assert kept == bytes_kept(train_config, **sizes) / 2**30
    assert kept + more == pytest.approx(bytes_held(train_config, **sizes) / 2**30)


@pytest.mark.parametrize("keep", ["all", "weights", "none"])
def test_killed_before_it_said_done_it_says_so_when_it_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, keep: str
) -> None:
    resolved = tiny(tmp_path, **{f"CHECKPOINT_KEEP_{keep.upper()}": "y"})

    def kill(*args: Any, **options: Any) -> str:
        raise KeyboardInterrupt

    assert train(begin(resolved, tmp_path / "whole"), Stop()) == "done"
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Run, "finish", kill)
        train(begin(resolved, tmp_path / "run"), Stop())
    assert train(begin(resolved, tmp_path / "run"), Stop()) == "done"
    ours, whole = (read_summary(tmp_path / name / "summary.json") for name in ("run", "whole"))
    assert {key: ours[key] for key in ("val_loss", "train_loss", "iters")} == {
        key: whole[key] for key in ("val_loss", "train_loss", "iters")
    }
    assert len(list((tmp_path / "run" / "checkpoints").iterdir())) == {"all": 4, "weights": 2, "none": 0}[keep]
