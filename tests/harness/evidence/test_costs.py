"""Costs are compared where what they depend on is the same, as far as is recorded; losses are compared all the same."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from harness.evidence.stats import compare
from harness.evidence.store import load_experiment
from tests.harness.synthetic_runs import write_run

FACTS = {
    "threads": ("hardware", "threads", 8, 16),
    "driver": ("hardware", "driver", "580.1", "570.2"),
    "torch": ("versions", "torch", "2.13.0", "2.12.0"),
    "CUDA": ("versions", "cuda", "13.0", None),
    "cuDNN": ("versions", "cudnn", "91900", "91500"),
    "Triton": ("versions", "triton", "3.6.0", "3.5.0"),
    "kernel of attention": ("sdpa", "ran", "cudnn", "flash"),
    "matrix products": ("products", "ran", "torch", "cublaslt"),
}
COSTS = {"ms_per_step", "tokens_per_s", "peak_mem_gib", "train_time_s"}


def provenance(run: Path, **changes: dict[str, Any]) -> None:
    path = run / "provenance.json"
    content = json.loads(path.read_text())
    for section, values in changes.items():
        content[section] = content[section] + values if section == "resumed" else content.get(section, {}) | values
    path.write_text(json.dumps(content))


def not_comparable(tmp_path: Path, ours: dict[str, Any], theirs: dict[str, Any]) -> dict[str, str]:
    """Metric -> note, of what is not comparable between a run of the baseline and one of an arm."""
    for step, changes in {"baseline": theirs, "ra-v5-eager": ours}.items():
        for seed in (1, 2, 3):
            run = write_run(tmp_path / "experiment", step, seed, val_loss=3.5 + seed / 100)
            provenance(run, hardware={"threads": 8}, versions={"cudnn": "91900"})
            provenance(run, sdpa={"asked": "auto", "ran": "cudnn"}, products={"asked": "auto", "ran": "torch"})
            provenance(run, **changes)
    found = compare(load_experiment(tmp_path / "experiment"))
    assert {c.metric.name for c in found} >= {"val_loss", *COSTS}
    return {c.metric.name: c.note for c in found if c.verdict == "not comparable"}


def test_of_the_same_they_are_compared(tmp_path: Path) -> None:
    assert not not_comparable(tmp_path, {}, {})


@pytest.mark.parametrize("name", FACTS)
def test_of_another_they_are_not(tmp_path: Path, name: str) -> None:
    section, key, ours, theirs = FACTS[name]
    notes = not_comparable(tmp_path, {section: {key: ours}}, {section: {key: theirs}})
    assert notes.keys() == COSTS
    for note in notes.values():
        assert note.startswith(f"{name} differs: {ours} vs {'none' if theirs is None else theirs}")


def test_what_was_not_recorded_is_not_known_to_be_the_same(tmp_path: Path) -> None:
    def forget(run: Path, *sections: str) -> None:
        path = run / "provenance.json"
        content = json.loads(path.read_text())
        path.write_text(json.dumps({key: value for key, value in content.items() if key not in sections}))

    not_comparable(tmp_path, {}, {})
    runs = {step: list((tmp_path / "experiment" / step).iterdir()) for step in ("baseline", "ra-v5-eager")}
    for run in runs["baseline"]:
        forget(run, "sdpa")
    found = [c for c in compare(load_experiment(tmp_path / "experiment")) if c.metric.name in COSTS]
    assert {c.verdict for c in found} == {"not comparable"}
    assert all("kernel of attention differs: cudnn vs not recorded" in c.note for c in found)
    for run in runs["ra-v5-eager"]:
        forget(run, "sdpa")
    found = [c for c in compare(load_experiment(tmp_path / "experiment")) if c.metric.name in COSTS]
    assert "not comparable" not in {c.verdict for c in found}


def test_a_run_that_went_on_elsewhere_has_both(tmp_path: Path) -> None:
    not_comparable(tmp_path, {}, {})
    run = tmp_path / "experiment" / "ra-v5-eager" / "seed-2"
    first = json.loads((run / "provenance.json").read_text())
    again = {key: first[key] for key in ("code", "versions", "hardware", "sdpa", "products")} | {"step": 4}
    again["sdpa"] = {"asked": "auto", "ran": "flash"}
    (run / "provenance.json").write_text(json.dumps(first | {"resumed": [again]}))
    found = [c for c in compare(load_experiment(tmp_path / "experiment")) if c.metric.name in COSTS]
    assert all("kernel of attention differs: cudnn, then flash vs cudnn" in c.note for c in found)
