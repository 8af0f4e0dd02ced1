"""What makes took, read back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from harness.evidence.launches import mean_efficiency, mean_error, read_launches
from harness.evidence.stats import compare
from harness.evidence.store import load_experiment
from harness.report.report import make_report
from tests.harness.synthetic_runs import write_ablation


def line(**values: Any) -> str:
    known = {"ended": "2026-01-01T00:00:00+00:00", "devices": 2, "slots": 2, "runs": 12, "train_s": 180.0}
    return json.dumps(known | {"wall_s": 100.0, "efficiency": 0.9, "predicted_s": None} | values) + "\n"


def write(folder: Path, *lines: str) -> Path:
    (folder / "launches.jsonl").write_text("".join(lines))
    return folder


def facts_of(folder: Path) -> dict[str, str]:
    experiment = load_experiment(folder)
    return dict(make_report(experiment, compare(experiment), []).facts)


def test_error_is_of_what_it_took(tmp_path: Path) -> None:
    none, long, short = read_launches(write(tmp_path, line(), line(predicted_s=200), line(predicted_s=50)))
    assert (none.error, long.error, short.error) == (None, 1.0, -0.5)
    assert mean_error([none]) is None
    assert mean_error([none, long, short]) == (2, pytest.approx(1.0))  # twice and half as long are equally wrong
    assert mean_error(read_launches(tmp_path / "absent")) is None


@pytest.mark.parametrize(
    "bad", [line()[:30], "[]\n", "null\n", "\n", line(wall_s=0), line(wall_s=None), line(devices="2"),
            line(train_s=-1), line(predicted_s="1"), line(predicted_s=0), "[" * 100_000, line(slots=None),
            line(device_s="1"), line(device_s=-1), line(device_s=float("nan")), line(slots=0), line(predicted_s=1e-20)]
)  # fmt: skip
def test_lines_that_are_none_of_a_runners_are_left_out(tmp_path: Path, bad: str) -> None:
    assert len(read_launches(write(tmp_path, line(), bad + "\n", line()))) == 2


def test_the_report_says_what_makes_took_and_how_far_estimates_were_off(tmp_path: Path) -> None:
    write_ablation(tmp_path)
    assert "Launches" not in facts_of(tmp_path)
    write(tmp_path, line(predicted_s=110), line(runs=0, train_s=0))
    facts = facts_of(tmp_path)
    assert facts["Launches"] == "1; 0.0556 device hours, efficiency 0.90; 1 estimate, off by 10% on average"
    write_ablation(tmp_path / "tuning")
    write(tmp_path / "tuning", line())
    (tmp_path / "noise").mkdir()
    write(tmp_path / "noise", line())  # and no run
    assert facts_of(tmp_path)["Launches"].startswith("2; 0.111 device hours, efficiency 0.90; ")
    (tmp_path / "launches.jsonl").unlink()
    (tmp_path / "launches.jsonl").mkdir()
    assert "Launches" not in facts_of(tmp_path)


def test_of_a_queue_there_are_device_hours_and_no_efficiency(tmp_path: Path) -> None:
    write_ablation(tmp_path)
    queued = line(devices=None, slots=None, efficiency=None, device_s=3600.0, wall_s=86400.0)
    write(tmp_path, queued, line(devices=None, slots=None, device_s=0))
    assert mean_efficiency(read_launches(tmp_path)) is None
    assert facts_of(tmp_path)["Launches"] == "2; 1 device hours"
    write(tmp_path, queued, line())
    assert facts_of(tmp_path)["Launches"] == "2; 1.06 device hours, efficiency 0.90"
    for of in read_launches(tmp_path):
        (tmp_path / "again").mkdir(exist_ok=True)
        of.record(tmp_path / "again")
    assert read_launches(tmp_path / "again") == read_launches(tmp_path)
