"""Rotary attention against the formula in float64, and what its scores depend on."""

from __future__ import annotations

import math
from collections.abc import Iterator

import pytest
import torch

from gpt2.attention import build_attention
from gpt2.attention.rope import RotaryAttention
from gpt2.base.settings import SettingError
from tests.gpt2.variants import explicit_attention, heads_of, small_config, small_model


@pytest.fixture
def _float64() -> Iterator[None]:
    """Tables are made in torch's default precision."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.mark.usefixtures("_float64")
@pytest.mark.parametrize("bias", [True, False])
def test_rope_is_the_formula(bias: bool) -> None:
    torch.manual_seed(0)
    B, T, C, H, base = 2, 10, 24, 3, 50
    D = C // H
    attention = RotaryAttention(C, H, 16, base=base, bias=bias)
    x = torch.randn(B, T, C)
    q, k, v = heads_of(attention, x)
    turns = torch.zeros(T, D, D)
    for p in range(T):
        for d in range(D // 2):
            angle = p * base ** (-2 * d / D)
            here = torch.tensor([d, d + D // 2])
            turns[p][here.unsqueeze(1), here] = torch.tensor(
                [[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]]
            )
    q, k = (torch.einsum("pde,bhpe->bhpd", turns, t) for t in (q, k))
    y = explicit_attention(q, k, v, 1 / math.sqrt(D)).transpose(1, 2).reshape(B, T, C)
    torch.testing.assert_close(attention(x), attention.c_proj(y), rtol=0, atol=1e-13)


@pytest.mark.usefixtures("_float64")
def test_scores_depend_on_the_distance_alone() -> None:
    attention = RotaryAttention(16, 1, 64)
    q, k = torch.randn(2, 1, 1, 1, 16)
    scores = [(attention._turned(q, i) @ attention._turned(k, i - 3).mT).item() for i in (3, 20, 63)]
    assert scores == pytest.approx([scores[0]] * 3, abs=1e-12)
    assert (attention._turned(q, 20) @ attention._turned(k, 16).mT).item() != pytest.approx(scores[0], abs=1e-3)


def test_tables_are_no_part_of_checkpoints() -> None:
    assert set(small_model("rope").state_dict()) == set(small_model("baseline").state_dict())


def test_a_head_of_odd_width_is_refused() -> None:
    with pytest.raises(SettingError, match=r"N_HEAD=4: RoPE turns pairs of dimensions.* = 7 is odd"):
        build_attention(small_config("rope", n_embd=28))
