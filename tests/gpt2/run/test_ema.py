"""The moving average of weights: what it is, that it changes no training, and that it survives stops."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from gpt2 import train_ra_mla
from gpt2.base.errors import UserError
from gpt2.run.checkpoint import read_checkpoint, save_checkpoint
from gpt2.run.ema import WeightAverage
from gpt2.run.evaluation import tail_steps
from gpt2.run.parts import Parts
from gpt2.run.run import Run
from gpt2.run.stop import Stop
from gpt2.symbols import run_config
from gpt2.train_ra_mla import mean_loss, train, train_step
from tests.gpt2.run.test_resume import Looked, counting, result
from tests.tiny import tiny

SETTINGS = {"EMA_DECAY": "0.8", "EVAL_TAIL": "3", "MAX_ITERS": "17", "EVAL_INTERVAL": "5", "CHECKPOINT_INTERVAL": "2"}


def trained(folder: Path, out: str, **symbols: str) -> Path:
    path = folder / out
    path.mkdir(exist_ok=True)
    assert train(Run(run_config(tiny(folder, **symbols).symbols), path), Stop()) == "done"
    return path


def evaluations(out: Path) -> list[dict[str, Any]]:
    return [line for line in counting(out) if line["kind"] == "eval"]


def test_where_a_loss_of_the_average_stops_being_finite_is_looked_for_in_the_average(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, name = tmp_path / "run", "transformer.h.1.mlp.c_fc.weight"
    out.mkdir()

    def poisoning(parts: Parts, batch: Any, *, step: int) -> torch.Tensor:
        taken = train_step(parts, batch, step=step)
        assert parts.average is not None
        if step == 4:
            parts.average.state_dict()[name][0, 0] = float("nan")
        return taken

    monkeypatch.setattr(train_ra_mla, "train_step", poisoning)
    run = Run(run_config(tiny(tmp_path, **SETTINGS).symbols), out)
    assert train(run, Stop()) == "failed"
    error = json.loads((out / "summary.json").read_text())["error"]
    where = "evaluation at step 5: loss of the averaged weights nan; first not finite: the weight"
    assert error.startswith(f"{where} {name}; ")
    assert bool(dict(run.parts.model.named_parameters())[name].isfinite().all())


@pytest.mark.parametrize("decay", [0.0, 0.3, 0.99])
def test_it_is_the_mean_by_its_formula(decay: float) -> None:
    torch.manual_seed(1)
    model = nn.Linear(3, 2)
    average = WeightAverage(model, decay)
    seen = []
    for step in range(1, 8):
        with torch.no_grad():
            model.weight.add_(torch.randn(2, 3))
        seen.append(model.weight.detach().double())
        average.update(step)
        weights = [decay ** (step - i) for i in range(1, step + 1)]
        expected = sum(w * of for w, of in zip(weights, seen, strict=True)) / sum(weights)
        torch.testing.assert_close(average.state_dict()["weight"].double(), expected, rtol=1e-5, atol=1e-6)
    before = model.weight.clone()
    with average.in_place():
        assert torch.equal(average.state_dict()["weight"], before)
    assert torch.equal(model.weight, before)


@pytest.mark.parametrize(
    "symbols",
    [{}, {"DTYPE_FLOAT16": "y"}, pytest.param({"COMPILE_MODEL": "y"}, marks=pytest.mark.slow)],
    ids=lambda symbols: "".join(symbols) or "float32",
)
def test_a_run_evaluates_what_the_formula_makes_of_its_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, symbols: dict[str, str]
) -> None:
    """Weights after every step are noted down, averaged in float64, and evaluated."""
    history: list[list[torch.Tensor]] = []
    step = train_ra_mla.train_step

    def noted(parts: Parts, *args: Any, **options: Any) -> torch.Tensor:
        taken = step(parts, *args, **options)
        history.append([p.detach().double() for p in parts.parameters])
        return taken

    monkeypatch.setattr(train_ra_mla, "train_step", noted)
    out = trained(tmp_path, "run", **(SETTINGS | symbols))
    parts = Parts(run_config(tiny(tmp_path, **(SETTINGS | symbols)).symbols))
    of_run = {line["step"]: line["ema_val_loss"] for line in evaluations(out)}
    for at in (1, 5, 17):
        weights = [0.8 ** (at - i) for i in range(1, at + 1)]
        for j, p in enumerate(parts.parameters):
            mean = sum(w * of[j] for w, of in zip(weights, history, strict=False)) / sum(weights)
            p.data.copy_(mean)
        found = mean_loss(parts, parts.eval_set, Stop())
        if at in of_run:
            assert of_run[at] == pytest.approx(found, rel=1e-5 if not symbols else 1e-3)
    summary = json.loads((out / "summary.json").read_text())
    assert summary["ema_val_loss"] == of_run[17] != summary["val_loss"]
    assert summary["ema_val_bpb"] / summary["val_bpb"] == pytest.approx(of_run[17] / summary["val_loss"], rel=1e-9)


def test_it_changes_no_training_and_is_asked_for(tmp_path: Path) -> None:
    plain = trained(tmp_path, "plain", MAX_ITERS="17", EVAL_INTERVAL="5")
    averaged = trained(tmp_path, "averaged", EMA_DECAY="0.9", MAX_ITERS="17", EVAL_INTERVAL="5")
    ours = {k: v for line in evaluations(averaged) for k, v in line.items() if not k.startswith("ema_")}
    assert ours == {k: v for line in evaluations(plain) for k, v in line.items()}
    checkpoints = [read_checkpoint(max((out / "checkpoints").glob("*.pt"))) for out in (plain, averaged)]
    assert checkpoints[0].keys() ^ checkpoints[1].keys() == {"ema"}
    for name, weight in checkpoints[0]["model"].items():
        assert torch.equal(weight, checkpoints[1]["model"][name])
    identities = [json.loads((out / "provenance.json").read_text())["identity"] for out in (plain, averaged)]
    assert identities[1] == identities[0] | {"EMA_DECAY": 0.9}
    assert not {"ema_val_loss", "val_loss_tail"} & json.loads((plain / "summary.json").read_text()).keys()


@pytest.mark.parametrize("keep", ["ALL", "WEIGHTS", pytest.param("NONE", marks=pytest.mark.slow)])
def test_a_run_that_was_stopped_often_says_what_one_left_in_peace_says(tmp_path: Path, keep: str) -> None:
    symbols = SETTINGS | {f"CHECKPOINT_KEEP_{keep}": "y", "LOG_INTERVAL": "3"}
    peaceful = trained(tmp_path, "peaceful", **symbols)
    out = tmp_path / "parts"
    out.mkdir()
    for looks in (3, 9, 14, 20, 8, 5):
        train(Run(run_config(tiny(tmp_path, **symbols).symbols), out), Looked(looks))
    if result(out)["status"] != "done":
        trained(tmp_path, "parts", **symbols)
    assert counting(out) == counting(peaceful)
    assert result(out) == result(peaceful)
    theirs, ours = (sorted((of / "checkpoints").glob("*.pt")) for of in (peaceful, out))
    assert [path.name for path in theirs] == [path.name for path in ours]
    for a, b in zip(theirs, ours, strict=True):
        torch.testing.assert_close(read_checkpoint(a).get("ema"), read_checkpoint(b).get("ema"), rtol=0, atol=0)


@pytest.mark.parametrize("ema", [None, {}, {"lm_head.weight": torch.zeros(1)}])
def test_a_checkpoint_with_another_average_is_refused(tmp_path: Path, ema: Any) -> None:
    config = run_config(tiny(tmp_path, **SETTINGS).symbols)
    out = tmp_path / "run"
    out.mkdir()
    assert train(Run(config, out), Looked(20)) == "interrupted"
    newest = max((out / "checkpoints").glob("*.pt"))
    save_checkpoint(newest.parent, int(newest.stem[5:]), read_checkpoint(newest) | {"ema": ema})
    with pytest.raises(UserError, match=r"step-\d+\.pt: its 'ema' is no average of this run's weights"):
        Run(config, out)


def test_the_tail_is_the_mean_of_the_last_evaluations(tmp_path: Path) -> None:
    out = trained(tmp_path, "run", MAX_ITERS="80", EVAL_INTERVAL="50", EVAL_TAIL="2", CHECKPOINT_INTERVAL="0")
    losses = {line["step"]: line["val_loss"] for line in evaluations(out)}
    assert list(losses) == [0, 50, 78, 80]
    tail = json.loads((out / "summary.json").read_text())["val_loss_tail"]
    assert tail == pytest.approx(sum(losses[step] for step in (78, 80)) / 2, rel=1e-12)


@pytest.mark.parametrize(
    ("max_iters", "tail", "steps"),
    [(1000, 0, []), (1000, 1, [1000]), (1000, 5, [960, 970, 980, 990, 1000]), (4, 3, [2, 3, 4]), (2, 8, [1, 2])],
)
def test_where_the_tail_is(max_iters: int, tail: int, steps: list[int]) -> None:
    assert list(tail_steps(max_iters, tail)) == steps
