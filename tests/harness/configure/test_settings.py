"""Every setting in every arm: it makes another run, or is a name, or has nothing to do there, or is refused."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import pytest
import torch
from torch import nn

from gpt2.assignments import Assignment
from gpt2.base.errors import UserError
from gpt2.config import RunConfig
from gpt2.dotconfig import Resolved, file_of, parse_tree, resolve, settable_symbols
from gpt2.machine.device import autocast
from gpt2.model import GPT
from gpt2.optimizer import learning_rate, make_optimizer, set_lr
from harness.configure.kconfig import list_steps
from harness.configure.plan import PlannedRun, plan_with

BASE = {
    "MODEL_CUSTOM": "y",
    "N_LAYER": "1",
    "N_HEAD": "2",
    "N_EMBD": "16",
    "BLOCK_SIZE": "8",
    "BATCH_SIZE": "2",
    "MAX_ITERS": "6",
    "WARMUP_ITERS": "2",
    "EVAL_INTERVAL": "2",
    "LEARNING_RATE": "1e-2",
    "MIN_LR": "1e-3",
    "DTYPE_FLOAT32": "y",
    "RA_V5_R": "2",
    "MLA_KV_LATENT_DIM": "8",
    "RA_MLA_ABLATION_MODE": "y",
    "ABLATION_SEEDS": "1",
}

CONTROLS = (*("placebo", "rope", "sdpa-gate-headwise", "value-residual", "gqa", "mqa", "sliding-window", "uniform"),)
"""Arms whose settings are few, and otherwise the baseline's."""

SHAPES = {("uniform", "N_HEAD"), ("gqa", "ATTENTION_LAYERS")}
"""What a model is made of and recorded with, though without dropout it computes the same with any other number; and of
two heads GQA shares nothing, so that it is the baseline in any layer."""

VARIATIONS: dict[str, tuple[str, dict[str, str]]] = {
    "as it is": (",".join(step.name for step in list_steps() if step.name not in CONTROLS), {}),
    # Values of the first layer are its own in any case: it takes a second.
    "controls": (",".join(CONTROLS), {"N_LAYER": "2"}),
    "bfloat16": ("baseline", {"DTYPE_BFLOAT16": "y"}),
    "several processes": ("baseline", {"PROCESSES_PER_RUN": "2", "GRADIENT_ACCUMULATION_STEPS": "4"}),
    "no decay": ("baseline", {"DECAY_LR": "n"}),
    "all warm-up": ("baseline", {"WARMUP_ITERS": "6"}),
    "some layers": ("ra-v5-eager,ra-mla", {"N_LAYER": "2", "ATTENTION_LAYERS": "1"}),
    "held gate": ("ra-v5-eager,ra-v5-direct,ra-mla", {"RA_V5_LEARN_W_REC": "n"}),
    "no gate learns": ("ra-v5-eager,ra-mla", {"RA_V5_LEARN_W_STD": "n", "RA_V5_LEARN_W_REC": "n"}),
    "token files": ("baseline", {"DATASET_BIN": "y", "DATASET_BIN_DIR": "somewhere", "VOCAB_SIZE": "100"}),
    "texts": ("baseline", {"DATASET_TEXT": "y", "DATASET_TEXT_PATHS": "some.txt"}),
    "download": ("baseline", {"DATASET_OPENWEBTEXT": "y", "TOKENIZER_BYTE": "y"}),
}
"""Settings, laid over BASE, that decide what others have to do; and the arms in which to look."""

NAMES = {
    *("MODEL_NAME", "RESULTS_DIR", "DATA_DIR", "STEP_TITLE", "STEP_REFERENCE", "LOG_INTERVAL", "CHECKPOINT_INTERVAL"),
    *("STEP_CONTROL_NONE", "STEP_CONTROL_NULL", "STEP_CONTROL_BETTER", "STEP_CONTROL_WORSE"),
    *("DEVICE_AUTO", "DEVICE_CUDA", "DEVICE_MPS", "DEVICE_CPU", "TRACK_TENSORBOARD", "TRACK_WANDB"),
    *("PROCESSES_PER_RUN", "PARALLEL_DDP", "PARALLEL_ZERO1", "PARALLEL_FSDP2", "ACTIVATION_CHECKPOINTING"),
}
"""Names, places, paces of logging, and who computes what: no number of a run depends on them."""


def planned(settings: dict[str, str], arm: str, *asked: Assignment) -> PlannedRun:
    """The run of an arm under settings, laid over BASE, with what is asked for on top. Raises UserError."""
    layers = (BASE, settings, {"RA_MLA_ABLATION_STEPS": arm})
    base = resolve(*([Assignment(s, v, "test") for s, v in layer.items()] for layer in layers))
    return plan_with(base, asked).runs[0]


def other_values(symbol: str, value: str) -> Iterator[str]:
    """Values that the symbol might take instead, the likeliest first."""
    if value in ("y", "n"):
        yield "n" if value == "y" else "y"
        return
    try:
        number = float(value)
    except ValueError:
        yield {"ABLATION_SEEDS": "2", "ATTENTION_LAYERS": "0"}.get(symbol, "elsewhere")
        return
    if "." in value or "e" in value:
        yield from (str(number / 2), "0.25")
    else:
        yield from (str(int(n)) for n in (number + 1, number * 2, number - 1, number / 2))


def walked(base: Resolved) -> Iterator[tuple[str, list[str]]]:
    """Every settable symbol, and values that it does not have in `base`."""
    for symbol in settable_symbols():
        if file_of(symbol) != "harness/Kconfig" or symbol.startswith(("STEP_", "RESULTS_")):
            yield symbol, [value for value in other_values(symbol, base.value(symbol)) if value != base.value(symbol)]


def what_is_run(config: RunConfig) -> tuple[object, ...]:
    """What makes it another run."""
    return config.identity(), config.data.text_paths, config.data.bin_dir


def what_is_done(config: RunConfig) -> tuple[object, ...]:
    """What a run would build, draw and schedule."""
    t, d, o = config.train, config.data, config.optimizer
    return (
        trained(config),
        [learning_rate(step, t.max_iters, o) for step in range(t.max_iters)],
        [step for step in range(t.max_iters + 1) if step % t.eval_interval == 0],
        # How it is computed, which need not show in a few steps on a CPU, nor in few digits.
        t.dtype != "float32" and config.model.gelu_tanh,
        (t.dtype, t.fused_loss, t.compile, t.compile != "none" and t.compile_mode, t.dtype == "float32" and t.tf32),
        # Which tokens there are, and which weights it starts from, which cannot be told without the files.
        (d.dataset, d.tokenizer, d.vocab_size, d.val_fraction, d.max_tokens, d.text_paths, d.bin_dir, t.init_from),
        (t.eval_tokens, d.eval_datasets, t.eval_tail, t.ema_decay, t.sdpa_kernel, t.products),
    )


_trained: dict[str, str] = {}


def trained(config: RunConfig) -> str:
    """A digest of the weights after two steps of the trainer's kind, on tokens drawn from the seed."""
    t = config.train
    loop = (t.dtype, t.seed, t.batch_size, t.gradient_accumulation_steps, t.max_iters)
    key = repr((config.model, config.optimizer, loop))
    if key not in _trained:
        # That a GPT-2 of published size is another model shows without training it.
        _trained[key] = _train(config) if config.model.n_embd < 64 else f"{config.model.n_layer} layers"
    return _trained[key]


def _train(config: RunConfig) -> str:
    t = config.train
    model = GPT(config.model, seed=t.seed)
    generator = torch.Generator().manual_seed(t.seed)
    optimizer = make_optimizer(model, config.optimizer, "cpu")
    shape = (t.gradient_accumulation_steps, t.batch_size, config.model.block_size + 1)
    for step in range(2):
        torch.manual_seed(step)
        for tokens in torch.randint(64, shape, generator=generator):
            with autocast(torch.device("cpu"), t.dtype):
                loss = model(tokens[:, :-1], tokens[:, 1:])[1]
            (loss / len(tokens)).backward()
        nn.utils.clip_grad_norm_(model.parameters(), config.optimizer.grad_clip or float("inf"))
        set_lr(optimizer, learning_rate(step, t.max_iters, config.optimizer))
        optimizer.step()
        optimizer.zero_grad()
    digest = hashlib.sha256(repr(shape).encode())
    for name, tensor in model.state_dict().items():
        digest.update(name.encode() + tensor.contiguous().numpy().tobytes())
    return digest.hexdigest()


@pytest.mark.parametrize(
    "variation", [pytest.param(v, marks=pytest.mark.slow) if v == "controls" else v for v in VARIATIONS]
)
def test_every_setting_in_every_arm(variation: str) -> None:
    arms, settings = VARIATIONS[variation]
    for arm in arms.split(","):
        before = planned(settings, arm)
        for symbol, values in walked(before.resolved):
            for value in values:
                try:
                    after = planned(settings, arm, Assignment(symbol, value, "asked"))
                    trained(after.config)  # a variant may refuse it when it is built
                except UserError as error:
                    assert "\n" not in str(error)
                    assert symbol in str(error), (arm, symbol, value, str(error))
                    continue
                check_change(symbol, before, after)
                break


def check_change(symbol: str, before: PlannedRun, after: PlannedRun) -> None:
    """A changed setting makes another run in name and in deed, or in neither; and then there is a reason."""
    another_run = what_is_run(before.config) != what_is_run(after.config)
    does_otherwise = what_is_done(before.config) != what_is_done(after.config)
    assert another_run == (does_otherwise or (before.step, symbol) in SHAPES), (
        before.step,
        symbol,
        after.resolved.value(symbol),
    )
    recorded = after.config.identity()
    if symbol in NAMES:
        assert not another_run, (before.step, symbol)
    elif not another_run:
        # It is not recorded, or recorded as its default whatever it is.
        values = {before.resolved.value(symbol), after.resolved.value(symbol)}
        assert symbol not in recorded or any(not same(recorded[symbol], value) for value in values), symbol


def same(recorded: object, text: str) -> bool:
    """Whether a typed value is what the text of a setting says."""
    if isinstance(recorded, bool):
        return recorded == (text == "y")
    return float(text) == recorded if isinstance(recorded, int | float) else text == recorded


def test_the_walk_knows_every_setting() -> None:
    assert {s.name for s in parse_tree().unique_defined_syms if s.nodes[0].prompt} == set(settable_symbols())
