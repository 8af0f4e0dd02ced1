"""A directory that holds another run: what differs, and how to go on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from gpt2.base.errors import UserError
from gpt2.base.files import write_json
from gpt2.run.record import check_identity
from tests.harness.synthetic_runs import provenance_of


def refusal(directory: Path, theirs: dict[str, Any], ours: dict[str, Any]) -> str:
    write_json(directory / "provenance.json", provenance_of(theirs))
    with pytest.raises(UserError) as caught:
        check_identity(directory, ours)
    return str(caught.value)


def test_a_longer_run_is_told_how_to_train_on(tmp_path: Path) -> None:
    directory = tmp_path / "a run"
    checkpoints = directory / "checkpoints"
    checkpoints.mkdir(parents=True)
    for step in (50, 100):
        (checkpoints / f"step-{step:08d}.pt").touch()
    said = refusal(directory, {"MAX_ITERS": 100, "SEED": 1}, {"MAX_ITERS": 150, "SEED": 1})
    assert "CONFIG_MAX_ITERS is 100 there and 150 here" in said
    assert said.endswith(
        f"take another name: make INIT_FROM='{checkpoints}/step-00000100.pt' MODEL_NAME=NAME MAX_ITERS=50"
    )
    assert "\n" not in said


@pytest.mark.parametrize("ours", [{"MAX_ITERS": 50, "SEED": 1}, {"MAX_ITERS": 100, "SEED": 2}])
def test_what_would_not_go_on_is_not_told_so(tmp_path: Path, ours: dict[str, Any]) -> None:
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints/step-00000100.pt").touch()
    assert "INIT_FROM" not in refusal(tmp_path, {"MAX_ITERS": 100, "SEED": 1}, ours)


def test_without_a_checkpoint_there_is_nothing_to_go_on_from(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text('{"kind": "train", "step": 1}\n')
    assert "INIT_FROM" not in refusal(tmp_path, {"MAX_ITERS": 100}, {"MAX_ITERS": 150})
