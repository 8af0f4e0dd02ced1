"""Grouped-query attention against the formula in float64, and at both ends."""

from __future__ import annotations

import math

import pytest
import torch

from gpt2.attention import build_attention
from gpt2.attention.baseline import CausalSelfAttention
from gpt2.attention.gqa import GroupedQueryAttention
from gpt2.attention.shared import LayerCache
from gpt2.base.settings import SettingError
from tests.gpt2.variants import explicit_attention, small_config


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("kv_heads", [1, 2, 3, 6])
def test_grouped_queries_are_the_formula(kv_heads: int, bias: bool) -> None:
    torch.manual_seed(0)
    B, T, C, H = 2, 10, 24, 6
    D = C // H
    attention = GroupedQueryAttention(C, H, kv_heads, bias=bias).double()
    x = torch.randn(B, T, C, dtype=torch.float64)
    projected = x @ attention.c_attn.weight.T + (attention.c_attn.bias if bias else 0)
    q, k, v = projected.split([C, kv_heads * D, kv_heads * D], dim=-1)
    heads = []
    for h in range(H):
        of_query, of_group = (slice(n * D, (n + 1) * D) for n in (h, h // (H // kv_heads)))
        heads.append(explicit_attention(q[..., of_query], k[..., of_group], v[..., of_group], 1 / math.sqrt(D)))
    expected = attention.c_proj(torch.cat(heads, dim=-1))
    torch.testing.assert_close(attention(x), expected, rtol=0, atol=1e-13)


def test_with_a_head_for_each_it_is_the_baseline_to_the_bit() -> None:
    torch.manual_seed(0)
    baseline, grouped = CausalSelfAttention(24, 3), GroupedQueryAttention(24, 3, 3)
    grouped.load_state_dict(baseline.state_dict())
    x = torch.randn(2, 10, 24)
    assert torch.equal(grouped(x), baseline(x))


def test_the_cache_holds_the_groups_alone() -> None:
    cache = LayerCache(16)
    GroupedQueryAttention(32, 4, 1)(torch.randn(2, 3, 32), cache)
    assert cache.bytes_per_token() == 2 * 8 * 4


@pytest.mark.parametrize("kv_heads", [0, 3, 8])
def test_heads_that_cannot_be_shared_so_are_refused(kv_heads: int) -> None:
    with pytest.raises(SettingError, match=rf"GQA_KV_HEADS={kv_heads}: must divide the number of heads \(N_HEAD=4\)"):
        build_attention(small_config("gqa", attention_options={"kv_heads": kv_heads}))
