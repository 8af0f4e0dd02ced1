"""What differs between runs and should not."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from harness.configure.tuning import Choice, Trial, Tuned, write_tuned
from harness.evidence.contamination import contamination, identity_differences
from harness.evidence.store import load_experiment
from tests.harness.synthetic_runs import write_ablation, write_run


def test_a_clean_ablation_has_nothing_against_it(tmp_path: Path) -> None:
    write_ablation(tmp_path)
    assert contamination(load_experiment(tmp_path)) == []


@pytest.mark.parametrize(
    ("difference", "warning"),
    [
        (
            {"data_hash": "e" * 64},
            "data differs between runs: dddddddddddd (baseline/seed-1); eeeeeeeeeeee (ra-v5-eager",
        ),
        ({"device_name": "cpu"}, "device differs between runs: "),
        ({"torch_version": "2.6.0"}, "torch version differs between runs: 2.13.0 (baseline/seed-1); 2.6.0 ("),
        ({"commit": "b" * 40}, "code commit differs between runs: cccccccccccc"),
        (
            {"identity": {"LEARNING_RATE": 1e-3}},
            "ra-v5-eager: LEARNING_RATE is 0.001, but 0.0006 in its reference baseline, and the step does not ask",
        ),
    ],
)
def test_contamination_is_named(tmp_path: Path, difference: dict[str, object], warning: str) -> None:
    write_run(tmp_path, "baseline", 1)
    write_run(tmp_path, "ra-v5-eager", 1, **difference)  # type: ignore[arg-type]
    (found,) = contamination(load_experiment(tmp_path))
    assert found.startswith(warning)


@pytest.mark.parametrize(
    ("of_one", "of_the_other", "is_told"),
    [(None, "torch", False), ("torch", "torch", False), (None, "cublaslt", True), ("cublaslt", "torch", True)],
)
def test_other_matrix_products_are_told(
    tmp_path: Path, of_one: str | None, of_the_other: str | None, is_told: bool
) -> None:
    for arm, ran in {"baseline": of_one, "ra-v5-eager": of_the_other}.items():
        path = write_run(tmp_path, arm, 1) / "provenance.json"
        recorded = {} if ran is None else {"products": {"asked": "auto", "ran": ran}}
        path.write_text(json.dumps(json.loads(path.read_text()) | recorded))
    found = contamination(load_experiment(tmp_path))
    assert [line.partition(":")[0] for line in found] == ["who made matrix products differs between runs"] * is_told


def test_what_a_step_sets_or_sweeps_is_not_contamination(tmp_path: Path) -> None:
    write_run(tmp_path, "baseline", 1, identity={"COMPILE": "none"})
    write_run(tmp_path, "ra-v5-compiled@LEARNING_RATE=1e-3", 1, identity={"COMPILE": "model", "LEARNING_RATE": 1e-3})
    assert contamination(load_experiment(tmp_path)) == []


def test_what_was_tuned_is_not_contamination_and_what_was_not_is(tmp_path: Path) -> None:
    write_run(tmp_path, "baseline", 1, identity={"WEIGHT_DECAY": 0.1})
    write_run(tmp_path, "ra-v5-eager", 1, identity={"LEARNING_RATE": 1e-3, "WEIGHT_DECAY": 0.2})
    choices = {
        arm: Choice(
            settings={"LEARNING_RATE": rate},
            trials=(Trial(arm=arm, settings={"LEARNING_RATE": rate}, val_loss=3.0),),
            at_edge=(),
        )
        for arm, rate in (("baseline", "6e-4"), ("ra-v5-eager", "1e-3"))
    }
    write_tuned(tmp_path, Tuned(asked=(("LEARNING_RATE", ("6e-4", "1e-3")),), seeds=(1001,), runs=2, choices=choices))
    (found,) = contamination(load_experiment(tmp_path))
    assert found.startswith("ra-v5-eager: WEIGHT_DECAY is 0.2, but 0.1 in its reference baseline")


def test_seeds_of_an_arm_that_differ_in_a_setting_are_named(tmp_path: Path) -> None:
    write_run(tmp_path, "baseline", 1)
    write_run(tmp_path, "baseline", 2, identity={"LEARNING_RATE": 1e-3})
    assert contamination(load_experiment(tmp_path)) == [
        "baseline/seed-2: LEARNING_RATE is 0.001, unlike 0.0006 in baseline/seed-1"
    ]


def test_identity_differences_leave_out_seed_and_data(tmp_path: Path) -> None:
    write_run(tmp_path, "baseline", 1)
    write_run(tmp_path, "ra-v5-eager", 2, data_hash="e" * 64, identity={"ATTENTION": "ra_v5", "RA_V5_R": 4})
    baseline, ra = load_experiment(tmp_path).arms
    found = [(d.symbol, d.value, d.reference_value) for d in identity_differences(ra, baseline)]
    assert found == [("ATTENTION", "ra_v5", "baseline"), ("RA_V5_R", 4, None)]
