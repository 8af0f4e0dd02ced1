"""docs/scaling.md says what the script says, and the script what follows from the records."""

from __future__ import annotations

from typing import Any

import pytest

from gpt2.base.files import ROOT, read_json
from harness.launch.scaling import ASSUMED, Calibration, scaling
from scripts.scaling import CALIBRATION, tables


@pytest.fixture(scope="module")
def calibration() -> Calibration:
    return Calibration.read(*CALIBRATION)


@pytest.fixture(scope="module")
def answer(calibration: Calibration) -> dict[str, Any]:
    return scaling(calibration, ASSUMED)


def test_the_document_and_the_record_are_what_the_script_says(calibration: Calibration, answer: dict[str, Any]) -> None:
    text = (ROOT / "docs" / "scaling.md").read_text()
    for table in tables(answer, calibration):
        assert table in text
    recorded = read_json(ROOT / "results" / "cpu" / "scaling.json")
    assert recorded.keys() == answer.keys() and recorded["assumed"] == answer["assumed"]
    for part in ("models", "memory", "one_run", "ablations"):
        for ours, theirs in zip(answer[part], recorded[part], strict=True):
            assert ours == pytest.approx(theirs)


def test_the_model_that_was_measured_comes_out_as_measured(answer: dict[str, Any]) -> None:
    rows = read_json(ROOT / "results" / "h100" / "training-b64.json")["rows"]
    peak = next(row["peak_mem_gib"] for row in rows if row["arm"] == "baseline" and row["compiled"])
    small = answer["memory"][0]
    assert (small["model"], small["gpus"], small["activation_checkpointing"]) == ("124M", 1, False)
    assert small["fixed_gib"] + 64 * small["gib_per_sequence"] == pytest.approx(peak)


def test_sharding_and_recomputing_take_less_memory_and_larger_models_more(answer: dict[str, Any]) -> None:
    of = {
        (m["model"], m["strategy"], m["gpus"], m["activation_checkpointing"]): m["fixed_gib"] + m["gib_per_sequence"]
        for m in answer["memory"]
    }
    for model in ("124M", "medium", "large", "XL"):
        order = [("DDP", 1), ("ZeRO-1", 8), ("ZeRO-1", 64), ("FSDP2", 8), ("FSDP2", 64)]
        sizes = [of[(model, *kind, False)] for kind in order]
        assert sizes == sorted(sizes, reverse=True)
        assert all(of[(model, *kind, True)] < of[(model, *kind, False)] for kind in order)
    for kind in {key[1:] for key in of}:
        sizes = [of[(model, *kind)] for model in ("124M", "medium", "large", "XL")]
        assert sizes == sorted(sizes)


def test_one_run_on_more_gpus_lies_between_the_bounds(answer: dict[str, Any]) -> None:
    for row in answer["one_run"]:
        assert row["hours_per_billion_tokens_all_hidden"] <= row["hours_per_billion_tokens_none_hidden"]
        assert 0 < row["efficiency_none_hidden"] <= 1
