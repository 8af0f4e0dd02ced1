"""gpt2/config.py: types, limits, and what makes two runs the same run."""

from __future__ import annotations

import dataclasses

import pytest

from gpt2.assignments import Assignment
from gpt2.attention.ra_ultimate_v5 import FOLDS
from gpt2.base.settings import SettingError
from gpt2.config import GPTConfig, OptimizerConfig, RunConfig, identity_differences, identity_hash
from gpt2.dotconfig import resolve
from gpt2.folds import RA_V5_AT_REST
from gpt2.symbols import padded, run_config


def config(**settings: str) -> RunConfig:
    """The run of the defaults with some symbols set."""
    return resolve([Assignment(symbol, value, "test") for symbol, value in settings.items()]).run_config()


def same_run(one: RunConfig, other: RunConfig) -> bool:
    return identity_hash(one.identity()) == identity_hash(other.identity())


def test_the_defaults_are_gpt2_small() -> None:
    model = config(TOKENIZER_GPT2="y").model
    assert (model.n_layer, model.n_head, model.n_embd, model.head_dim) == (12, 12, 768, 64)
    assert (model.block_size, model.vocab_size, model.bias, model.dropout) == (1024, 50304, True, 0.0)
    assert config(TOKENIZER_GPT2="y", PAD_VOCAB="n").model.vocab_size == 50257


def test_symbols_fill_every_settings_class() -> None:
    run = config(LEARNING_RATE="1e-3", MAX_ITERS="7", DTYPE_FLOAT16="y", COMPILE_MODEL="y", DATASET_SHAKESPEARE="y")
    assert (run.optimizer.learning_rate, run.train.max_iters, run.data.dataset) == (1e-3, 7, "shakespeare")
    assert (run.train.dtype, run.train.compile, run.train.compile_mode) == ("float16", "model", "default")
    assert run.tokens_per_iter == 16 * 1024


def test_the_choice_of_what_to_compile_is_not_mistaken_for_the_mode() -> None:
    run = config(COMPILE_ATTENTION="y", COMPILE_MODE_MAX_AUTOTUNE_NO_CUDAGRAPHS="y")
    assert (run.train.compile, run.train.compile_mode) == ("attention", "max_autotune_no_cudagraphs")


@pytest.mark.parametrize(("fold", "w_rec"), RA_V5_AT_REST.items())
def test_gates_start_where_the_fold_is_the_baseline(fold: str, w_rec: float) -> None:
    model = config(**{"ATTENTION_RA_V5": "y", f"RA_V5_FOLD_{fold.upper()}": "y"}).model
    assert (model.ra_v5_fold, model.ra_v5_gate_init) == (fold, w_rec)
    assert GPTConfig(use_ra_v5=True, ra_v5_fold=fold).ra_v5_gate_init == w_rec
    assert set(FOLDS) == set(RA_V5_AT_REST)
    if fold != "lerp":
        with pytest.raises(SettingError, match=rf"RA_V5_FOLD={fold}: RA \+ MLA has the lerp fold only"):
            GPTConfig(attention="ra_mla", ra_v5_fold=fold)


def test_the_seeds_spelling_of_ra_v5() -> None:
    assert GPTConfig(use_ra_v5=True).attention == "ra_v5"
    assert GPTConfig(attention="ra_v5").use_ra_v5
    assert not GPTConfig().use_ra_v5


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"LEARNING_RATE": "fast"}, 'LEARNING_RATE="fast": is not a number such as 0.1 or 6e-4'),
        ({"LEARNING_RATE": ""}, 'LEARNING_RATE="": is not a number'),
        ({"LEARNING_RATE": "nan"}, 'LEARNING_RATE="nan": is not a number'),
        ({"LEARNING_RATE": "inf"}, 'LEARNING_RATE="inf": is not a number'),
        ({"LEARNING_RATE": "1e999"}, 'LEARNING_RATE="1e999": is not a number'),
        ({"LEARNING_RATE": "1_0"}, 'LEARNING_RATE="1_0": is not a number'),
        ({"LEARNING_RATE": " 1"}, 'LEARNING_RATE=" 1": is not a number'),
        ({"LEARNING_RATE": "0"}, "LEARNING_RATE=0.0: must be above 0"),
        ({"MIN_LR": "1"}, "MIN_LR=1.0: must be from 0 to LEARNING_RATE=0.0006"),
        ({"DROPOUT": "1"}, "DROPOUT=1.0: must be from 0 to below 1"),
        ({"BETA1": "1"}, "BETA1=1.0: must be from 0 to below 1"),
        ({"BETA2": "-0.1"}, "BETA2=-0.1: must be from 0 to below 1"),
        ({"WEIGHT_DECAY": "-1"}, "WEIGHT_DECAY=-1.0: must not be negative"),
        ({"GRAD_CLIP": "-1"}, "GRAD_CLIP=-1.0: must not be negative"),
        ({"DATASET_VAL_FRACTION": "0"}, "DATASET_VAL_FRACTION=0.0: must lie between 0 and 1"),
        ({"DATASET_TEXT": "y"}, 'DATASET_TEXT_PATHS="": name at least one file or directory'),
        ({"DATASET_BIN": "y"}, 'DATASET_BIN_DIR="": name the directory'),
        (
            {"MODEL_CUSTOM": "y", "N_EMBD": "100", "N_HEAD": "3"},
            "N_EMBD=100: must be a multiple of the number of heads",
        ),
        (
            {"ATTENTION_RA_V5": "y", "RA_V5_R": "64"},
            "RA_V5_R=64: must be from 1 to 63: a head is N_EMBD / N_HEAD = 64 wide",
        ),
        ({"ATTENTION_RA_V5": "y", "RA_V5_GATE_INIT": "half"}, 'RA_V5_GATE_INIT="half": is not a number'),
        ({"MODEL_NAME": ""}, "MODEL_NAME='': use letters"),
        ({"MODEL_NAME": ".."}, "MODEL_NAME='..': use letters"),
        ({"MODEL_NAME": "a/b"}, "MODEL_NAME='a/b': use letters"),
        ({"MODEL_NAME": "-rf"}, "MODEL_NAME='-rf': use letters"),
        ({"MODEL_NAME": "é"}, "MODEL_NAME='é': use letters"),
    ],
)
def test_a_value_out_of_limits_is_named(settings: dict[str, str], message: str) -> None:
    symbols = resolve([Assignment(symbol, value, "test") for symbol, value in settings.items()]).symbols
    with pytest.raises(SettingError) as caught:
        run_config(symbols)
    assert str(caught.value).startswith(message)
    assert caught.value.symbol == message.split("=")[0]


def test_settings_made_in_code_have_the_same_limits() -> None:
    with pytest.raises(SettingError, match=r"MIN_LR=0\.1: must be from 0 to LEARNING_RATE=0\.01"):
        OptimizerConfig(learning_rate=0.01, min_lr=0.1)
    with pytest.raises(SettingError, match="RA_V5_D_BIAS=y: RA \\+ MLA has no"):
        GPTConfig(attention="ra_mla", ra_v5_d_bias=True)
    with pytest.raises(SettingError, match="N_LAYER=0: must be at least 1"):
        GPTConfig(n_layer=0)
    with pytest.raises(dataclasses.FrozenInstanceError):
        GPTConfig().n_layer = 2  # type: ignore[misc]


@pytest.mark.parametrize(
    "settings",
    [
        {"MODEL_NAME": "other"},
        {"RESULTS_DIR": "elsewhere"},
        {"DATA_DIR": "elsewhere"},
        {"LOG_INTERVAL": "1"},
        {"ACTIVATION_CHECKPOINTING": "y"},
        {"CHECKPOINT_INTERVAL": "7"},
        {"ABLATION_SEEDS": "5"},
        {"STEP_TITLE": "Other"},
        {"RA_MLA_ABLATION_MODE": "y", "RA_V5_R": "8", "MLA_KV_LATENT_DIM": "64"},
        {"RA_MLA_ABLATION_MODE": "y", "COMPILE_MODE_MAX_AUTOTUNE": "y"},
    ],
)
def test_what_changes_no_number_does_not_change_the_run(settings: dict[str, str]) -> None:
    assert same_run(config(), config(**settings))


@pytest.mark.parametrize(
    "settings",
    [
        {"SEED": "2"},
        {"LEARNING_RATE": "5e-4"},
        {"MAX_ITERS": "4999"},
        {"EVAL_TOKENS": "39"},
        {"DTYPE_FLOAT32": "y"},
        {"TOKENIZER_GPT2": "y"},
        {"PAD_VOCAB": "n", "DATASET_BIN": "y", "DATASET_BIN_DIR": "x"},
        {"ATTENTION_RA_V5": "y"},
        {"COMPILE_MODEL": "y"},
    ],
)
def test_what_changes_numbers_changes_the_run(settings: dict[str, str]) -> None:
    assert not same_run(config(), config(**settings))


def test_layers_make_another_run_where_they_are_not_all() -> None:
    arm = {"ATTENTION_ROPE": "y", "MODEL_CUSTOM": "y", "N_LAYER": "4", "N_EMBD": "384"}
    whole, placed = config(**arm), config(**arm, ATTENTION_LAYERS="0-1")
    assert "ATTENTION_LAYERS" not in whole.identity(), "as it was before there was the setting"
    assert placed.identity() == whole.identity() | {"ATTENTION_LAYERS": "0-1"}
    assert same_run(placed, config(**arm, ATTENTION_LAYERS="1+0"))
    assert same_run(whole, config(**arm, ATTENTION_LAYERS="0-3"))
    assert identity_differences(placed.identity(), whole.identity()) == ["ATTENTION_LAYERS"]
    assert identity_differences(whole.identity(), placed.identity()) == ["ATTENTION_LAYERS"]
    assert GPTConfig(attention_layers="0").attention_layers == ""


def test_settings_of_an_arm_count_in_that_arm() -> None:
    arm = {"ATTENTION_RA_V5": "y"}
    assert not same_run(config(**arm), config(**arm, RA_V5_R="8"))
    assert same_run(config(**arm), config(**arm, RA_V5_GATE_INIT="0"))
    assert "MLA_KV_LATENT_DIM" not in config(**arm).identity()


@pytest.mark.parametrize(
    ("run", "idle"),
    [
        ({}, {"TF32": "n"}),
        ({"DTYPE_FLOAT16": "y"}, {"TF32": "n"}),
        ({"DECAY_LR": "n"}, {"MIN_LR": "1e-5"}),
        ({"WARMUP_ITERS": "5000"}, {"MIN_LR": "1e-5"}),
        ({"WARMUP_ITERS": "5000"}, {"DECAY_LR": "n"}),
        ({"ATTENTION_RA_V5": "y", "RA_V5_LEARN_W_REC": "n"}, {"RA_V5_R": "8"}),
        ({"ATTENTION_RA_V5": "y", "RA_V5_LEARN_W_REC": "n", "RA_V5_FOLD_LERP_KEYS": "y"}, {"RA_V5_R": "8"}),
        (
            {"ATTENTION_RA_MLA": "y", "RA_V5_LEARN_W_REC": "n", "RA_V5_LEARN_W_STD": "n"},
            {"RA_V5_R": "8", "RA_V5_GATE_LR_MULT": "3"},
        ),
        (
            {"ATTENTION_RA_V5": "y", "RA_V5_FOLD_DIRECT": "y", "RA_V5_LEARN_W_REC": "n", "RA_V5_LEARN_W_STD": "n"},
            {"RA_V5_R": "8", "RA_V5_GATE_LR_MULT": "3"},
        ),
    ],
)
def test_what_has_nothing_to_do_makes_no_other_run(run: dict[str, str], idle: dict[str, str]) -> None:
    ours, other = config(**run).identity(), config(**run, **idle).identity()
    assert identity_hash(ours) == identity_hash(other)
    # As earlier versions recorded it, and as it would be on top of another difference.
    recorded = {**ours, **idle}
    assert identity_differences(recorded, ours) == []
    assert identity_differences({**recorded, "BETA1": 0.8}, ours) == ["BETA1"]
    assert identity_differences(recorded, {**ours, "N_LAYER": 3}) == ["N_LAYER"]


@pytest.mark.parametrize("fold", ["LERP_DIMS", "MATRIX"])
def test_what_decides_the_shapes_in_a_checkpoint_makes_another_run(fold: str) -> None:
    held = {"ATTENTION_RA_V5": "y", "RA_V5_LEARN_W_REC": "n", f"RA_V5_FOLD_{fold}": "y"}
    assert identity_differences(config(**held).identity(), config(**held, RA_V5_R="8").identity()) == ["RA_V5_R"]


def test_what_a_record_says_of_another_variant_is_not_held_against_a_run() -> None:
    ours = config().identity()
    recorded = ours | {"MLA_KV_LATENT_DIM": 256, "RA_V5_R": 8, "RA_V5_GATE_LR_MULT": 3.0, "COMPILE_MODE": "default"}
    assert identity_differences(recorded, ours) == []
    assert identity_differences(recorded | {"RA_ALPHA": 3}, ours) == ["RA_ALPHA"]
    arm = config(ATTENTION_RA_V5="y").identity()
    assert identity_differences(arm | {"RA_V5_R": 8}, arm) == ["RA_V5_R"]
    assert identity_differences(ours, arm) == sorted(symbol for symbol in arm if arm.get(symbol) != ours.get(symbol))


def test_a_variant_without_fields_gets_its_options() -> None:
    symbols = {
        **resolve().symbols,
        "ATTENTION_BASELINE": False,
        "ATTENTION_FOO": True,
        "FOO_WIDTH": 3,
        "FOO_SOFT": True,
    }
    run = run_config(symbols)
    assert (run.model.attention, run.model.attention_options) == ("foo", {"width": 3, "soft": True})
    assert run.identity()["FOO_WIDTH"] == 3


def test_padding() -> None:
    assert [padded(n) for n in (1, 64, 65, 50257)] == [64, 64, 128, 50304]
