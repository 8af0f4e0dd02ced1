"""The quick quality test: which runs it makes, and what it says of them."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from gpt2.assignments import Assignment
from gpt2.base.errors import UserError
from gpt2.dotconfig import load, resolve
from gpt2.run.records import NONFINITE
from harness.configure.kconfig import find_defconfig, overlay
from harness.configure.plan import Plan
from harness.configure.quality import plan_quality, reference_step
from harness.evidence.gate_noise import superiority
from harness.evidence.quality import (
    FAIL,
    PASS,
    UNDECIDED,
    Quality,
    assess,
)
from harness.evidence.store import load_experiment
from scripts import quick_quality_test
from tests.harness.synthetic_runs import write_config, write_run
from tests.tiny import SETTINGS, tiny

HEADS = 8
"""In each of two layers."""

REFERENCE_LOSSES = (3.42, 3.43, 3.41, 3.44)


def plan(model: str, **symbols: str) -> Plan:
    overrides = [Assignment(symbol, value, "test") for symbol, value in symbols.items()]
    return plan_quality(load(find_defconfig("gpt2-quality")), model, overrides)


@pytest.mark.parametrize(
    ("model", "reference"), [("baseline", None), ("ra_v5", "baseline"), ("ra_mla", "mla"), ("mla", "baseline")]
)
def test_each_model_has_the_reference_its_step_names(model: str, reference: str | None) -> None:
    assert reference_step(model) == reference
    made = plan(model, ABLATION_SEEDS="1,2")
    pair = [reference, model] if reference else [model]
    assert [run.config.model.attention for run in made.runs] == pair * 2


def test_of_a_study_the_pair_alone_is_run_and_none_of_it_is_tuned_to_noise() -> None:
    asked = {"ABLATION_SWEEP": "DROPOUT=0.0,0.1", "STUDY_TUNE": "LEARNING_RATE=1e-3,2e-3", "STUDY_LENGTHS": "0.5"}
    asked |= {"STUDY_RERUNS": "1", "STUDY_LOOKS": "2", "ABLATION_SEEDS": "1,2", "ABLATION_SIZES": "bytes-0.1m"}
    study = overlay(load(find_defconfig("gpt2-quality")), [Assignment(s, v, "test") for s, v in asked.items()])
    made = plan_quality(study, "ra_v5", [])
    noise = made.gate_noise
    assert noise is not None and noise.trials is None and made.trials is None
    assert [run.step for run in made.runs] == ["baseline", "ra-v5-eager"] * 2
    assert [run.step for run in noise.runs] == ["ra-v5-eager"] * 2


@pytest.mark.parametrize(
    ("model", "settings", "judged"),
    [
        ("baseline", {}, False),
        ("ra_v5", {}, True),
        ("ra_v5", {"RA_V5_FOLD_LERP_KEYS": "y"}, True),
        ("ra_v5", {"RA_V5_FOLD_DIRECT": "y"}, False),
        ("ra_v5", {"RA_V5_FOLD_MATRIX": "y"}, False),
        ("ra_v5", {"RA_V5_LEARN_W_REC": "n"}, False),
        ("ra_mla", {}, True),
        ("mla", {}, False),
    ],
)
def test_gates_are_trained_on_noise_where_they_are_judged(model: str, settings: dict[str, str], judged: bool) -> None:
    noise = plan(model, ABLATION_SEEDS="3,1", **settings).gate_noise
    assert [run.seed for run in noise.runs] == [3, 1] if judged and noise else noise is None and not judged


def test_the_experiment_is_named_after_what_is_asked() -> None:
    assert plan("ra_v5").directory == Path("results/quality-ra_v5-R4-1000")
    assert plan("ra_mla", RA_V5_R="8", MAX_ITERS="50").directory.name == "quality-ra_mla-R8-50"
    assert plan("mla", RA_V5_R="8").directory.name == "quality-mla-1000"
    assert plan("ra_v5", MODEL_NAME="mine", RESULTS_DIR="elsewhere").directory == Path("elsewhere/mine")


def test_both_sides_differ_in_the_attention_alone() -> None:
    reference, run = plan("ra_v5", ABLATION_SEEDS="3", LEARNING_RATE="3e-4").runs
    differing = {
        symbol for symbol, value in run.config.identity().items() if reference.config.identity().get(symbol) != value
    }
    assert differing - {"ATTENTION"} == {s for s in differing if s.startswith("RA_V5_")}
    assert reference.config.train.seed == run.config.train.seed == 3
    assert reference.config.optimizer.learning_rate == 3e-4


def assessed(
    folder: Path,
    deltas: Sequence[float],
    *,
    w_rec: Sequence[float] = (0.3, 0.0),
    nonfinite: str = "",
    event: str = "nonfinite",
    noise: bool = True,
    settings: dict[str, str | int] | None = None,
) -> Quality:
    """What is said of an RA v5 that is worse than the baseline by `deltas`, seed by seed, and whose heads all have one
    of `w_rec`, while noise moves them by -0.15 to 0.15."""
    experiment = folder / "quality"
    write_config(experiment, {"MODEL_NAME": "quality", **(settings or {})})
    seeds = range(1, len(deltas) + 1)
    for seed, reference, delta in zip(seeds, REFERENCE_LOSSES, deltas, strict=False):
        write_run(experiment, "baseline", seed, val_loss=reference)
        run = write_run(experiment, "ra-v5-eager", seed, val_loss=reference + delta, gates=["w_rec"])
        edit(run, gates={"w_rec": [[w_rec[seed % len(w_rec)]] * HEADS] * 2})
        if noise:
            run = write_run(experiment / "noise", "ra-v5-eager", seed, gates=["w_rec"])
            edit(run, gates={"w_rec": np.linspace(-0.15, 0.15, 2 * HEADS).reshape(2, HEADS).tolist()})
    if nonfinite:
        run = experiment / nonfinite / "seed-1"
        edit(run, status="failed", error="step 7: loss nan")
        with (run / "metrics.jsonl").open("a") as file:
            file.write(json.dumps({"kind": "event", "step": 7, "event": event, "message": "step 7: loss nan"}) + "\n")
    return assess(load_experiment(experiment), "ra_v5", list(seeds))


def edit(run: Path, **values: Any) -> None:
    path = run / "summary.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def verdicts(quality: Quality) -> dict[str, str]:
    return {criterion.name.split()[0]: criterion.verdict for criterion in quality.criteria}


@pytest.mark.parametrize(
    ("deltas", "verdict"),
    [
        ([-0.010, -0.012, -0.011], PASS),  # better beyond doubt
        ([0.0001, -0.0001, 0.0002], PASS),  # within the margin of 0.0017 beyond doubt
        ([0.0010, 0.0011, 0.0012], PASS),  # worse beyond doubt, but too little to matter
        ([0.010, 0.012, 0.011], FAIL),  # worse beyond doubt
        ([0.004, -0.003, 0.002], UNDECIDED),  # noise
        ([-0.004, -0.003, 0.004], UNDECIDED),  # better on average, but that may be chance
        ([-0.010, -0.012], UNDECIDED),  # two seeds
        ([-0.5], UNDECIDED),  # one seed, however large
        ([0.5], UNDECIDED),
    ],
)
def test_the_loss_is_judged_with_its_noise(tmp_path: Path, deltas: list[float], verdict: str) -> None:
    quality = assessed(tmp_path, deltas, w_rec=[0.3])
    assert verdicts(quality) == {"no": PASS, "val": verdict, "some": PASS if len(deltas) >= 3 else UNDECIDED}
    assert quality.verdict == verdict
    assert [result.delta for result in quality.seeds] == pytest.approx(deltas)


@pytest.mark.parametrize(("w_rec", "verdict"), [([0.3], PASS), ([0.1], FAIL), ([-0.3], FAIL), ([0.3, 0.0], UNDECIDED)])
def test_gates_are_to_move_in_every_seed(tmp_path: Path, w_rec: list[float], verdict: str) -> None:
    quality = assessed(tmp_path, [-0.010, -0.012, -0.011], w_rec=w_rec)
    assert verdicts(quality)["some"] == quality.verdict == verdict
    assert [result.heads_above for result in quality.seeds] == [
        2 * HEADS * (w_rec[s % len(w_rec)] > 0.1) for s in (1, 2, 3)
    ]


def test_gates_that_noise_moves_as_far_are_not_learned(tmp_path: Path) -> None:
    """By the plan's threshold alone all of these would pass: a head above 0.1 in every seed."""
    random = np.random.default_rng(1)
    write_config(tmp_path, {"MODEL_NAME": "quality"})

    def verdict(shift: float, seeds: int) -> str:
        for seed in range(1, seeds + 1):
            write_run(tmp_path, "baseline", seed)
            for folder, mean in ((tmp_path, shift), (tmp_path / "noise", 0.0)):
                run = write_run(folder, "ra-v5-eager", seed, gates=["w_rec"])
                edit(run, gates={"w_rec": random.normal(mean, 0.2, (2, HEADS)).tolist()})
        quality = assess(load_experiment(tmp_path), "ra_v5", list(range(1, seeds + 1)))
        assert all(result.heads_above for result in quality.seeds)
        return verdicts(quality)["some"]

    assert verdict(0.4, 3) == PASS
    assert verdict(0.0, 3) == UNDECIDED
    assert verdict(0.0, 12) == FAIL


def test_without_noise_or_with_too_few_seeds_gates_are_undecided(tmp_path: Path) -> None:
    quality = assessed(tmp_path / "a", [-0.010, -0.012, -0.011], w_rec=[0.3], noise=False)
    assert verdicts(quality)["some"] == UNDECIDED
    assert quality.criteria[-1].evidence == "16, 16, 16 of 16 heads; none was trained on noise"
    assert verdicts(assessed(tmp_path / "b", [-0.010, -0.012], w_rec=[0.3]))["some"] == UNDECIDED


def test_a_superiority_is_that_of_mann_and_whitney_and_holds_its_level() -> None:
    random = np.random.default_rng(1)
    a, b = random.normal(0.5, 1, (3, 7)), random.normal(0, 1, (4, 7))
    expected = stats.mannwhitneyu(a.ravel(), b.ravel()).statistic / (a.size * b.size)
    found, mirrored = superiority(a.tolist(), b.tolist()), superiority(b.tolist(), a.tolist())
    assert found.value == pytest.approx(expected)
    assert (mirrored.low, mirrored.high) == pytest.approx((1 - (found.high or 0), 1 - (found.low or 0)))
    assert superiority([[1.0]], [[0.0]]).low is None
    certain = superiority([[1.0, 2.0]] * 3, [[0.0, 0.5]] * 3)  # never for certain
    assert certain.value == 1.0 and certain.low is not None and 0.4 < certain.low < 0.6
    draws = 1500
    wrong = sum(
        (superiority(random.normal(size=(3, 16)).tolist(), random.normal(size=(3, 16)).tolist()).low or 0) > 0.5
        for _ in range(draws)
    )
    assert wrong / draws < 0.025


@pytest.mark.slow
def test_on_random_tokens_gates_do_not_pass(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where nothing can be learned, heads pass the plan's threshold all the same."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    random = np.random.default_rng(5)
    (tmp_path / "random").mkdir()
    for name in ("train", "val"):
        random.integers(64, size=40_000, dtype=np.uint16).tofile(tmp_path / "random" / f"{name}.bin")
    base = {"DATASET_BIN": "y", "DATASET_BIN_DIR": "random", "VOCAB_SIZE": "64"}
    settings = SETTINGS | {"MAX_ITERS": "150", "EVAL_INTERVAL": "150", "N_HEAD": "4", "N_LAYER": "4"} | base
    settings |= {"LEARNING_RATE": "3e-3", "CHECKPOINT_INTERVAL": "0", "LOG_INTERVAL": "50"}
    del settings["DATASET_TEXT"]
    resolve([Assignment(symbol, value, "test") for symbol, value in settings.items()]).write(tmp_path / "base")
    command(monkeypatch, "--config", "base", "--steps", "150", "--seeds", "1-3", "--out", "out", "MODEL_NAME=random")
    quality = json.loads((tmp_path / "out/random/quality.json").read_text())
    gates = next(c for c in quality["criteria"] if c["name"].startswith("some"))
    assert gates["verdict"] != PASS, gates
    assert all(max(seed["w_rec"]) > 0.1 for seed in quality["seeds"])  # by the threshold alone it would


def test_layers_that_have_no_gates_have_no_heads_to_judge(tmp_path: Path) -> None:
    quality = assessed(tmp_path, [-0.010, -0.012, -0.011], w_rec=[0.3])
    for run in (tmp_path / "quality").glob("**/ra-v5-eager/seed-*"):
        gate = json.loads((run / "summary.json").read_text())["gates"]["w_rec"]
        edit(run, gates={"w_rec": [[None] * HEADS, *gate]})
    assert assess(load_experiment(tmp_path / "quality"), "ra_v5", [1, 2, 3]) == quality


@pytest.mark.parametrize(
    ("w_rec", "symbol", "value"), [(1.0, "RA_V5_FOLD_DIRECT", "y"), (0.0, "RA_V5_LEARN_W_REC", "n")]
)
def test_gates_that_start_above_the_threshold_or_are_held_are_not_judged(
    tmp_path: Path, w_rec: float, symbol: str, value: str
) -> None:
    quality = assessed(tmp_path, [-0.010, -0.012, -0.011], w_rec=[w_rec], settings={symbol: value})
    assert verdicts(quality) == {"no": PASS, "val": PASS}
    assert quality.seeds[0].heads_above == 2 * HEADS * w_rec


@pytest.mark.parametrize("event", NONFINITE)
@pytest.mark.parametrize("step", ["baseline", "ra-v5-eager"])
def test_a_nan_on_either_side_fails_and_its_loss_does_not_count(tmp_path: Path, step: str, event: str) -> None:
    quality = assessed(tmp_path, [-0.010, -0.012, -0.011, -0.010], w_rec=[0.3], nonfinite=step, event=event)
    assert quality.verdict == verdicts(quality)["no"] == FAIL
    assert quality.criteria[0].evidence == f"{step}/seed-1: step 7: loss nan"
    assert quality.seeds[0].delta is None
    assert verdicts(quality)["val"] == PASS  # of the other three


def test_a_run_that_did_not_finish_is_no_verdict(tmp_path: Path) -> None:
    assessed(tmp_path, [0.0, 0.0])
    edit(tmp_path / "quality" / "baseline" / "seed-2", status="interrupted")
    with pytest.raises(UserError, match="baseline/seed-2: the run is interrupted"):
        assess(load_experiment(tmp_path / "quality"), "ra_v5", [1, 2])
    # A failure that was no NaN either, such as too little memory.
    edit(tmp_path / "quality" / "baseline" / "seed-2", status="failed", error="out of memory")
    with pytest.raises(UserError, match="baseline/seed-2: the run is failed"):
        assess(load_experiment(tmp_path / "quality"), "ra_v5", [1, 2])


def test_the_baseline_is_tested_for_finite_numbers_alone(tmp_path: Path) -> None:
    write_run(tmp_path / "quality", "baseline", 1)
    edit(tmp_path / "quality" / "baseline" / "seed-1", gates={})
    quality = assess(load_experiment(tmp_path / "quality"), "baseline", [1])
    assert (quality.verdict, quality.reference, verdicts(quality)) == (PASS, None, {"no": PASS})
    assert quality.seeds[0].val_loss == 3.5 and quality.seeds[0].delta is None


def command(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["quick_quality_test", *arguments])
    return quick_quality_test.main()


def test_the_command_trains_a_pair_judges_it_and_does_not_train_it_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    tiny(tmp_path).write(tmp_path / "base")
    arguments = ["--config", "base", "--steps", "3", "--ra-v5-R", "2", "--seeds", "1", "--out", "out"]
    settings = ["EVAL_INTERVAL=3", "CONFIG_RA_V5_GATE_INIT=0.5", "MODEL_NAME=pair"]
    assert command(monkeypatch, *arguments, *settings) == 0
    printed = capsys.readouterr().out
    assert "UNDECIDED: out/pair" in printed
    # From a start of 0.5 all heads are above, on noise as well.
    assert "UNDECIDED some w_rec > 0.1: 4 of 4 heads, 4 on noise; above one on noise with probability" in printed
    noise = json.loads((tmp_path / "out/pair/noise/ra-v5-eager/seed-1/provenance.json").read_text())
    assert noise["data"]["dataset"] == "bin" and noise["identity"]["VOCAB_SIZE"] == 256
    assert "gates on noise, which has nothing to learn: 1 run in out/pair/noise" in printed
    quality = json.loads((tmp_path / "out/pair/quality.json").read_text())
    assert quality["verdict"] == UNDECIDED and quality["reference"] == "baseline"
    (seed,) = quality["seeds"]
    summary = json.loads((tmp_path / "out/pair/ra-v5-eager/seed-1/summary.json").read_text())
    assert seed["val_loss"] == summary["val_loss"]
    assert seed["w_rec"] == [w for layer in summary["gates"]["w_rec"] for w in layer]

    written = (tmp_path / "out/pair/baseline/seed-1/summary.json").stat().st_mtime_ns
    assert command(monkeypatch, *arguments, *settings) == 0
    assert (tmp_path / "out/pair/baseline/seed-1/summary.json").stat().st_mtime_ns == written


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--steps", "5", "MAX_ITERS=6"], "MAX_ITERS is given twice"),
        (["--steps", "many"], "--steps: CONFIG_MAX_ITERS=many: must be a whole number"),
        (["--ra-v5-R", "64"], "RA_V5_R=64: must be from 1 to 63"),
        (["LEARNING_RAT=1"], "did you mean LEARNING_RATE"),
        (["ra_v5"], "'ra_v5': write SYMBOL=value"),
    ],
)
def test_mistakes_on_the_command_line_are_named(
    monkeypatch: pytest.MonkeyPatch, arguments: list[str], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        command(monkeypatch, *arguments)
