"""The gate on attention's output against the formula in float64, and open."""

from __future__ import annotations

import math

import pytest
import torch

from gpt2.attention.baseline import CausalSelfAttention
from gpt2.attention.sdpa_gate import GatedAttention
from tests.gpt2.variants import explicit_attention, heads_of


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("headwise", [True, False])
def test_gated_attention_is_the_formula(headwise: bool, bias: bool) -> None:
    torch.manual_seed(0)
    B, T, C, H = 2, 10, 24, 3
    attention = GatedAttention(C, H, headwise=headwise, bias=bias).double()
    x = torch.randn(B, T, C, dtype=torch.float64)
    y = explicit_attention(*heads_of(attention, x), 1 / math.sqrt(C // H)).transpose(1, 2).reshape(B, T, C)
    logits = x @ attention.c_gate.weight.T + (attention.c_gate.bias if bias else 0)
    if headwise:
        assert logits.shape == (B, T, H)
        logits = logits.repeat_interleave(C // H, dim=-1)
    expected = attention.c_proj(y / (1 + torch.exp(-logits)))
    torch.testing.assert_close(attention(x), expected, rtol=0, atol=1e-13)


@pytest.mark.parametrize("headwise", [True, False])
def test_with_open_gates_it_is_the_baseline_to_the_bit(headwise: bool) -> None:
    torch.manual_seed(0)
    baseline, gated = CausalSelfAttention(24, 3), GatedAttention(24, 3, headwise=headwise)
    gated.load_state_dict(baseline.state_dict(), strict=False)
    torch.nn.init.zeros_(gated.c_gate.weight)
    torch.nn.init.constant_(gated.c_gate.bias, 40.0)
    x = torch.randn(2, 10, 24)
    assert torch.equal(gated(x), baseline(x))
