"""From a configuration to its runs."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from gpt2.base.errors import UserError
from gpt2.dotconfig import Assignment, Resolved, load, resolve
from gpt2.model import GPT
from harness.configure.kconfig import find_step, list_defconfigs, list_steps
from harness.configure.plan import Plan, last_experiment, make_plan, remember_experiment


def configured(**symbols: str) -> Resolved:
    return resolve([Assignment(symbol, value, "test") for symbol, value in symbols.items()])


def plan(**symbols: str) -> Plan:
    return make_plan(configured(**symbols))


def names(plan: Plan) -> list[str]:
    return [run.name for run in plan.runs]


def test_seeds_are_outermost_so_that_a_stopped_ablation_is_paired() -> None:
    made = plan(RA_MLA_ABLATION_MODE="y", RA_MLA_ABLATION_STEPS="baseline,2", ABLATION_SEEDS="3,1")
    assert names(made) == ["baseline/seed-3", "ra-v5-eager/seed-3", "baseline/seed-1", "ra-v5-eager/seed-1"]
    assert [run.config.train.seed for run in made.runs] == [3, 3, 1, 1]
    assert [run.config.model.attention for run in made.runs] == ["baseline", "ra_v5"] * 2
    assert made.runs[0].path == Path("results/gpt2-ra-v5/baseline/seed-3")


def test_outside_ablation_mode_the_configuration_itself_is_run() -> None:
    made = plan(ATTENTION_RA_MLA="y", ABLATION_SEEDS="7")
    assert names(made) == ["ra-mla/seed-7"]


def test_arms_differ_in_nothing_but_their_step() -> None:
    made = plan(RA_MLA_ABLATION_MODE="y", RA_MLA_ABLATION_STEPS="1,2,3,4,5,6,7,8", ABLATION_SEEDS="1")
    baseline = made.runs[0].config.identity()
    own = {"ATTENTION", "COMPILE", "COMPILE_MODE"}
    for run in made.runs:
        identity = run.config.identity()
        differ = {key for key in {*identity, *baseline} if identity.get(key) != baseline.get(key)}
        assert all(key in own or key.startswith(("RA_V5_", "MLA_")) for key in differ), (run.name, differ)


def test_the_number_of_seeds_and_steps_belongs_to_no_run() -> None:
    few = plan(RA_MLA_ABLATION_MODE="y", RA_MLA_ABLATION_STEPS="4", ABLATION_SEEDS="1")
    many = plan(RA_MLA_ABLATION_MODE="y", RA_MLA_ABLATION_STEPS="4,1", ABLATION_SEEDS="1,2", MODEL_NAME="other")
    assert few.runs[0].config.identity() == many.runs[0].config.identity()


def test_a_sweep_names_its_arms_and_leaves_unaffected_steps_alone() -> None:
    made = plan(RA_MLA_ABLATION_MODE="y", RA_MLA_ABLATION_STEPS="1,2", ABLATION_SEEDS="1", ABLATION_SWEEP="RA_V5_R=4,8")
    assert names(made) == ["baseline/seed-1", "ra-v5-eager@RA_V5_R=4/seed-1", "ra-v5-eager@RA_V5_R=8/seed-1"]
    assert [run.config.model.ra_v5_R for run in made.runs[1:]] == [4, 8]


def test_several_symbols_give_every_combination() -> None:
    made = plan(ABLATION_SEEDS="1", ABLATION_SWEEP="BATCH_SIZE=2,4; MAX_ITERS=5,6", BLOCK_SIZE="8")
    assert names(made) == [f"baseline@BATCH_SIZE={b}@MAX_ITERS={m}/seed-1" for b in (2, 4) for m in (5, 6)]


@pytest.mark.parametrize(
    ("symbols", "message"),
    [
        (
            {"RA_MLA_ABLATION_MODE": "y", "RA_MLA_ABLATION_STEPS": "1,9"},
            r'RA_MLA_ABLATION_STEPS="1,9": there is no .*9',
        ),
        ({"RA_MLA_ABLATION_MODE": "y", "RA_MLA_ABLATION_STEPS": "basline"}, r"did you mean '?baseline"),
        ({"RA_MLA_ABLATION_MODE": "y", "RA_MLA_ABLATION_STEPS": "1,baseline"}, r"stands there twice"),
        ({"RA_MLA_ABLATION_MODE": "y", "RA_MLA_ABLATION_STEPS": ""}, r'RA_MLA_ABLATION_STEPS="": an item is empty'),
        ({"ABLATION_SEEDS": "1,,2"}, r'ABLATION_SEEDS="1,,2": an item is empty; expected whole numbers'),
        ({"ABLATION_SEEDS": "1,x"}, r"'x' is no seed"),
        ({"ABLATION_SEEDS": "1,-1"}, r"'-1' is no seed"),
        ({"ABLATION_SEEDS": "99999999999"}, r"is no seed"),
        ({"ABLATION_SEEDS": "2,2"}, r"stands there twice"),
        ({"ABLATION_SWEEP": "MAX_ITERS"}, r'is written "SYMBOL=value,value"'),
        ({"ABLATION_SWEEP": "MAX_ITERS=1,"}, r"an item is empty"),
        ({"ABLATION_SWEEP": "MAX_ITERS=1;MAX_ITERS=2"}, r"MAX_ITERS is swept twice"),
        ({"ABLATION_SWEEP": "MAX_ITER=1,2"}, r"ABLATION_SWEEP: .*MAX_ITER.*MAX_ITERS"),
        ({"ABLATION_SWEEP": "MAX_ITERS=1,many"}, r"ABLATION_SWEEP: CONFIG_MAX_ITERS=many"),
        ({"ABLATION_SWEEP": "DATA_DIR=a/../b,c"}, r"cannot be part of a directory's name"),
        ({"ABLATION_SWEEP": "RA_V5_R=4,8"}, r"RA_V5_R"),
        ({"ATTENTION_RA_V5": "y", "RA_V5_R": "64"}, r"RA_V5_R=64: must be from 1 to 63"),
    ],
)
def test_what_cannot_be_planned_is_refused_by_name(symbols: dict[str, str], message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        plan(**symbols)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("defconfig", list_defconfigs(), ids=lambda path: path.name)
def test_every_defconfig_with_every_step_builds_its_model(defconfig: Path) -> None:
    base = load(defconfig)
    steps = ",".join(str(step.number) for step in list_steps())
    settings = [Assignment("RA_MLA_ABLATION_MODE", "y", "test"), Assignment("RA_MLA_ABLATION_STEPS", steps, "test")]
    made = make_plan(resolve(base.minimal(), settings))
    tried = set()
    for run in made.runs:
        if run.step in tried:
            continue
        tried.add(run.step)
        with torch.device("meta"):
            model = GPT(run.config.model, seed=1)
        assert model.num_params() > 0
        step = find_step(run.step.split("@")[0])
        assert step.name == run.step.split("@")[0]
    assert len(tried) >= 8


def test_the_last_experiment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="nothing to continue"):
        last_experiment()
    remember_experiment(plan(MODEL_NAME="mine"))
    assert last_experiment() == Path("results/mine")
