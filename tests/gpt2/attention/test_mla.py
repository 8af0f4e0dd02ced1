"""Multi-head latent attention against the formula in float64, and what it caches."""

from __future__ import annotations

import math

import pytest
import torch

from gpt2.attention.mla import MultiHeadLatentAttention, RMSNorm
from gpt2.attention.shared import LayerCache
from tests.gpt2.variants import explicit_attention


@pytest.mark.parametrize("bias", [True, False])
def test_mla_is_the_formula(bias: bool) -> None:
    torch.manual_seed(0)
    B, T, C, H, L = 2, 10, 24, 3, 7
    attention = MultiHeadLatentAttention(C, H, kv_latent_dim=L, bias=bias).double()
    torch.nn.init.normal_(attention.kv_norm.weight)
    x = torch.randn(B, T, C, dtype=torch.float64)

    def linear(layer: torch.nn.Linear, x: torch.Tensor) -> torch.Tensor:
        return x @ layer.weight.T + (layer.bias if bias else 0)

    q, latent = linear(attention.c_attn, x).split([C, L], dim=-1)
    latent = latent / (latent.pow(2).mean(-1, keepdim=True) + 1e-5).sqrt() * attention.kv_norm.weight
    k, v = linear(attention.c_kv, latent).split(C, dim=-1)
    q, k, v = (t.view(B, T, H, C // H).transpose(1, 2) for t in (q, k, v))
    y = explicit_attention(q, k, v, 1 / math.sqrt(C // H)).transpose(1, 2).reshape(B, T, C)
    torch.testing.assert_close(attention(x), linear(attention.c_proj, y), rtol=0, atol=1e-13)


def test_gradients_are_those_of_the_function() -> None:
    torch.manual_seed(0)
    attention = MultiHeadLatentAttention(8, 2, kv_latent_dim=3).double()
    x = torch.randn(1, 4, 8, dtype=torch.float64, requires_grad=True)
    names, parameters = zip(*attention.named_parameters(), strict=True)

    def f(x: torch.Tensor, *values: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = torch.func.functional_call(attention, dict(zip(names, values, strict=True)), (x,))
        return out

    assert torch.autograd.gradcheck(f, (x, *parameters))


def test_the_cache_holds_the_latent_and_nothing_else() -> None:
    attention = MultiHeadLatentAttention(32, 4, kv_latent_dim=5).eval()
    cache = LayerCache(16)
    attention(torch.randn(2, 3, 32), cache)
    assert cache.length == 3
    assert cache.bytes_per_token() == 5 * 4


def test_the_norm_is_computed_in_its_weights_precision() -> None:
    norm = RMSNorm(6)
    # Squares of these overflow float16.
    assert norm(torch.full((6,), 1000.0, dtype=torch.float16)).tolist() == [1.0] * 6
    x = torch.randn(6, dtype=torch.float64)
    expected = x / (x.pow(2).mean() + 1e-5).sqrt()
    torch.testing.assert_close(norm.double()(x), expected, rtol=0, atol=1e-15)


def test_widths_that_do_not_divide_are_refused() -> None:
    with pytest.raises(ValueError, match="n_embd=30 is not a multiple of n_head=4"):
        MultiHeadLatentAttention(30, 4)
