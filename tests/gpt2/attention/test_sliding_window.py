"""Sliding-window attention against the formula in float64, its reach, its cache, and what it counts."""

from __future__ import annotations

import math

import pytest
import torch

from gpt2.attention import build_attention
from gpt2.attention.baseline import CausalSelfAttention
from gpt2.attention.shared import LayerCache
from gpt2.attention.sliding_window import SlidingWindowAttention
from gpt2.base.settings import SettingError
from tests.gpt2.variants import heads_of, small_config, small_model


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("window", [1, 2, 7, 9])
def test_a_window_is_the_formula(window: int, bias: bool) -> None:
    torch.manual_seed(0)
    B, T, C, H = 2, 10, 24, 3
    attention = SlidingWindowAttention(C, H, window, bias=bias).double()
    x = torch.randn(B, T, C, dtype=torch.float64)
    q, k, v = heads_of(attention, x)
    y = torch.empty_like(q)
    for i in range(T):
        seen = slice(max(0, i - window + 1), i + 1)
        scores = q[:, :, i : i + 1] @ k[:, :, seen].mT / math.sqrt(C // H)
        y[:, :, i : i + 1] = scores.softmax(-1) @ v[:, :, seen]
    expected = attention.c_proj(y.transpose(1, 2).reshape(B, T, C))
    torch.testing.assert_close(attention(x), expected, rtol=0, atol=1e-13)


@pytest.mark.parametrize("window", [10, 11])
def test_a_window_over_everything_is_the_baseline_to_the_bit(window: int) -> None:
    torch.manual_seed(0)
    baseline, windowed = CausalSelfAttention(24, 3), SlidingWindowAttention(24, 3, window)
    windowed.load_state_dict(baseline.state_dict())
    x = torch.randn(2, 10, 24)
    assert torch.equal(windowed(x), baseline(x))


@pytest.mark.parametrize("chunks", [[10], [1] * 10, [6, 4], [1, 8, 1], [2, 2, 2, 2, 2]], ids=str)
@pytest.mark.parametrize("window", [1, 3, 9, 10, 30])
def test_a_window_slides_through_the_cache(window: int, chunks: list[int]) -> None:
    torch.manual_seed(0)
    attention = SlidingWindowAttention(24, 3, window).double()
    x = torch.randn(2, 10, 24, dtype=torch.float64)
    cache = LayerCache(12)
    parts = [attention(part, cache) for part in x.split(chunks, dim=1)]
    torch.testing.assert_close(torch.cat(parts, dim=1), attention(x), rtol=0, atol=1e-13)
    assert cache.length == 10
    assert cache.bytes_per_token() == min(window - 1, 12) * 2 * 24 * 8 / 12
    with pytest.raises(ValueError, match="13 positions do not fit into a cache of block_size=12"):
        attention(x[:, :3], cache)


def test_what_a_window_leaves_out_is_not_counted() -> None:
    flops = {name: small_model(name).flops_per_token() for name in ("baseline", "sliding_window")}
    assert flops["baseline"] - flops["sliding_window"] == 12 * 2 * 32 * (32 - 14)  # layers, width, positions unseen
    whole = small_model("sliding_window", attention_options={"size": 99})
    assert whole.flops_per_token() == flops["baseline"]


def test_an_empty_window_is_refused() -> None:
    with pytest.raises(SettingError, match="SLIDING_WINDOW_SIZE=0: must be at least 1"):
        build_attention(small_config("sliding_window", attention_options={"size": 0}))
