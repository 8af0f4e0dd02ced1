"""What one run is: frozen dataclasses, and how they are made from the symbols of a resolved `.config`.

This module imports no torch, so that config commands stay fast. `gpt2/dotconfig.py` reads the file; here its values get
types, names and limits. Kconfig has no floating-point type, so numbers such as "6e-4" arrive as strings.

Every field that comes from a symbol says so in its metadata (`setting`), once: that is what fills it, what an error
message names, and what the identity of a run is made of.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from gpt2 import layers
from gpt2.base.settings import check, check_path, named_paths, setting
from gpt2.idle import (
    RA_V5_AT_REST,
    Identity,
    all_warm_up,
    autocasts,
    gates_held,
    keys_unmixed,
    never_decays,
    plain_low_slot,
)

BUILT_IN = ("baseline", "ra_v5", "mla", "ra_mla")
"""The variants whose settings `GPTConfig` has fields for."""


def _has_ra(model: GPTConfig) -> bool:
    return model.attention in ("ra_v5", "ra_mla")


WITHOUT_GATES = ("baseline", "mla", "rope", "sdpa_gate", "value_residual", "gqa", "sliding_window", "uniform")
"""Variants in which no parameter is a gate. Of one that is not named, the rate of its gates is taken to matter."""


def _may_have_gates(model: GPTConfig) -> bool:
    return model.attention not in WITHOUT_GATES


def _has_mla(model: GPTConfig) -> bool:
    return model.attention in ("mla", "ra_mla")


@dataclass(frozen=True, kw_only=True)
class GPTConfig:
    """A GPT-2 and the attention in it. Names and defaults are nanoGPT's where nanoGPT has them."""

    block_size: int = setting(1024, "BLOCK_SIZE")
    """Context length T: the number of learned positions."""

    vocab_size: int = 50304
    """Rows of the token embedding; 50304 is GPT-2's 50257 padded to a multiple of 64."""

    n_layer: int = setting(12, "N_LAYER")
    """Number of blocks."""

    n_head: int = setting(12, "N_HEAD")
    """Attention heads in a block."""

    n_embd: int = setting(768, "N_EMBD")
    """Width of the residual stream, C."""

    dropout: float = setting(0.0, "DROPOUT")
    """Dropout rate of embeddings, attention weights and residual branches."""

    bias: bool = setting(True, "BIAS")
    """Biases in linear layers and LayerNorms, as in GPT-2."""

    gelu_tanh: bool = setting(True, "GELU_TANH")
    """GELU by its tanh approximation, as in OpenAI's GPT-2; False is the exact one, as in nanoGPT."""

    residual_bfloat16: bool = setting(False, "RESIDUAL_BFLOAT16")
    """Under bfloat16 autocast, whether the residual stream is bfloat16 too; by autocast's own rules it is float32."""

    attention: str = setting("baseline", "ATTENTION_", choice=True)
    """The attention variant: "baseline", "ra_v5", "mla", "ra_mla", or the name of a module in gpt2/."""

    attention_layers: str = setting("", layers.SYMBOL, optional=True)
    """The layers that have this attention, such as "0-2" or "0+2" (gpt2/layers.py); the others have the baseline's.
    Empty: all. After construction it is so too where all are named, and where the attention is the baseline's."""

    attention_options: Mapping[str, bool | int | str] = field(default_factory=dict)
    """Settings of a variant this class has no field for: symbol FOO_X of variant `foo` is option "x"."""

    use_ra_v5: bool = False
    """The RA v5 plan's spelling of attention="ra_v5". After construction it says whether this is RA v5."""

    ra_v5_R: int = setting(4, "RA_V5_R", only_if=_has_ra, idle_if=plain_low_slot)
    """Reciprocal dimensions per head, R: the width of the low slot."""

    ra_v5_compile: bool = True
    """Whether `GPT` compiles each RA v5 attention module when it is first used, as in the seed. A run's `.config` asks
    for compilation by TrainConfig.compile instead, which covers every variant, and sets this to False."""

    ra_v5_fold: str = setting("lerp", "RA_V5_FOLD_", choice=True, only_if=_has_ra, idle_if=keys_unmixed)
    """"lerp", "direct", "lerp_dims", "lerp_keys" or "matrix"; docs/ra-v5.md."""

    ra_v5_gate_init: float | None = setting(None, "RA_V5_GATE_INIT", only_if=_has_ra)
    """Initial w_rec, of the matrix fold its diagonal. None: where the fold is the baseline (direct 1, others 0)."""

    ra_v5_learn_w_std: bool = setting(True, "RA_V5_LEARN_W_STD", only_if=_has_ra)
    """Whether w_std is learned or held at 1."""

    ra_v5_learn_w_rec: bool = setting(True, "RA_V5_LEARN_W_REC", only_if=_has_ra)
    """Whether w_rec is learned or held at its initial value."""

    ra_v5_d_bias: bool = setting(False, "RA_V5_D_BIAS", only_if=_has_ra)
    """A learned bias per head and key position on the scores."""

    mla_kv_latent_dim: int = setting(256, "MLA_KV_LATENT_DIM", only_if=_has_mla)
    """Width of the latent vector keys and values are made from."""

    def __post_init__(self) -> None:
        if self.use_ra_v5 and self.attention == "baseline":
            object.__setattr__(self, "attention", "ra_v5")
        object.__setattr__(self, "use_ra_v5", self.attention == "ra_v5")
        if self.ra_v5_gate_init is None:
            object.__setattr__(self, "ra_v5_gate_init", RA_V5_AT_REST.get(self.ra_v5_fold))
        for name in ("block_size", "vocab_size", "n_layer", "n_head", "n_embd"):
            check(getattr(self, name) >= 1, name, getattr(self, name), "must be at least 1")
        if self.attention_layers:
            named = layers.parse_layers(self.attention_layers, self.n_layer)
            some = self.attention != "baseline" and len(named) < self.n_layer
            object.__setattr__(self, "attention_layers", layers.layers_text(named) if some else "")
        check(0 <= self.dropout < 1, "DROPOUT", self.dropout, "must be from 0 to below 1")
        check(
            self.n_embd % self.n_head == 0,
            "N_EMBD",
            self.n_embd,
            f"must be a multiple of the number of heads (N_HEAD={self.n_head})",
        )
        if _has_ra(self):
            check(
                1 <= self.ra_v5_R < self.head_dim,
                "RA_V5_R",
                self.ra_v5_R,
                f"must be from 1 to {self.head_dim - 1}: a head is N_EMBD / N_HEAD = {self.head_dim} wide",
            )
            folds = RA_V5_AT_REST
            check(self.ra_v5_fold in folds, "RA_V5_FOLD", self.ra_v5_fold, f"is not one of {', '.join(folds)}")
            check(
                self.attention != "ra_mla" or self.ra_v5_fold == "lerp",
                "RA_V5_FOLD",
                self.ra_v5_fold,
                "RA + MLA has the lerp fold only",
            )
            check(
                not (self.attention == "ra_mla" and self.ra_v5_d_bias),
                "RA_V5_D_BIAS",
                "y",
                "RA + MLA has no discoverability bias",
            )
        if _has_mla(self):
            check(self.mla_kv_latent_dim >= 1, "MLA_KV_LATENT_DIM", self.mla_kv_latent_dim, "must be at least 1")

    @property
    def head_dim(self) -> int:
        """Width of a head, D."""
        return self.n_embd // self.n_head

    def has_attention(self, layer: int) -> bool:
        """Whether a layer has `attention`; else it has the baseline's."""
        return not self.attention_layers or layer in layers.parse_layers(self.attention_layers, self.n_layer)

    def of_layer(self, layer: int) -> GPTConfig:
        """What a layer is built by: this, or the same with the baseline's attention."""
        if self.has_attention(layer):
            return self
        return dataclasses.replace(self, attention="baseline", use_ra_v5=False)

    def shortened(self, n_layer: int) -> GPTConfig:
        """The same with fewer layers, of which all have `attention`."""
        return dataclasses.replace(self, n_layer=n_layer, attention_layers="")


def flops_per_token(params: int, *, n_embd: int, block_size: int, positions: int) -> int:
    """Floating-point operations of a forward and backward pass of a GPT-2 of so many parameters, per token.

    6 N for the parameters that are multiplied with (positions are only added) and 12 C for each of the `positions` that
    a query looks at, over all layers: with n_layer T of them PaLM's count, arXiv:2204.02311, appendix B, as in nanoGPT.
    """
    return 6 * (params - block_size * n_embd) + 12 * n_embd * positions


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Which tokens. Where they lie (`data_dir`) changes no number; their hash belongs to the run's identity."""

    dataset: str = setting("stdlib", "DATASET_", choice=True)
    """"stdlib", "text", "shakespeare", "openwebtext", "finewebedu" or "bin"."""

    tokenizer: str = setting("byte", "TOKENIZER_", choice=True)
    """"byte" or "gpt2"."""

    text_paths: str = setting("", "DATASET_TEXT_PATHS", identity=False)
    """For "text": files, directories and globs, separated by spaces."""

    bin_dir: str = setting("", "DATASET_BIN_DIR", identity=False)
    """For "bin": the directory of the token files."""

    eval_datasets: str = setting("", "EVAL_DATASETS", optional=True)
    """More sets to evaluate on, NAME=DIRECTORY;NAME=DIRECTORY (gpt2/data/evaluation.py)."""

    max_tokens: int = setting(0, "DATASET_MAX_TOKENS")
    """Stop preparing a downloaded data set after so many training tokens; 0 takes all."""

    val_fraction: float = setting(0.1, "DATASET_VAL_FRACTION")
    """Share of documents held out for validation."""

    vocab_size: int = setting(256, "VOCAB_SIZE")
    """Distinct tokens, before padding."""

    data_dir: str = setting("data", "DATA_DIR", identity=False)
    """Prepared data sets live in a directory each below this one."""

    def __post_init__(self) -> None:
        check(0 < self.val_fraction < 1, "DATASET_VAL_FRACTION", self.val_fraction, "must lie between 0 and 1")
        if self.dataset == "text":
            check(bool(self.text_paths.strip()), "DATASET_TEXT_PATHS", '""', "name at least one file or directory")
        if self.dataset == "bin":
            check(bool(self.bin_dir), "DATASET_BIN_DIR", '""', "name the directory that holds the token files")
            check_path("DATASET_BIN_DIR", self.bin_dir)
        check_path("DATA_DIR", self.data_dir)
        named_paths("EVAL_DATASETS", self.eval_datasets)

    @property
    def eval_paths(self) -> dict[str, str]:
        """The directories of `eval_datasets` by the names of the sets."""
        return named_paths("EVAL_DATASETS", self.eval_datasets)


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """AdamW and the learning-rate schedule."""

    learning_rate: float = setting(6e-4, "LEARNING_RATE")
    """Peak learning rate, reached at the end of the warm-up."""

    min_lr: float = setting(6e-5, "MIN_LR", idle_if=never_decays)
    """Learning rate at the last step."""

    warmup_iters: int = setting(100, "WARMUP_ITERS")
    """Steps of linear warm-up."""

    decay_lr: bool = setting(True, "DECAY_LR", idle_if=all_warm_up)
    """Cosine decay to min_lr at the run's last step."""

    weight_decay: float = setting(0.1, "WEIGHT_DECAY")
    """Decoupled weight decay, on matrices only."""

    beta1: float = setting(0.9, "BETA1")
    """AdamW's first moment."""

    beta2: float = setting(0.95, "BETA2")
    """AdamW's second moment."""

    grad_clip: float = setting(1.0, "GRAD_CLIP")
    """Clip the global gradient norm here; 0 switches it off."""

    gate_lr_mult: float = setting(10.0, "RA_V5_GATE_LR_MULT", only_if=_may_have_gates, idle_if=gates_held)
    """Learning rate of gates as a multiple of the learning rate."""

    def __post_init__(self) -> None:
        check(self.learning_rate > 0, "LEARNING_RATE", self.learning_rate, "must be above 0")
        check(
            0 <= self.min_lr <= self.learning_rate,
            "MIN_LR",
            self.min_lr,
            f"must be from 0 to LEARNING_RATE={self.learning_rate}",
        )
        check(self.warmup_iters >= 0, "WARMUP_ITERS", self.warmup_iters, "must not be negative")
        check(self.weight_decay >= 0, "WEIGHT_DECAY", self.weight_decay, "must not be negative")
        check(0 <= self.beta1 < 1, "BETA1", self.beta1, "must be from 0 to below 1")
        check(0 <= self.beta2 < 1, "BETA2", self.beta2, "must be from 0 to below 1")
        check(self.grad_clip >= 0, "GRAD_CLIP", self.grad_clip, "must not be negative")
        check(self.gate_lr_mult >= 0, "RA_V5_GATE_LR_MULT", self.gate_lr_mult, "must not be negative")


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """The training loop: how long, on what, how often it looks up."""

    max_iters: int = setting(5000, "MAX_ITERS")
    """Optimizer steps."""

    batch_size: int = setting(16, "BATCH_SIZE")
    """Sequences in a micro-batch, B."""

    gradient_accumulation_steps: int = setting(1, "GRADIENT_ACCUMULATION_STEPS")
    """Micro-batches in an optimizer step, of all processes together."""

    processes: int = setting(1, "PROCESSES_PER_RUN", identity=False)
    """Processes ("ranks") that train the run together, each on its share of the micro-batches."""

    parallel: str = setting("ddp", "PARALLEL_", choice=True, identity=False)
    """What each of several processes holds: "ddp", "zero1" or "fsdp2" (gpt2/run/parallel.py)."""

    activation_checkpointing: bool = setting(False, "ACTIVATION_CHECKPOINTING", identity=False)
    """Keep a block's input alone for its backward pass, and compute the rest again there."""

    seed: int = setting(1, "SEED")
    """Of initial weights, data order and dropout."""

    device: str = setting("auto", "DEVICE_", choice=True, identity=False)
    """"auto", "cuda", "mps" or "cpu"."""

    dtype: str = setting("bfloat16", "DTYPE_", choice=True)
    """Of matrix products: "float32", "bfloat16" or "float16". Weights are float32."""

    tf32: bool = setting(True, "TF32", idle_if=autocasts)
    """Allow TF32 where float32 matrix products run on tensor cores."""

    sdpa_kernel: str = setting("auto", "SDPA_KERNEL_", choice=True, optional=True)
    """What computes attention: "auto", "cudnn", "flash", "efficient" or "math" (gpt2/machine/sdpa.py)."""

    fused_loss: bool = setting(True, "FUSED_LOSS")
    """The output layer and the loss a chunk of tokens at a time, without ever holding all logits (gpt2/loss.py)."""

    compile: str = setting("none", "COMPILE_", choice=True)
    """What torch.compile covers: "none", "attention" or "model"."""

    compile_mode: str = setting("default", "COMPILE_MODE_", choice=True)
    """torch.compile's mode, with "_" for "-"."""

    eval_interval: int = setting(250, "EVAL_INTERVAL")
    """Steps between evaluations."""

    eval_tokens: int = setting(655360, "EVAL_TOKENS")
    """Targets in an evaluation, at most; 0 takes all validation tokens."""

    eval_tail: int = setting(0, "EVAL_TAIL", optional=True)
    """Evaluations in the last twentieth of the run (gpt2/run/evaluation.py)."""

    ema_decay: float = setting(0.0, "EMA_DECAY", optional=True)
    """Of the moving average of weights that is evaluated beside them (gpt2/run/ema.py); 0 keeps none."""

    log_interval: int = setting(10, "LOG_INTERVAL", identity=False)
    """Steps between lines in the log and in metrics.jsonl."""

    checkpoint_interval: int = setting(500, "CHECKPOINT_INTERVAL", identity=False)
    """Steps between checkpoints; 0 writes the last only."""

    checkpoint_keep: str = setting("all", "CHECKPOINT_KEEP_", choice=True, identity=False)
    """What a finished run keeps: "all", the "weights" of its last step, or "none"."""

    alone: bool = setting(False, "ALONE_ON_DEVICE", identity=False)
    """Whether nothing else may use the device while the run trains."""

    init_from: str = setting("", "INIT_FROM")
    """A checkpoint to take the initial weights from; empty for none."""

    track_tensorboard: bool = setting(False, "TRACK_TENSORBOARD", identity=False)
    """Mirror the metrics to TensorBoard."""

    track_wandb: bool = setting(False, "TRACK_WANDB", identity=False)
    """Mirror the metrics to Weights & Biases."""

    def __post_init__(self) -> None:
        if self.init_from:
            check_path("INIT_FROM", self.init_from)
        check(0 <= self.ema_decay < 1, "EMA_DECAY", self.ema_decay, "must be from 0 to below 1")
        check(
            self.ema_decay == 0 or self.processes == 1 or self.parallel != "fsdp2",
            "EMA_DECAY",
            self.ema_decay,
            "PARALLEL_FSDP2 has a share of each weight in a process, and no average is kept of those: take "
            "PARALLEL_DDP or PARALLEL_ZERO1, or EMA_DECAY=0",
        )
        check(self.processes >= 1, "PROCESSES_PER_RUN", self.processes, "must be at least 1")
        check(
            self.gradient_accumulation_steps % self.processes == 0,
            "PROCESSES_PER_RUN",
            self.processes,
            f"must divide GRADIENT_ACCUMULATION_STEPS={self.gradient_accumulation_steps}: {self._same_batch()}",
        )

    def _same_batch(self) -> str:
        """How PROCESSES_PER_RUN could share the batch, for an error message."""
        sequences = self.batch_size * self.gradient_accumulation_steps
        each, rest = divmod(sequences, self.processes)
        if rest:
            return f"nor does it divide the batch of {sequences} sequences; take another number, or another batch"
        size = next(size for size in range(min(self.batch_size, each), 0, -1) if each % size == 0)
        return (
            f"BATCH_SIZE={size} and GRADIENT_ACCUMULATION_STEPS={sequences // size} are the same batch of "
            f"{sequences} sequences, and can be shared"
        )


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """One training run, whole."""

    name: str
    """MODEL_NAME: names the experiment's directory."""

    model: GPTConfig
    data: DataConfig
    optimizer: OptimizerConfig
    train: TrainConfig

    def __post_init__(self) -> None:
        t = self.train
        by_block = t.processes > 1 and t.parallel == "fsdp2" and t.compile == "model"
        check(
            self.model.dropout == 0 or not by_block,
            "DROPOUT",
            self.model.dropout,
            "PARALLEL_FSDP2 compiles block by block, which draws other dropout than the model compiled whole: take "
            "COMPILE_ATTENTION, PARALLEL_DDP or PARALLEL_ZERO1, or no dropout",
        )

    @property
    def tokens_per_iter(self) -> int:
        """Tokens that one optimizer step sees."""
        return self.train.batch_size * self.train.gradient_accumulation_steps * self.model.block_size

    def identity(self) -> dict[str, Any]:
        """Symbol -> value for every setting that affects this run's numbers.

        Names, paths and intervals of logging are left out, and so are settings of attention variants that this run
        does not use: the same run is the same run whatever R it does not have. What other settings leave nothing to do
        has its default. The data's hash comes on top of this (`identity_hash`).
        """
        identity: dict[str, Any] = {"VOCAB_SIZE_PADDED": self.model.vocab_size}
        for part in (self.model, self.data, self.optimizer, self.train):
            for f in dataclasses.fields(part):
                if "symbol" not in f.metadata or not f.metadata["identity"]:
                    continue
                only_if, value = f.metadata["only_if"], getattr(part, f.name)
                is_off = f.metadata["optional"] and value == f.default
                if not is_off and (only_if is None or only_if(self.model)):
                    identity[_key(f)] = value
        for option, value in self.model.attention_options.items():
            identity[f"{self.model.attention}_{option}".upper()] = value
        if self.train.compile == "none":
            del identity["COMPILE_MODE"]
        return settled(identity)


def identity_hash(identity: Identity) -> str:
    """SHA-256, as hex, of an identity: the canonical JSON of its items."""
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()


def settled(identity: Identity) -> dict[str, Any]:
    """An identity with the settings that do nothing in it (`idle_if`) at their defaults: any value is the same run."""
    return {**identity, **{symbol: _IDLE[symbol].default for symbol in _idle_in(identity)}}


def identity_differences(recorded: Identity, ours: Identity) -> list[str]:
    """Symbols by which a run that was recorded differs from one of ours.

    What the record says of a setting that does nothing in our run is not held against it: earlier versions recorded
    some that they need not have.
    """
    differ = [symbol for symbol in {**recorded, **ours} if recorded.get(symbol) != ours.get(symbol)]
    no_matter = _idle_in(ours) | (_CONDITIONAL - ours.keys())
    return sorted(set(differ) - no_matter)


def _idle_in(identity: Identity) -> set[str]:
    return {symbol for symbol, f in _IDLE.items() if symbol in identity and f.metadata["idle_if"](identity)}


def does_something(symbol: str, identity: Identity) -> bool:
    """Whether a setting of a run, or a member of a choice, can make a difference to the run of this identity."""
    keys = [key for key in _CONDITIONAL | _IDLE.keys() if symbol == key or symbol.startswith(f"{key}_")]
    key = max(keys, key=len, default=None)
    return key is None or (key in identity and key not in _idle_in(identity))


def is_of_a_run(symbol: str) -> bool:
    """Whether a symbol is no name, place or pace of logging, but a setting that can affect a run's numbers."""
    outside = [f.metadata for f in _FIELDS if not f.metadata["identity"]]
    return not any(symbol.startswith(of["symbol"]) if of["choice"] else symbol == of["symbol"] for of in outside)


def _key(f: dataclasses.Field[Any]) -> str:
    """What a setting is called in an identity: its symbol, or its choice's."""
    return str(f.metadata["symbol"]).rstrip("_")


_FIELDS = [
    f
    for part in (GPTConfig, DataConfig, OptimizerConfig, TrainConfig)
    for f in dataclasses.fields(part)
    if "symbol" in f.metadata
]
DATA_PATHS = ("DATASET_TEXT_PATHS", "DATASET_BIN_DIR", "EVAL_DATASETS")
"""Where data lies: of what lies there, identities have the hash."""
_IDLE = {_key(f): f for f in _FIELDS if f.metadata["idle_if"]}
_CONDITIONAL = {"COMPILE_MODE", *(_key(f) for f in _FIELDS if f.metadata["only_if"])}
"""Settings that only some runs have in their identity."""
