"""The committed measurement of noise: recomputed from its runs, and what the documents say of it."""

from __future__ import annotations

import csv
import json
from dataclasses import asdict
from functools import cache
from pathlib import Path

import pytest

from gpt2.base.files import ROOT
from harness.evidence.comparison import COMPARISON_COLUMNS, comparison_row
from harness.evidence.stats import compare
from harness.evidence.store import Experiment, load_experiment
from harness.measure.noise import Reading, readings, table_row
from tests.harness.synthetic_runs import write_lengths, write_run

RESULTS = ROOT / "results" / "h100"


@cache
def committed(name: str) -> Experiment:
    return load_experiment(RESULTS / name)


@cache
def recomputed() -> list[Reading]:
    return readings(committed("gpt2-noise"))


def test_the_committed_readings_are_those_of_the_committed_runs() -> None:
    recorded = json.loads((RESULTS / "noise.json").read_text())["readings"]
    found = recomputed()
    assert len(found) == 16
    for ours, theirs in zip(found, recorded, strict=True):
        assert asdict(ours) == {k: v if isinstance(v, str) else pytest.approx(v, rel=1e-6) for k, v in theirs.items()}


@pytest.mark.parametrize("name", ["gpt2-noise", "gpt2-controls"])
def test_the_committed_comparison_is_that_of_the_committed_runs(name: str) -> None:
    with (RESULTS / name / "comparison.csv").open(newline="") as file:
        recorded = list(csv.DictReader(file))
    found = [comparison_row(c) for c in compare(committed(name))]
    assert list(recorded[0]) == list(COMPARISON_COLUMNS)
    for ours, theirs in zip(found, recorded, strict=True):
        for column, value in ours.items():
            if isinstance(value, float):
                assert float(theirs[column]) == pytest.approx(value, rel=1e-6, abs=1e-12), (ours["step"], column)
            else:
                assert theirs[column] == ("" if value is None else str(value))


def test_the_documents_say_what_was_recorded() -> None:
    text = (ROOT / "docs" / "evidence.md").read_text()
    for reading in recomputed():
        assert f"| {' | '.join(table_row(reading))} |" in text


def test_a_reading_is_of_what_the_runs_say(tmp_path: Path) -> None:
    for seed, delta in enumerate((-0.010, -0.012, -0.014), start=1):
        write_run(tmp_path, "baseline", seed, val_loss=3.5 + 0.01 * seed)
        write_run(tmp_path, "ra-v5-eager", seed, val_loss=3.5 + 0.01 * seed + delta)
    assert readings(load_experiment(tmp_path)) == []  # without lengths there is no compute
    write_lengths(tmp_path, [3.51, 3.52, 3.53])
    (reading,) = readings(load_experiment(tmp_path))  # its runs have no average and no tail
    assert (reading.reading, reading.seeds) == ("val_loss", 3)
    assert reading.sd_difference == pytest.approx(0.002)
    assert reading.noise == pytest.approx(0.002 / reading.slope)
    assert reading.noise_low < reading.noise < reading.noise_high
