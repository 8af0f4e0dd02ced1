"""What a run that is being trained is heard to say."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from harness.launch.running import MetricsTail
from harness.launch.terminal import LiveView


def test_tail_gives_whole_lines_only(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    tail = MetricsTail(path)
    assert list(tail.lines()) == []
    first, second = ({"kind": "eval", "step": step, "val_loss": 2.5} for step in (1, 2))
    path.write_text(f"{json.dumps(first)}\n{json.dumps(second)[:9]}")
    assert list(tail.lines()) == [first]
    with path.open("a") as file:
        file.write(f"{json.dumps(second)[9:]}\n")
    assert list(tail.lines()) == [second]
    assert list(tail.lines()) == []


TRAIN = {"kind": "train", "step": 4, "loss": 2.5, "ms_per_step": 10.0, "tokens_per_s": 100.0, "shared": False}
LIVE = [TRAIN, {"kind": "eval", "step": 4, "val_loss": 2.5}, {"kind": "event", "step": 4, "event": "x", "message": "y"}]


@given(
    line=st.sampled_from(LIVE),
    key=st.sampled_from(sorted({key for line in LIVE for key in line})),
    value=st.sampled_from([None, "x", "", [], {}, -1, True, 1e300, float("nan"), "absent"]),
)
def test_a_line_that_is_not_the_trainer_s_is_shown_to_nobody_and_ends_nothing(
    tmp_path_factory: pytest.TempPathFactory, line: dict[str, Any], key: str, value: object
) -> None:
    path = tmp_path_factory.mktemp("run") / "metrics.jsonl"
    tail, out = MetricsTail(path), io.StringIO()
    changed = {k: v for k, v in (line | {key: value}).items() if v != "absent"}
    path.write_bytes(b"\0\0\n[1]\n" + json.dumps(changed).encode() + b"\n" + json.dumps(TRAIN).encode() + b"\n")
    with LiveView([("a/seed-1", 12)], Console(file=out)) as view:
        view.started("a/seed-1")
        for shown in tail.lines():
            view.update("a/seed-1", shown)
    assert "step 4/12, " in out.getvalue()
