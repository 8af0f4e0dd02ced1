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
from dataclasses import dataclass
from typing import Any

from gpt2 import layers
from gpt2.base.settings import check, check_path, named_paths, setting
from gpt2.idle import Identity, all_warm_up, autocasts, gates_held, never_decays
from gpt2.model_config import GPTConfig as GPTConfig
from gpt2.model_config import may_have_gates


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

    gate_lr_mult: float = setting(10.0, "RA_V5_GATE_LR_MULT", only_if=may_have_gates, idle_if=gates_held)
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

    products: str = setting("auto", "PRODUCTS_", choice=True, optional=True)
    """Who makes the matrix products of linear layers: "auto", "torch" or "cublaslt" (gpt2/machine/products.py)."""

    fused_loss: bool = setting(True, "FUSED_LOSS")
    """The output layer and the loss a chunk of tokens at a time, without ever holding all logits (gpt2/loss.py)."""

    compile: str = setting("none", "COMPILE_", choice=True)
    """What torch.compile covers: "none", "attention" or "model"."""

    compile_mode: str = setting("default", "COMPILE_MODE_", choice=True)
    """torch.compile's mode, with "_" for "-"."""

    eval_interval: int = setting(250, "EVAL_INTERVAL")
    """Steps between evaluations."""

    eval_tokens: int = setting(655360, "EVAL_TOKENS")
    """Targets in an evaluation, in whole windows: up to BLOCK_SIZE - 1 more. 0 takes all validation tokens."""

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
    if symbol == layers.SYMBOL:
        return symbol in identity  # of all layers, or of the baseline's attention, there is none
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
