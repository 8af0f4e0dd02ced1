"""Bounds of planned looks."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from harness.evidence.looks import look_sizes, nominal_levels, overall_p

plans = st.tuples(st.integers(3, 40), st.integers(1, 6))


# Jennison & Turnbull (2000), table 2.3: C_B(K, 0.05), the bound of the last of K equal looks.
@pytest.mark.parametrize(("looks", "bound"), [(1, 1.960), (2, 1.977), (3, 2.004), (4, 2.024), (5, 2.040), (10, 2.087)])
def test_bounds_are_the_published_ones(looks: int, bound: float) -> None:
    sizes = tuple(range(10, 10 * looks + 1, 10))
    for n, level in zip(sizes, nominal_levels(sizes), strict=True):
        assert stats.norm.isf(level / 2) == pytest.approx(bound * math.sqrt(sizes[-1] / n), abs=2e-3 * looks)


@given(plans)
def test_looks_ascend_to_all_seeds_and_none_is_too_small(plan: tuple[int, int]) -> None:
    sizes = look_sizes(*plan)
    assert list(sizes) == sorted(set(sizes)) and sizes[-1] == plan[0] and sizes[0] >= 3 and len(sizes) <= plan[1]


def test_sizes_by_hand() -> None:
    assert look_sizes(10, 2) == (5, 10)
    assert look_sizes(5, 2) == (3, 5)
    assert look_sizes(8, 4) == (3, 4, 6, 8)
    assert look_sizes(2, 1) == (2,)


@given(plans, st.floats(0.001, 0.2))
def test_a_p_value_on_the_bound_is_worth_the_level(plan: tuple[int, int], alpha: float) -> None:
    sizes = look_sizes(*plan)
    for look, level in enumerate(nominal_levels(sizes, alpha), start=1):
        if level > 1e-12:
            assert overall_p(level, sizes, look) == pytest.approx(alpha, rel=1e-4)


def test_a_smaller_p_value_is_worth_more_at_every_look() -> None:
    sizes = (3, 6, 9, 12)
    for look in (1, 2, 3, 4):
        worth = [overall_p(10.0**-k, sizes, look) for k in range(0, 300, 7)] + [overall_p(0.0, sizes, look)]
        assert worth[0] == 1.0 and worth[-1] == 0.0
        assert all(a > b for a, b in pairwise(worth) if a > 1e-300)


def test_one_look_changes_nothing() -> None:
    assert nominal_levels((5,), 0.0123) == (0.0123,) and overall_p(0.0321, (5,), 1) == 0.0321


def test_brownian_paths_cross_as_often_as_is_said() -> None:
    sizes = (3, 4, 6, 8)
    paths = np.cumsum(np.random.default_rng(0).standard_normal((200_000, 8)), axis=1)[:, [n - 1 for n in sizes]]
    z = np.abs(paths) / np.sqrt(sizes)
    crossed = (2 * stats.norm.sf(z) < nominal_levels(sizes)).any(axis=1).mean()
    assert crossed == pytest.approx(0.05, abs=3 * math.sqrt(0.05 * 0.95 / 200_000))
