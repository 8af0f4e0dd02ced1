"""The parity check: it passes where variants are their baseline, to the bit, and notices where they are not."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from gpt2.checks import parity
from gpt2.checks.parity import VARIANTS, Difference, Parity, Setting, Variant, compare, settings
from scripts import check_parity


def setting(**changes: Any) -> Setting:
    return dataclasses.replace(Setting(dtype="float32", bias=True, training=True, compiled=False), **changes)


@pytest.fixture(autouse=True)
def _smaller(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parity, "T", 16)
    monkeypatch.setitem(parity.SHAPE, "vocab_size", 64)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("changes", [{}, {"bias": False}, {"training": False}], ids=str)
def test_every_variant_equals_its_baseline_to_the_bit(dtype: str, changes: dict[str, bool]) -> None:
    rows = list(compare(setting(dtype=dtype, **changes)))
    assert [row.variant for row in rows] == list(VARIANTS)
    for row in rows:
        assert row.passed, row
        assert row.output.max_diff == row.loss == 0, row
        assert (row.gradient is None) == (not row.setting.training)
        assert row.gradient is None or row.gradient.max_diff == 0, row


@pytest.mark.slow
@pytest.mark.parametrize("training", [True, False])
def test_compiled_variants_equal_their_compiled_baselines(training: bool) -> None:
    for row in compare(setting(training=training, compiled=True)):
        assert row.passed, row


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("name", [name for name in VARIANTS if name != "gqa"])
def test_what_is_off_by_little_is_noticed(name: str, training: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parity, "VARIANTS", {name: off_by_little(name)})
    (row,) = compare(setting(training=training))
    assert not row.passed
    assert row.output.max_diff > parity.MAX_DIFF_FLOAT32


def off_by_little(name: str) -> Variant:
    """A variant, all of whose gates, or one of whose options, are beside where it is the baseline."""
    variant = VARIANTS[name]
    beside = {"value_residual": {"mix": "0.01"}, "sliding_window": {"size": parity.T - 1}}
    if name in beside:
        return dataclasses.replace(variant, settings={**variant.settings, "attention_options": beside[name]})
    return dataclasses.replace(variant, gates={gate: at + 0.01 for gate, at in variant.gates.items()})


def test_the_seeds_criteria_hold_in_reduced_precision_and_ours_in_float32() -> None:
    def passed(dtype: str, max_diff: float, cosine: float = 1.0, loss: float = 0.0, device: str = "cpu") -> bool:
        difference = Difference(max_diff, cosine)
        fine = Difference(0.0, 1.0)
        row = {"variant": "", "reference": "", "setting": setting(dtype=dtype, device=device), "loss": loss}
        results = {
            Parity(**row, output=difference, gradient=fine).passed,  # type: ignore[arg-type]
            Parity(**row, output=fine, gradient=difference).passed,  # type: ignore[arg-type]
        }
        assert len(results) == 1, "gradients and outputs are judged alike"
        return results.pop()

    assert passed("float16", 1e-3)
    assert not passed("float16", 1.1e-3)
    assert not passed("float16", 1e-4, cosine=0.999)
    assert not passed("float16", 0, loss=2e-3)
    assert passed("float32", 1e-6)
    assert not passed("float32", 2e-6)
    assert passed("float32", 1e-5, device="cuda")
    assert not passed("float32", 2e-5, device="cuda")
    assert not passed("float16", float("nan"))
    assert not passed("float16", 0, loss=float("nan"))


def test_settings_cover_every_combination_once() -> None:
    eager, both = settings("cpu", compiled=False), settings("cpu", compiled=True)
    assert len(eager) == len(set(eager)) == 3 * 2 * 2
    assert set(both) == {dataclasses.replace(s, compiled=c) for s in eager for c in (False, True)}


@pytest.mark.parametrize(("w_rec", "status"), [(0.0, 0), (0.5, 1)])
def test_the_command_fails_if_a_comparison_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], w_rec: float, status: int
) -> None:
    monkeypatch.setattr(parity, "VARIANTS", {"it": dataclasses.replace(VARIANTS["ra_v5 lerp"], gates={"w_rec": w_rec})})
    options = ["--device", "cpu", "--dtypes", "float32", "--json", str(tmp_path / "parity.json")]
    monkeypatch.setattr("sys.argv", ["check_parity", *options])
    assert check_parity.main() == status
    assert f"{0 if status else 4} of 4 comparisons passed" in capsys.readouterr().out
    written = json.loads((tmp_path / "parity.json").read_text())
    assert [row["passed"] for row in written["rows"]] == [not status] * 4
    assert all((row["output"]["max_diff"] == 0) == (not status) for row in written["rows"])
