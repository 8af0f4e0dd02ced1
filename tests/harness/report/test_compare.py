"""Two experiments side by side: what differs, which effects may be compared, and how their difference is told."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from gpt2.base.errors import UserError
from harness.evidence.comparison import Comparison
from harness.evidence.stats import compare as compare_arms
from harness.evidence.store import Experiment, load_experiment
from harness.evidence.unpaired import Estimate, mover
from harness.report import compare as side
from harness.report.compare import SideBySide, render_comparison, side_by_side
from harness.report.tables import Table
from scripts import compare
from tests.harness.synthetic_runs import write_run


def write(path: Path, deltas: Sequence[float], step: str = "ra-v5-eager", **facts: Any) -> Path:
    """An experiment of a baseline and a step that differs from it by `deltas`, seed by seed."""
    own = facts.pop("own", {"ATTENTION": "ra_v5", "RA_V5_R": 4})
    both = facts.pop("identity", {})
    for seed, delta in enumerate(deltas, start=1):
        write_run(path, "baseline", seed, val_loss=3.5 + 0.01 * seed, title="Baseline", identity=both, **facts)
        loss = 3.5 + 0.01 * seed + delta
        write_run(path, step, seed, val_loss=loss, title="RA v5", identity=both | own, **facts)
    return path


def compared(a: Path, b: Path) -> dict[str, Table]:
    return {table.title: table for table in side_by_side(load_experiment(a), load_experiment(b)).tables}


A = [-0.010, -0.011, -0.012]


def test_what_differs_in_settings_code_and_machines(tmp_path: Path) -> None:
    a = write(tmp_path / "a", A)
    b = write(tmp_path / "b", A, identity={"LEARNING_RATE": 1e-3}, torch_version="2.14.0", commit="e" * 40)
    tables = compared(a, b)
    assert tables["Settings that differ"].rows == [["LEARNING_RATE", "0.0006", "0.001", "all"]]
    assert tables["Code and machines that differ"].rows == [
        ["commit", "c" * 12, "e" * 12],
        ["torch", "2.13.0", "2.14.0"],
    ]


def test_nats_are_compared_where_the_reference_is_the_same_run(tmp_path: Path) -> None:
    a, b = write(tmp_path / "a", A), write(tmp_path / "b", [0.010, 0.012, 0.014])
    (row,) = compared(a, b)["Effects"].rows
    assert row[0] == "RA v5" and row[3].startswith("+0.0230 (") and row[4] == "yes"
    (row,) = compared(a, write(tmp_path / "c", [-0.012, -0.010, -0.011]))["Effects"].rows
    assert row[4] == "not shown"


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (
            lambda path: write(path, A, own={"ATTENTION": "ra_v5", "RA_V5_R": 8}),
            "another arm: RA_V5_R is 4 in A, and 8",
        ),
        (lambda path: write(path, A, identity={"MAX_ITERS": 900}), "no slope in A and B .* where MAX_ITERS differs"),
        (lambda path: write(path, A, data_hash="e" * 64), "no slope in A and B .* where DATA_HASH differs"),
        (lambda path: write(path, A[:1]), "has 1 finished pair in B: two are the least"),
        (lambda path: write(path, A, step="mla"), "is in A alone"),
        (lambda path: write_run(path, "ra-v5-eager", 1).parents[1], "has no reference in B"),
        (lambda path: write(path, A, reference="mla"), "has no reference in B"),
    ],
)
def test_what_cannot_be_compared_says_why(tmp_path: Path, make: Callable[[Path], Path], reason: str) -> None:
    tables = compared(write(tmp_path / "a", A), make(tmp_path / "b"))
    assert tables["Effects"].rows == []
    assert re.search(reason, tables["What cannot be compared"].rows[0][1])


def test_effects_in_compute_are_compared_at_any_length(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    a, b = write(tmp_path / "a", A), write(tmp_path / "b", A, identity={"MAX_ITERS": 900})
    effects = {"a": (0.02, 0.01, 0.03), "b": (0.10, 0.07, 0.20)}

    def with_slopes(experiment: Experiment) -> list[Comparison]:
        value, low, high = effects[experiment.name]
        return [replace(c, compute=value, compute_low=low, compute_high=high) for c in compare_arms(experiment)]

    monkeypatch.setattr(side, "compare", with_slopes)
    (row,) = compared(a, b)["Effects"].rows
    expected = mover(Estimate(value=0.02, low=0.01, high=0.03), Estimate(value=0.10, low=0.07, high=0.20))
    assert (expected.low, expected.high) == pytest.approx((0.08 - np.hypot(0.03, 0.01), 0.08 + np.hypot(0.1, 0.01)))
    assert row[1:] == ["+2 % (+1 % to +3 %)", "+10 % (+7 % to +20 %)", "+8 % (+4.8 % to +18 %)", "yes"]


def test_the_command_prints_writes_and_takes_make_variables(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    a, b = write(tmp_path / "a", A), write(tmp_path / "b", [0.010, 0.012, 0.014], device_name="NVIDIA H200")
    out = tmp_path / "both.md"
    monkeypatch.setattr("sys.argv", ["compare"])
    monkeypatch.setenv("MAKEFLAGS", f" -- A={a} B={b} OUT={out}")
    monkeypatch.setattr("gpt2.base.terminal.console", lambda: Console(width=80, highlight=False))
    compare.main()
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines[:-1])) <= 80
    assert any("NVIDIA H200" in line for line in lines) and lines[-1] == str(out)
    assert "NVIDIA H200" in out.read_text() and "B - A" in out.read_text()


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ("", "say which two: make compare A=results/NAME B=results/OTHER"),
        ("A=.", "say which two"),
        ("A=. B=. C=1", "C: is none of A, B, OUT"),
        ("A=. B=.", "are the same experiment"),
        ("A=. B=nowhere", "B=nowhere: there is no such directory"),
        ("A=. B=/ OUT=no/where.md", "no/where.md: there is no directory no"),
        ("A=. B=/", "holds no runs"),
    ],
)
def test_mistakes_are_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variables: str, message: str) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["compare"])
    monkeypatch.setenv("MAKEFLAGS", f" -- {variables}")
    with pytest.raises(UserError, match=message):
        compare.main()


def test_nothing_in_it_is_obeyed() -> None:
    table = Table(title="t", columns=["of", "A"], rows=[["<b>*x*</b>", "a|b"]], text_columns=2)
    text = render_comparison(SideBySide(names=("a", "b"), tables=[table]))
    assert "<b>" not in text and r"\*x\*" in text and r"a\|b" in text
