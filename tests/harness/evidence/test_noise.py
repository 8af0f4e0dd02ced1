"""Noise, told apart by where it comes from."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from harness.evidence.noise import Noise, measure_noise, spread_of_reruns
from harness.evidence.paired import seeds_needed
from harness.evidence.stats import compare
from harness.evidence.store import load_experiment
from tests.harness.synthetic_runs import write_lengths, write_reruns, write_run

OURS, THEIRS = [3.50, 3.53, 3.49, 3.52], [3.51, 3.52, 3.48, 3.53]


def write_pairs(path: Path, ours: list[float] = OURS, theirs: list[float] = THEIRS) -> None:
    for seed, (a, b) in enumerate(zip(ours, theirs, strict=True), start=1):
        write_run(path, "baseline", seed, val_loss=b)
        write_run(path, "ra-v5-eager", seed, val_loss=a)


def noise_of(path: Path) -> Noise:
    experiment = load_experiment(path)
    (found,) = measure_noise(experiment, compare(experiment))
    return found


def test_spread_correlation_and_what_pairing_gains(tmp_path: Path) -> None:
    write_pairs(tmp_path)
    noise = noise_of(tmp_path)
    a, b = np.array(OURS), np.array(THEIRS)
    assert (noise.n, noise.sd_rerun, noise.reruns, noise.needed) == (4, None, 0, ())
    found = (noise.sd_step, noise.sd_reference, noise.sd_difference, noise.correlation)
    assert found == pytest.approx((a.std(ddof=1), b.std(ddof=1), (a - b).std(ddof=1), np.corrcoef(a, b)[0, 1]))
    assert noise.pairing == pytest.approx((a.var() + b.var()) / (a - b).var())


def test_runs_again_are_told_from_other_seeds(tmp_path: Path) -> None:
    write_pairs(tmp_path)
    write_reruns(tmp_path, [[x + 0.003 for x in THEIRS]])
    experiment = load_experiment(tmp_path)
    assert spread_of_reruns(experiment.arms[0], experiment) == (pytest.approx(0.003), 4)
    write_reruns(tmp_path, [THEIRS, THEIRS])
    experiment = load_experiment(tmp_path)
    assert spread_of_reruns(experiment.arms[0], experiment) == (0.0, 8)
    assert noise_of(tmp_path).sd_rerun == 0.0


def test_seeds_that_an_effect_needs_and_what_they_cost(tmp_path: Path) -> None:
    write_pairs(tmp_path)
    write_lengths(tmp_path, THEIRS)
    noise = noise_of(tmp_path)
    assert [needed.effect for needed in noise.needed] == [0.005, 0.01, 0.02]
    for needed in noise.needed:
        assert needed.seeds == seeds_needed(noise.sd_difference, 0.67 * math.log1p(needed.effect))
        assert needed.device_hours == pytest.approx(needed.seeds * 2 * (500 * 0.1 + 30) / 3600)
    write_run(tmp_path, "ra-v5-direct", 1, val_loss=3.5)
    write_run(tmp_path, "ra-v5-direct", 2, val_loss=3.6)
    experiment = load_experiment(tmp_path)
    among = measure_noise(experiment, compare(experiment))[0]
    assert [a.seeds for a in among.needed] > [n.seeds for n in noise.needed]  # as one of two comparisons


def test_arms_that_do_not_vary_have_no_correlation(tmp_path: Path) -> None:
    write_pairs(tmp_path, [3.5, 3.5, 3.5], [3.5, 3.5, 3.5])
    noise = noise_of(tmp_path)
    assert (noise.correlation, noise.pairing, noise.sd_difference) == (None, None, 0.0)
