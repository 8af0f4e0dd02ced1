"""The baseline against the formula, SDPA counts, the cache's bookkeeping, and finding variants; model-wide facts."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from gpt2.attention import build_attention
from gpt2.attention.baseline import CausalSelfAttention
from gpt2.attention.shared import LayerCache, causal_attention
from gpt2.base.errors import UserError
from gpt2.config import GPTConfig
from gpt2.machine.compilation import compile_scope
from gpt2.model import GPT
from gpt2.optimizer import gate_names
from tests.gpt2.variants import ADDED, SHAPED_ANEW, VARIANTS, explicit_attention, small_config, small_model


class CountSDPA(TorchDispatchMode):
    """Counts the kernels that scaled_dot_product_attention dispatches to, forward only."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.__name__
        self.calls += name.startswith("_scaled_dot_product") and "backward" not in name
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(("T", "S"), [(9, 9), (1, 9), (4, 9), (1, 1)])
def test_queries_are_the_last_positions(T: int, S: int) -> None:
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(2, 3, n, 8, generator=generator, dtype=torch.float64) for n in (T, S, S))
    expected = explicit_attention(q, k, v, 0.3)
    torch.testing.assert_close(causal_attention(q, k, v, scale=0.3), expected, rtol=0, atol=1e-14)


@pytest.mark.parametrize("bias", [True, False])
def test_the_baseline_is_the_formula(bias: bool) -> None:
    torch.manual_seed(0)
    attention = CausalSelfAttention(24, 3, bias=bias).double()
    x = torch.randn(2, 10, 24, dtype=torch.float64)
    qkv = x @ attention.c_attn.weight.T + (attention.c_attn.bias if bias else 0)
    q, k, v = (t.view(2, 10, 3, 8).transpose(1, 2) for t in qkv.split(24, dim=-1))
    y = explicit_attention(q, k, v, 1 / math.sqrt(8)).transpose(1, 2).reshape(2, 10, 24)
    expected = y @ attention.c_proj.weight.T + (attention.c_proj.bias if bias else 0)
    torch.testing.assert_close(attention(x), expected, rtol=0, atol=1e-14)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("variant", VARIANTS)
def test_one_sdpa_call_per_layer(variant: str, training: bool) -> None:
    model = small_model(variant, n_layer=3).train(training)
    idx = torch.zeros(2, 16, dtype=torch.long)
    with CountSDPA() as count, torch.set_grad_enabled(training):
        _, loss = model(idx, idx)
        if training:
            loss.backward()
    assert count.calls == 3


@pytest.mark.parametrize("variant", VARIANTS)
def test_no_position_sees_a_later_one(variant: str) -> None:
    model = small_model(variant).eval()
    idx = torch.randint(64, (1, 32), generator=torch.Generator().manual_seed(0))
    changed = idx.clone()
    changed[:, 20:] = (changed[:, 20:] + 1) % 64
    with torch.no_grad():
        (a, _), (b, _) = model(idx), model(changed)
    assert torch.equal(a[:, :20], b[:, :20])
    assert not torch.isclose(a[:, 20:], b[:, 20:]).all(-1).any()


@pytest.mark.parametrize("variant", VARIANTS)
def test_attention_dropout_acts_in_training_only(variant: str) -> None:
    model = small_model(variant, dropout=0.5)
    idx = torch.zeros(1, 8, dtype=torch.long)
    assert not torch.equal(model(idx)[0], model(idx)[0])
    model.eval()
    assert torch.equal(model(idx)[0], model(idx)[0])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("variant", VARIANTS)
def test_autocast_keeps_the_loss_close(variant: str, dtype: torch.dtype) -> None:
    model = small_model(variant).eval()
    idx = torch.randint(64, (2, 33), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        _, exact = model(idx[:, :-1], idx[:, 1:])
        with torch.autocast("cpu", dtype):
            _, loss = model(idx[:, :-1], idx[:, 1:])
    assert loss.item() == pytest.approx(exact.item(), rel=0.02)


@pytest.mark.slow
@pytest.mark.parametrize("scope", ["attention", "model"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_every_variant_is_traced_whole(variant: str, scope: str) -> None:
    model = small_model(variant)
    idx = torch.randint(64, (2, 32), generator=torch.Generator().manual_seed(0))
    _, expected = model(idx, idx)
    compile_scope(model, scope, backend="aot_eager")
    _, loss = model(idx, idx)
    loss.backward()
    torch.compiler.reset()
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=0)


# The cache


def test_a_cache_returns_all_positions_so_far_and_takes_room_once() -> None:
    cache = LayerCache(6)
    a, b = torch.randn(2, 3, 4, 8), torch.randn(2, 4, 5)
    for start, end in [(0, 1), (1, 3), (3, 4)]:
        whole_a, whole_b = cache.append(a[:, :, start:end], b[:, start:end])
        assert cache.length == end
        assert torch.equal(whole_a, a[:, :, :end])
        assert torch.equal(whole_b, b[:, :end])
    assert cache.bytes_per_token() == 4 * (3 * 8 + 5)
    with pytest.raises(ValueError, match="7 positions do not fit into a cache of block_size=6"):
        cache.append(a[:, :, :3], b[:, :3])


# Finding a variant


def test_a_variant_is_found_by_its_modules_name() -> None:
    assert type(build_attention(small_config("baseline"))).__name__ == "CausalSelfAttention"
    assert type(build_attention(small_config("ra_v5-lerp"))).__name__ == "UltimateRAv5"
    assert type(build_attention(small_config("mla"))).__name__ == "MultiHeadLatentAttention"
    with pytest.raises(UserError, match=r"ATTENTION_FOO=y: there is no module gpt2/attention/foo\.py"):
        build_attention(GPTConfig(attention="foo"))


# The model around it


def test_gpt2_small_has_the_parameters_that_it_has() -> None:
    with torch.device("meta"):
        model = GPT(GPTConfig(vocab_size=50257), seed=1)
    assert model.num_params() == 124_439_808


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_loss_before_training_is_that_of_a_uniform_guess(variant: str) -> None:
    model = GPT(small_config(variant, n_head=4, n_embd=256, n_layer=4, vocab_size=2048, block_size=128), seed=1).eval()
    tokens = torch.randint(2048, (4, 129), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        _, loss = model(tokens[:, :-1], tokens[:, 1:])
    # Logits of variance 256 * 0.02^2 add half of that to ln(vocab).
    assert loss.item() == pytest.approx(math.log(2048) + 256 * 0.02**2 / 2, abs=0.03)


def weights(variant: str, seed: int = 1, **settings: Any) -> dict[str, Tensor]:
    return GPT(small_config(variant, **settings), seed=seed).state_dict()


@pytest.mark.parametrize("variant", VARIANTS)
def test_arms_of_a_seed_begin_with_the_same_numbers(variant: str) -> None:
    reference, ours = weights("mla" if "mla" in variant else "baseline"), weights(variant)
    common = {name for name in ours if name in reference and ours[name].shape == reference[name].shape}
    shaped_anew, added = (parts_of(ours, projections.get(variant, set())) for projections in (SHAPED_ANEW, ADDED))
    assert set(reference) - common == shaped_anew, "the reference has nothing else that the variant has not"
    assert all(torch.equal(ours[name], reference[name]) for name in common)
    assert added.isdisjoint(reference)
    assert set(ours) - common - shaped_anew - added <= gate_names(GPT(small_config(variant), seed=1))


def parts_of(weights: dict[str, Tensor], projections: set[str]) -> set[str]:
    """Names of the weights and biases of these projections of attention."""
    return {name for name in weights if name.rpartition(".attn.")[2].partition(".")[0] in projections}


def test_mla_begins_with_the_baselines_numbers_outside_its_projections() -> None:
    baseline, mla = weights("baseline"), weights("mla")
    for name in set(baseline) & set(mla):
        if ".attn.c_attn." not in name:
            assert torch.equal(baseline[name], mla[name]), name


def test_initial_weights_do_not_depend_on_what_else_there_is_or_was_drawn() -> None:
    shallow, deep = weights("baseline"), weights("baseline", n_layer=5)
    first = "transformer.h.0.attn.c_attn.weight"
    assert torch.equal(shallow[first], deep[first])
    torch.manual_seed(7)
    torch.rand(5)
    assert torch.equal(weights("baseline")[first], shallow[first])
    assert not torch.equal(shallow[first], shallow["transformer.h.1.attn.c_attn.weight"])


def test_seeds_differ_and_torchs_own_seed_works_without_one() -> None:
    assert not torch.equal(weights("baseline", 1)["lm_head.weight"], weights("baseline", 2)["lm_head.weight"])
    drawn = []
    for seed in (5, 5, 6):
        torch.manual_seed(seed)
        drawn.append(GPT(small_config("baseline")).lm_head.weight)
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])


def test_residual_projections_begin_smaller() -> None:
    state = weights("baseline", n_embd=256, n_layer=8)
    for part in ("attn", "mlp"):
        std = state[f"transformer.h.3.{part}.c_proj.weight"].std().item()
        assert std == pytest.approx(0.02 / math.sqrt(16), rel=0.02)
    assert state["transformer.h.3.attn.c_attn.weight"].std().item() == pytest.approx(0.02, rel=0.02)
    assert state["transformer.h.3.attn.c_attn.bias"].abs().max() == 0
