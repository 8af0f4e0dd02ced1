"""QK norm against the formula in float64, and what it no longer depends on."""

from __future__ import annotations

import pytest
import torch

from gpt2.attention.qk_norm import QKNormAttention
from tests.gpt2.variants import explicit_attention, heads_of


@pytest.mark.parametrize("bias", [True, False])
def test_qk_norm_is_the_formula(bias: bool) -> None:
    torch.manual_seed(0)
    B, T, C, H = 2, 10, 24, 3
    attention = QKNormAttention(C, H, 8.0, bias=bias).double()
    torch.nn.init.normal_(attention.sharpness)
    x = torch.randn(B, T, C, dtype=torch.float64)
    q, k, v = heads_of(attention, x)
    q, k = (t / t.square().sum(-1, keepdim=True).sqrt() for t in (q, k))
    q = q * attention.sharpness[:, None, None]
    y = explicit_attention(q, k, v, 1.0).transpose(1, 2).reshape(B, T, C)
    torch.testing.assert_close(attention(x), attention.c_proj(y), rtol=0, atol=1e-13)


def test_the_length_of_queries_and_keys_does_not_matter() -> None:
    torch.manual_seed(0)
    attention = QKNormAttention(24, 3, 8.0).double()
    x = torch.randn(2, 10, 24, dtype=torch.float64)
    before = attention(x)
    with torch.no_grad():
        attention.c_attn.weight[:48] *= 7
        attention.c_attn.bias[:48] *= 7
    torch.testing.assert_close(attention(x), before, rtol=0, atol=1e-13)


def test_a_head_starts_as_sharp_as_it_is_told() -> None:
    assert QKNormAttention(24, 3, 5.0).sharpness.tolist() == [5.0] * 3
