"""Uniform attention against the formula in float64."""

from __future__ import annotations

import pytest
import torch

from gpt2.attention.uniform import UniformAttention


@pytest.mark.parametrize("bias", [True, False])
def test_it_is_the_mean_of_the_values_so_far(bias: bool) -> None:
    torch.manual_seed(0)
    attention = UniformAttention(24, 3, bias=bias).double()
    x = torch.randn(2, 10, 24, dtype=torch.float64)
    v = x @ attention.c_attn.weight.T + (attention.c_attn.bias if bias else 0)
    means = v.cumsum(1) / torch.arange(1, 11).view(-1, 1)
    torch.testing.assert_close(attention(x), attention.c_proj(means), rtol=0, atol=1e-14)
