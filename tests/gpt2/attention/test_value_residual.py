"""Value residual against the formula in float64; what is carried survives compilation, recomputation and the cache."""

from __future__ import annotations

import math

import pytest
import torch

from gpt2.attention import build_attention
from gpt2.attention.value_residual import ValueResidualAttention
from gpt2.base.settings import SettingError
from gpt2.machine.compilation import compile_blocks, compile_scope, uncompile
from gpt2.model import GPT
from tests.gpt2.variants import explicit_attention, heads_of, small_config, small_model


@pytest.mark.parametrize("bias", [True, False])
def test_value_residual_is_the_formula(bias: bool) -> None:
    torch.manual_seed(0)
    B, T, C, H = 2, 10, 24, 3
    attention = ValueResidualAttention(C, H, 0.3, bias=bias).double()
    x, first = torch.randn(B, T, C, dtype=torch.float64), torch.randn(B, H, T, C // H, dtype=torch.float64)
    q, k, v = heads_of(attention, x)

    def of(values: torch.Tensor) -> torch.Tensor:
        y = explicit_attention(q, k, values, 1 / math.sqrt(C // H)).transpose(1, 2).reshape(B, T, C)
        out: torch.Tensor = attention.c_proj(y)
        return out

    y, handed_on = attention(x, carried=first)
    torch.testing.assert_close(y, of(0.7 * v + 0.3 * first), rtol=0, atol=1e-13)
    assert handed_on is first
    y, handed_on = attention(x)
    torch.testing.assert_close(y, of(v), rtol=0, atol=1e-13)
    torch.testing.assert_close(handed_on, v, rtol=0, atol=1e-14)


def test_every_layer_gets_the_values_of_the_first() -> None:
    model = small_model("value_residual", n_layer=3)
    handed_on = []
    for attention in model.attention:
        attention.register_forward_hook(lambda _, args, out: handed_on.append(out[1]))
    model(torch.arange(8).unsqueeze(0))
    assert handed_on[0] is handed_on[1] is handed_on[2]


def gradients(model: GPT, idx: torch.Tensor) -> list[torch.Tensor]:
    model.zero_grad()
    _, loss = model(idx, idx)
    loss.backward()
    return [loss.detach(), *(p.grad.clone() for p in model.parameters() if p.grad is not None)]


def test_recomputed_blocks_give_the_same_gradients() -> None:
    model = small_model("value_residual", n_layer=3, dropout=0.2)
    idx = torch.arange(32).view(2, 16)
    torch.manual_seed(1)
    expected = gradients(model, idx)
    model.recomputes_blocks = True
    torch.manual_seed(1)
    assert all(torch.equal(a, b) for a, b in zip(gradients(model, idx), expected, strict=True))


@pytest.mark.parametrize("recomputes", [pytest.param(False, marks=pytest.mark.slow), True])
@pytest.mark.parametrize("scope", ["attention", "blocks", "model"])
def test_compiled_in_any_scope_it_is_traced_whole(scope: str, recomputes: bool) -> None:
    model = small_model("value_residual", n_layer=3)
    idx = torch.arange(32).view(2, 16)
    expected = gradients(model, idx)
    model.recomputes_blocks = recomputes
    if scope == "blocks":
        compile_blocks(model, backend="aot_eager")
    else:
        compile_scope(model, scope, backend="aot_eager")
    got = gradients(model, idx)
    uncompile(model)
    torch.compiler.reset()
    for a, b in zip(got, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("mix", "says"), [("1.5", "must be from 0 to 1"), ("half", "is not a number")])
def test_a_share_that_is_none_is_refused(mix: str, says: str) -> None:
    with pytest.raises(SettingError, match=f"VALUE_RESIDUAL_MIX=.*{says}"):
        build_attention(small_config("value_residual", attention_options={"mix": mix}))
