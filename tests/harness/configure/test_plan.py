"""From a configuration to its runs."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from gpt2 import dotconfig
from gpt2.assignments import Assignment
from gpt2.base.errors import UserError
from gpt2.dotconfig import Resolved, load, resolve, settable_symbols
from gpt2.model import GPT
from harness.configure.directories import last_experiment, remember_experiment
from harness.configure.kconfig import find_step, list_defconfigs, list_steps, overlay
from harness.configure.plan import Plan, make_plan, plan_with


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
    made = plan(RA_MLA_ABLATION_MODE="y", RA_MLA_ABLATION_STEPS="1-21", ABLATION_SEEDS="1")
    baseline = made.runs[0].config.identity()
    own = {"ATTENTION", "COMPILE", "COMPILE_MODE"}
    for run in made.runs:
        identity = run.config.identity()
        differ = {key for key in {*identity, *baseline} if identity.get(key) != baseline.get(key)}
        of_variant = ("RA_V5_", "MLA_", f"{run.config.model.attention}_".upper())
        assert all(key in own or key.startswith(of_variant) for key in differ), (run.name, differ)


def test_the_number_of_seeds_and_steps_belongs_to_no_run() -> None:
    few = plan(RA_MLA_ABLATION_MODE="y", RA_MLA_ABLATION_STEPS="4", ABLATION_SEEDS="1")
    many = plan(RA_MLA_ABLATION_MODE="y", RA_MLA_ABLATION_STEPS="4,1", ABLATION_SEEDS="1,2", MODEL_NAME="other")
    assert few.runs[0].config.identity() == many.runs[0].config.identity()


def test_a_sweep_names_its_arms_and_leaves_unaffected_steps_alone() -> None:
    made = plan(RA_MLA_ABLATION_MODE="y", RA_MLA_ABLATION_STEPS="1,2", ABLATION_SEEDS="1", ABLATION_SWEEP="RA_V5_R=4,8")
    assert names(made) == ["baseline/seed-1", "ra-v5-eager@RA_V5_R=4/seed-1", "ra-v5-eager@RA_V5_R=8/seed-1"]
    assert [run.config.model.ra_v5_R for run in made.runs[1:]] == [4, 8]


def test_a_step_may_have_settings_of_its_own() -> None:
    made = plan(
        RA_MLA_ABLATION_MODE="y",
        RA_MLA_ABLATION_STEPS="1,2,2@RA_V5_R=8,placebo,ra-v5-eager@CONFIG_RA_V5_R=12@RA_V5_GATE_INIT=0.5",
        ABLATION_SEEDS="1",
        STUDY_TUNE="LEARNING_RATE=1e-3,2e-3",
        ABLATION_SIZES="16m,45m",
    )
    assert {run.step for run in made.runs} == {
        f"{step}@STUDY_SIZE={size}{label}"
        for size in ("16m", "45m")
        for step, label in [
            ("baseline", ""),
            ("ra-v5-eager", ""),
            ("ra-v5-eager", "@RA_V5_R=8"),
            ("ra-v5-eager", "@RA_V5_R=12@RA_V5_GATE_INIT=0.5"),
            ("placebo", ""),
        ]
    }
    assert [run.config.model.ra_v5_R for run in made.runs][:5] == [4, 4, 8, 4, 12]
    assert made.references["ra-v5-eager@STUDY_SIZE=45m@RA_V5_R=8"] == ("baseline",)
    assert made.trials is not None
    assert "ra-v5-eager@STUDY_SIZE=16m@RA_V5_R=8@LEARNING_RATE=2e-3" in {run.step for run in made.trials.plan.runs}


@pytest.mark.parametrize(
    ("steps", "symbols", "message"),
    [
        ("1@", {}, r"'1@': '' is not SYMBOL=value"),
        ("1,2@RA_V5_R", {}, r"'2@RA_V5_R': 'RA_V5_R' is not SYMBOL=value"),
        ("1,2@RA_V5_R=", {}, r"'RA_V5_R=' is not SYMBOL=value"),
        ("1,2@RA_V5_R=8@RA_V5_R=9", {}, r"sets RA_V5_R twice"),
        ("1,2@RA_V5_R=8,ra-v5-eager@CONFIG_RA_V5_R=8", {}, r"stands there twice"),
        ("1,2@LEARNING_RATE=2e-3,2@LEARNING_RATE=0.002", {}, r"=2e-3 and .*=0.002 would be the same run"),
        ("1,2@RA_V5_R=8@BETA1=0.8,2@BETA1=0.8@RA_V5_R=8", {}, r"would be the same run: name each once"),
        ("1-2@RA_V5_R=8", {}, r"settings are of one step, and 1-2 is a range"),
        ("1,99@RA_V5_R=8", {}, r"there is no ablation step '99'"),
        ("1,2@RA_V5_Q=8", {}, r"RA_V5_Q.*RA_V5_R"),
        ("1,2@RA_V5_R=many", {}, r"CONFIG_RA_V5_R=many"),
        ("1,2@RA_V5_R=64", {}, r"RA_V5_R=64: must be from 1 to 63"),
        ("1,2@RA_V5_R=4", {}, r"ra-v5-eager@RA_V5_R=4: is the same run without @RA_V5_R=4"),
        ("1@RA_V5_R=8,2", {}, r"baseline@RA_V5_R=8: is the same run without"),
        ("1,2@SEED=7", {}, r"SEED cannot be swept"),
        ("1,2@RERUN=1", {}, r"RERUN cannot be swept"),
        ("1,2@DEVICE_CPU=y", {}, r"DEVICE_CPU"),
        ("1,2@BETA1=0.8/7", {}, r"cannot be part of a directory's name"),
        ("1,2@RA_V5_R=8", {"ABLATION_SWEEP": "RA_V5_R=4,8"}, r"@RA_V5_R=8: RA_V5_R is swept already"),
        ("1,2@RA_V5_R=8", {"STUDY_TUNE": "LEARNING_RATE=1,2;RA_V5_R=4,8"}, r"RA_V5_R is tuned already"),
        ("1,1@MAX_ITERS=96", {"STUDY_LENGTHS": "0.8,1.25"}, r"MAX_ITERS is varied by STUDY_LENGTHS already"),
        ("1,2,2@MAX_ITERS=96", {}, r"@MAX_ITERS=96: another length of an arm is no arm: STUDY_LENGTHS asks for"),
    ],
)
def test_settings_of_a_step_that_cannot_be(steps: str, symbols: dict[str, str], message: str) -> None:
    with pytest.raises(UserError, match=message) as error:
        plan(RA_MLA_ABLATION_MODE="y", RA_MLA_ABLATION_STEPS=steps, **symbols)
    assert "RA_MLA_ABLATION_STEPS" in str(error.value) and "\n" not in str(error.value)


def test_placements_are_swept_and_every_way_of_writing_one_is_the_same_run() -> None:
    settings = {"RA_MLA_ABLATION_MODE": "y", "RA_MLA_ABLATION_STEPS": "1,2", "ABLATION_SEEDS": "1"}
    swept = plan(**settings, ABLATION_SWEEP="ATTENTION_LAYERS=0-5,6-11,0+2+4")
    arms = [f"ra-v5-eager@ATTENTION_LAYERS={layers}/seed-1" for layers in ("0-5", "6-11", "0+2+4")]
    assert names(swept) == ["baseline/seed-1", *arms]
    assert [run.config.model.attention_layers for run in swept.runs] == ["", "0-5", "6-11", "0+2+4"]
    with pytest.raises(UserError, match=r"=0-1 and .*=1[+]0 would be the same run"):
        plan(**settings, ABLATION_SWEEP="ATTENTION_LAYERS=0-1,1+0,2")
    with pytest.raises(UserError, match=r'ATTENTION_LAYERS="12": is not layers from 0 to 11.* [(]N_LAYER=12[)]'):
        plan(**settings, ATTENTION_LAYERS="12")
    of_steps = plan(
        **settings | {"RA_MLA_ABLATION_STEPS": "1,2@ATTENTION_LAYERS=0-5,ra-v5-matrix@ATTENTION_LAYERS=0+2"}
    )
    assert [run.config.model.attention_layers for run in of_steps.runs] == ["", "0-5", "0+2"]


def test_several_symbols_give_every_combination() -> None:
    made = plan(ABLATION_SEEDS="1", ABLATION_SWEEP="BATCH_SIZE=2,4; MAX_ITERS=5,6", BLOCK_SIZE="8")
    assert names(made) == [f"baseline@BATCH_SIZE={b}@MAX_ITERS={m}/seed-1" for b in (2, 4) for m in (5, 6)]


@pytest.mark.parametrize(
    ("symbols", "message"),
    [
        (
            {"RA_MLA_ABLATION_MODE": "y", "RA_MLA_ABLATION_STEPS": "1,99"},
            r'RA_MLA_ABLATION_STEPS="1,99": there is no .*99',
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
        ({"SEED": "7"}, r"^test: CONFIG_SEED=7: it is ABLATION_SEEDS that .*1,2,3 here: give ABLATION_SEEDS=7 instead"),
        ({"SEED": "7", "ABLATION_SEEDS": "7,8"}, r"CONFIG_SEED=7: it is ABLATION_SEEDS"),
        (
            {"RA_MLA_ABLATION_MODE": "y", "STEP_TITLE": "Mine"},
            r"CONFIG_STEP_TITLE=Mine: every step .* sets this",
        ),
        (
            {"RA_MLA_ABLATION_MODE": "y", "ATTENTION_MLA": "y"},
            r"CONFIG_ATTENTION_MLA=y: every step .* sets this",
        ),
        (
            {"RA_MLA_ABLATION_MODE": "y", "RA_MLA_ABLATION_STEPS": "1,2,4", "COMPILE_MODEL": "y"},
            r"CONFIG_COMPILE_MODEL=y: every step",
        ),
        ({"RA_MLA_ABLATION_MODE": "y", "RA_V5_D_BIAS": "y"}, r"CONFIG_RA_V5_D_BIAS=y: depends on .*!ATTENTION_RA_MLA"),
        ({"RESULTS_DIR": ""}, r'RESULTS_DIR="": name a path'),
        ({"RESULTS_DIR": " "}, r'RESULTS_DIR=" ": name a path'),
        ({"RESULTS_DIR": "-rf"}, r'RESULTS_DIR="-rf": .*write "./-rf"'),
        ({"RESULTS_DIR": "~"}, r'RESULTS_DIR="~": "~" stands for nothing here: write "/'),
        ({"DATA_DIR": ""}, r'DATA_DIR="": name a path'),
        ({"DATA_DIR": "~/data"}, r'DATA_DIR="~/data": "~" stands for nothing'),
        ({"DATASET_BIN": "y", "DATASET_BIN_DIR": "~/bin"}, r'DATASET_BIN_DIR="~/bin": "~" stands for nothing'),
        ({"INIT_FROM": "-x.pt"}, r'INIT_FROM="-x.pt": commands would take it for an option'),
        ({"INIT_FROM": "~/x.pt"}, r'INIT_FROM="~/x.pt": "~" stands for nothing'),
        ({"ABLATION_SEEDS": "5-1"}, r"'5-1' runs backwards"),
        ({"ABLATION_SEEDS": "1-"}, r"'1-' is no seed"),
        ({"ABLATION_SEEDS": "0-2147483647"}, r"is more than 10000 of them"),
        ({"ABLATION_SEEDS": f"1-{'9' * 9999}"}, r"is more than 10000 of them"),
        ({"ABLATION_SEEDS": "1-3,2"}, r"stands there twice"),
        ({"RA_MLA_ABLATION_MODE": "y", "RA_MLA_ABLATION_STEPS": "1-99"}, r"there is no ablation step '\d+'"),
        ({"RA_MLA_ABLATION_MODE": "y", "RA_MLA_ABLATION_STEPS": "1-2,baseline"}, r"stands there twice"),
        # What makes no difference to any run, and what makes none between two.
        ({"ABLATION_SWEEP": "MIN_LR=1e-5,2e-5", "DECAY_LR": "n"}, r"MIN_LR does nothing in any of the runs: baseline"),
        ({"ABLATION_SWEEP": "TF32=y,n"}, r"TF32 does nothing in any of the runs"),
        ({"ABLATION_SWEEP": "LEARNING_RATE=1e-3,0.001,1e-4"}, r"=1e-3 and .*=0.001 would be the same run"),
        ({"ABLATION_SWEEP": f"BETA1=0.{'1' * 300},0.2"}, r"too long to name a directory"),
    ],
)
def test_what_cannot_be_planned_is_refused_by_name(symbols: dict[str, str], message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        plan(**symbols)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "symbol",
    [
        *(s for s in settable_symbols() if s.startswith(("ABLATION_", "RA_MLA_", "STEP_", "DEVICE_", "TRACK_"))),
        *("MODEL_NAME", "RESULTS_DIR", "DATA_DIR", "LOG_INTERVAL", "CHECKPOINT_INTERVAL", "SEED"),
    ],
)
def test_names_places_and_plans_cannot_be_swept(symbol: str) -> None:
    values = "1,2" if symbol.endswith(("INTERVAL", "SEED")) else "y,n"
    with pytest.raises(UserError, match=rf'^ABLATION_SWEEP="{symbol}={values}": {symbol} cannot be swept: '):
        plan(ABLATION_SWEEP=f"{symbol}={values}")


@pytest.mark.parametrize(
    ("symbol", "settings", "field"),
    [
        ("DATASET_TEXT_PATHS", {"DATASET_TEXT": "y", "DATASET_TEXT_PATHS": "x"}, lambda c: c.data.text_paths),
        ("DATASET_BIN_DIR", {"DATASET_BIN": "y", "DATASET_BIN_DIR": "x"}, lambda c: c.data.bin_dir),
        ("INIT_FROM", {}, lambda c: c.train.init_from),
    ],
)
def test_paths_of_data_are_swept_and_each_is_an_arm(symbol: str, settings: dict[str, str], field: object) -> None:
    values = ("/one/part.txt", "/other/part.txt", "a b/'c@d'")
    made = plan(ABLATION_SEEDS="1", ABLATION_SWEEP=f"{symbol}={','.join(values)}", **settings)
    assert tuple(field(run.config) for run in made.runs) == values  # type: ignore[operator]
    labels = [run.step for run in made.runs]
    assert labels[0].startswith(f"baseline@{symbol}=part.txt-")
    assert len({*labels}) == 3
    assert all(run.path.parent.parent == made.directory for run in made.runs)
    # A label says what its value is, whatever else is swept.
    again = plan(ABLATION_SEEDS="1", ABLATION_SWEEP=f"{symbol}={values[2]},{values[0]}", **settings)
    assert [run.step for run in again.runs] == [labels[2], labels[0]]


def test_a_swept_value_that_another_one_leaves_nothing_to_do_is_run_once() -> None:
    made = plan(ABLATION_SEEDS="1", ABLATION_SWEEP="DECAY_LR=y,n;MIN_LR=1e-5,2e-5")
    assert [run.step for run in made.runs] == [
        "baseline@DECAY_LR=y@MIN_LR=1e-5",
        "baseline@DECAY_LR=y@MIN_LR=2e-5",
        "baseline@DECAY_LR=n",
    ]


def test_ranges_of_seeds_and_steps() -> None:
    made = plan(RA_MLA_ABLATION_MODE="y", RA_MLA_ABLATION_STEPS="6-7, 1-2,ra-mla", ABLATION_SEEDS="7,1 - 3")
    assert [run.step for run in made.runs[:5]] == ["mla", "gated-baseline", "baseline", "ra-v5-eager", "ra-mla"]
    assert [run.seed for run in made.runs[::5]] == [7, 1, 2, 3]


def test_a_seed_that_all_runs_have_may_be_said() -> None:
    assert names(plan(SEED="7", ABLATION_SEEDS="7")) == ["baseline/seed-7"]


def test_settings_of_a_command_line_are_taken_though_they_are_the_defaults() -> None:
    for symbol, value in {"SEED": "1", "COMPILE_NONE": "y", "STEP_REFERENCE": "baseline"}.items():
        base = configured(RA_MLA_ABLATION_MODE="y", RA_MLA_ABLATION_STEPS="5", STEP_TITLE="")
        fragment = find_step("5").assignments()
        assert make_plan(base)
        if symbol in {a.symbol for a in fragment if a.value == value}:
            continue
        with pytest.raises(UserError, match=f"^command line: CONFIG_{symbol}={value}: "):
            plan_with(base, [Assignment(symbol, value, "command line")])


@pytest.mark.parametrize("base_seed", ["1", "7"])
def test_seeds_that_are_resolved_together_are_what_each_is_by_itself(base_seed: str) -> None:
    """What depends on SEED would be missed: nothing does."""
    settings = {"RA_MLA_ABLATION_MODE": "y", "RA_MLA_ABLATION_STEPS": "1-8", "ABLATION_SEEDS": "1,0,7,2147483647"}
    base = configured(**settings, MAX_ITERS="50")
    seed = Assignment("SEED", base_seed, "test")
    base = resolve(base.minimal()[:1], [seed], base.minimal()[1:])
    made = make_plan(base, asked=())
    assert len(made.runs) == 32 and made.arms == list(made.runs[:8])
    for run in made.runs:
        own = [Assignment("SEED", str(run.seed), "ABLATION_SEEDS")]
        alone = overlay(base, find_step(run.step).assignments(), own)
        assert run.resolved == alone
        assert (run.config, run.path.name) == (alone.run_config(), f"seed-{run.seed}")


def test_planning_resolves_each_arm_once_however_many_seeds(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []
    resolved = dotconfig.resolve
    monkeypatch.setattr(dotconfig, "resolve", lambda *layers: (calls.append(1), resolved(*layers))[1])
    counts = []
    for seeds in ("1", "1-20", "1-40"):
        calls.clear()
        plan(RA_MLA_ABLATION_MODE="y", RA_MLA_ABLATION_STEPS="1,2", ABLATION_SEEDS=seeds)
        counts.append(len(calls))
    assert counts == [2, 2, 2]


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
    remember_experiment(plan(MODEL_NAME="mine").directory)
    assert last_experiment() == Path("results/mine")
    for damaged, message in {b"": "is empty", b" \n": "is empty", b"\xff\xfe": "cannot be read"}.items():
        Path(".last-experiment").write_bytes(damaged)
        with pytest.raises(UserError, match=rf"^\.last-experiment: {message}"):
            last_experiment()


@pytest.mark.parametrize(
    ("steps", "asked", "said"),
    [
        ("1,5", {"ATTENTION_LAYERS": "0"}, "ATTENTION_LAYERS=0 does nothing in any of the runs that are asked for"),
        ("1,2", {"ATTENTION_LAYERS": "0-11"}, "ATTENTION_LAYERS=0-11 does nothing in any of the runs"),
        ("1,2", {"ROPE_BASE": "500"}, "ROPE_BASE=500 does nothing in any of the runs"),
        ("1,10", {"ROPE_BASE": "500"}, ""),
        ("1,10", {"SDPA_GATE_HEADWISE": "y"}, "SDPA_GATE_HEADWISE=y does nothing in any of the runs"),
        ("1,2", {"SLIDING_WINDOW_SIZE": "3"}, "SLIDING_WINDOW_SIZE=3 does nothing in any of the runs"),
        ("1,16", {"GQA_KV_HEADS": "1"}, ""),
        ("1,9", {"STUDY_GATE_NOISE": "2"}, "STUDY_GATE_NOISE=2: no arm that is compared has gates that learn"),
        ("1,2", {"STUDY_GATE_NOISE": "4"}, "STUDY_GATE_NOISE=4: with 3, which is as many seeds as there are"),
        ("1,2", {"STUDY_GATE_NOISE": "3", "ATTENTION_LAYERS": "0"}, ""),
        ("1,2", {"ATTENTION_LAYERS": ""}, ""),
    ],
)
def test_what_is_asked_for_in_vain_is_said(
    steps: str, asked: dict[str, str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    base = configured(RA_MLA_ABLATION_MODE="y", RA_MLA_ABLATION_STEPS=steps, ABLATION_SEEDS="1-3")
    plan_with(base, [Assignment(symbol, value, "command line") for symbol, value in asked.items()])
    captured = capsys.readouterr()
    notes = [line for line in (captured.out + captured.err).splitlines() if "same run under two names" not in line]
    assert len(notes) == bool(said) and all(said in note for note in notes)
