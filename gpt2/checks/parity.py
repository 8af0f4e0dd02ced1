"""Numerical parity: where its gates or its settings say so, a variant is its baseline on the same weights.

    for row in check_parity("cpu", compiled=False):
        print(row.variant, row.output, row.passed)

`scripts/check_parity.py` is the command. Both sides run in the same precision and compiled or eager alike, without
dropout, on a small GPT-2 with heads of GPT-2's width.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from gpt2.config import GPTConfig
from gpt2.machine import products
from gpt2.machine.compilation import compile_attention
from gpt2.machine.device import DTYPES, autocast, set_precision
from gpt2.model import GPT

MAX_DIFF = 1e-3
"""The RA v5 plan's criterion for a difference, in every precision."""

MIN_COSINE = 0.999
"""The RA v5 plan's criterion for the angle, in every precision."""

MAX_DIFF_FLOAT32 = 1e-6
"""Ours in float32 on a CPU, where nothing but the order of sums may differ."""

MAX_DIFF_FLOAT32_ACCELERATOR = 1e-5
"""Ours in float32 elsewhere: a head one wider, for d_bias, may run in another kernel there."""

B, T = 2, 128
SHAPE: dict[str, Any] = dict(n_layer=2, n_head=3, n_embd=192, block_size=T, vocab_size=512, mla_kv_latent_dim=64)

# float16 gradients of a mean over tokens are subnormal or 0 without a scale. A power of two changes no digit.
_LOSS_SCALE = 1024


@dataclass(frozen=True, kw_only=True)
class Variant:
    """A variant, and where it is its baseline."""

    settings: Mapping[str, Any]
    """Of GPTConfig."""

    gates: Mapping[str, float] = field(default_factory=dict)
    """By name, those that decide whether it is the baseline, and where they have it so."""

    reference: str = "baseline"
    """The attention it is then equal to."""


def _with_options(attention: str, **options: int | str) -> Variant:
    return Variant(settings={"attention": attention, "attention_options": options})


VARIANTS = {
    "ra_v5 lerp": Variant(settings={"attention": "ra_v5"}, gates={"w_rec": 0.0}),
    "ra_v5 direct": Variant(settings={"attention": "ra_v5", "ra_v5_fold": "direct"}, gates={"w_rec": 1.0}),
    "ra_v5 lerp_dims": Variant(settings={"attention": "ra_v5", "ra_v5_fold": "lerp_dims"}, gates={"w_rec": 0.0}),
    "ra_v5 lerp_keys": Variant(settings={"attention": "ra_v5", "ra_v5_fold": "lerp_keys"}, gates={"w_rec": 0.0}),
    "ra_v5 matrix": Variant(settings={"attention": "ra_v5", "ra_v5_fold": "matrix"}, gates={"w_rec": 0.0}),
    "ra_v5 lerp, layer 1": Variant(settings={"attention": "ra_v5", "attention_layers": "1"}, gates={"w_rec": 0.0}),
    "ra_v5 lerp, d_bias": Variant(settings={"attention": "ra_v5", "ra_v5_d_bias": True}, gates={"w_rec": 0.0}),
    "ra_v5 direct, d_bias": Variant(
        settings={"attention": "ra_v5", "ra_v5_fold": "direct", "ra_v5_d_bias": True}, gates={"w_rec": 1.0}
    ),
    "ra_mla": Variant(settings={"attention": "ra_mla"}, gates={"w_rec": 0.0}, reference="mla"),
    "value_residual": _with_options("value_residual", mix="0"),
    "gqa": _with_options("gqa", kv_heads=SHAPE["n_head"]),
    "sliding_window": _with_options("sliding_window", size=T),
}


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What both sides have in common."""

    device: str = "cpu"
    """Its type."""

    dtype: str
    """Of autocast, as in TrainConfig."""

    bias: bool
    """Biases in linear layers and norms."""

    training: bool
    """Train mode, with gradients; or eval mode under no_grad."""

    compiled: bool
    """torch.compile on the attention modules, of both sides."""


@dataclass(frozen=True)
class Difference:
    """How far two tensors are apart."""

    max_diff: float
    """The largest absolute difference; 0 means equal in every bit."""

    cosine: float
    """Of the angle between them, both flattened."""

    @classmethod
    def between(cls, a: Tensor, b: Tensor) -> Difference:
        """Of two tensors of one shape."""
        a, b = a.double().flatten(), b.double().flatten()
        return cls((a - b).abs().max().item(), F.cosine_similarity(a, b, dim=0).item())

    @classmethod
    def worst(cls, differences: Iterable[Difference]) -> Difference:
        """The largest difference and the smallest cosine of several."""
        differences = list(differences)
        return cls(max(d.max_diff for d in differences), min(d.cosine for d in differences))


@dataclass(frozen=True, kw_only=True)
class Parity:
    """A variant against its baseline in one setting."""

    variant: str
    """Its name in VARIANTS."""

    reference: str
    """The attention of its baseline."""

    setting: Setting
    """What both ran in."""

    output: Difference
    """Of the logits."""

    loss: float
    """Absolute difference, nats."""

    gradient: Difference | None
    """Over all parameters that both have; None in eval mode."""

    criterion: float = field(init=False)
    """What no difference here may exceed."""

    passed: bool = field(init=False)
    """Whether they do, and the cosines are above MIN_COSINE."""

    def __post_init__(self) -> None:
        criterion = MAX_DIFF
        if self.setting.dtype == "float32":
            criterion = MAX_DIFF_FLOAT32 if self.setting.device == "cpu" else MAX_DIFF_FLOAT32_ACCELERATOR
        differences = [d for d in (self.output, self.gradient) if d is not None]
        passed = self.loss <= criterion and all(d.max_diff <= criterion and d.cosine > MIN_COSINE for d in differences)
        object.__setattr__(self, "criterion", criterion)
        object.__setattr__(self, "passed", passed)


def settings(device: str, *, compiled: bool, dtypes: Sequence[str] = tuple(DTYPES)) -> list[Setting]:
    """Every precision, with biases and without, in train and in eval mode; with `compiled`, all of it compiled too."""
    return [
        Setting(device=device, dtype=dtype, bias=bias, training=training, compiled=c)
        for c, dtype, bias, training in itertools.product([False, True], dtypes, [True, False], [True, False])
        if compiled or not c
    ]


def check_parity(device: str, *, compiled: bool, dtypes: Sequence[str] = tuple(DTYPES)) -> Iterator[Parity]:
    """Compare every variant with its baseline in all `settings`. Forbids TF32 in this process."""
    set_precision(tf32=False)
    for setting in settings(device, compiled=compiled, dtypes=dtypes):
        yield from compare(setting)


def compare(setting: Setting) -> Iterator[Parity]:
    """Compare every variant with its baseline in one setting."""
    products.request(products.AUTO, torch.device(setting.device), setting.dtype)
    references = {name: _reference(name, setting) for name in ("baseline", "mla")}
    expected = {name: _run(model, setting) for name, model in references.items()}
    for name, variant in VARIANTS.items():
        model = GPT(_config(setting, variant.settings), seed=1)
        with torch.no_grad():
            # As the RA v5 plan writes it, in place.
            for parameter, p in model.named_parameters():
                gate = parameter.rpartition(".")[2]
                if gate in variant.gates:
                    p[:] = variant.gates[gate]
        # Its own parameters, the gates, are all that the baseline does not have.
        model.load_state_dict(references[variant.reference].state_dict(), strict=False)
        a, b = _run(model, setting), expected[variant.reference]
        yield Parity(
            variant=name,
            reference=variant.reference,
            setting=setting,
            output=Difference.between(a.logits, b.logits),
            loss=abs(a.loss - b.loss),
            gradient=Difference.between(_common(a, b), _common(b, a)) if setting.training else None,
        )


@dataclass(frozen=True)
class _Pass:
    logits: Tensor
    loss: float
    gradients: Mapping[str, Tensor]


def _config(setting: Setting, attention: Mapping[str, Any]) -> GPTConfig:
    return GPTConfig(**SHAPE, bias=setting.bias, ra_v5_compile=False, **attention)


def _reference(attention: str, setting: Setting) -> GPT:
    """A baseline whose biases and norms are not at the 0 and 1 they start from."""
    model = GPT(_config(setting, {"attention": attention}), seed=1)
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.02 * torch.randn(p.shape, generator=generator))
    return model


def _run(model: GPT, setting: Setting) -> _Pass:
    """One pass over tokens that are the same for everyone."""
    device = torch.device(setting.device)
    tokens = torch.randint(SHAPE["vocab_size"], (B, T + 1), generator=torch.Generator().manual_seed(3)).to(device)
    model = model.to(device).train(setting.training)
    if setting.compiled:
        compile_attention(model)
    with torch.set_grad_enabled(setting.training), autocast(device, setting.dtype):
        logits, loss = model(tokens[:, :-1], tokens[:, 1:])
    assert loss is not None
    if setting.training:
        (loss * _LOSS_SCALE).backward()
    if setting.compiled:
        torch.compiler.reset()
    gradients = {name: p.grad / _LOSS_SCALE for name, p in model.named_parameters() if p.grad is not None}
    return _Pass(logits.detach(), loss.item(), gradients)


def _common(ours: _Pass, theirs: _Pass) -> Tensor:
    """Our gradients of the parameters that both have, in one vector."""
    return torch.cat([g.flatten() for name, g in ours.gradients.items() if name in theirs.gradients])
