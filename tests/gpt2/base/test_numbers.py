"""Numbers for people: no -0.0000 for what is not 0, and no more digits than say something."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpt2.base.numbers import decimal


@pytest.mark.parametrize(
    ("value", "digits", "said"),
    [
        (-0.0123456, 4, "-0.0123"),
        (-0.00001234, 4, "-0.000012"),
        (0.00004999, 4, "+0.000050"),
        (-0.00005001, 4, "-0.0001"),
        (3e-9, 2, "+3.0e-09"),
        (0.0, 4, "0"),
        (-0.0, 4, "0"),
        (12345.678, 1, "+12,345.7"),
        (-0.3, 0, "-0.30"),
    ],
)
def test_examples(value: float, digits: int, said: str) -> None:
    assert decimal(value, digits, plus=True) == said
    assert decimal(value, digits) == said.removeprefix("+")


@given(st.floats(allow_nan=False, allow_infinity=False), st.integers(0, 6))
def test_what_is_written_is_0_for_0_alone_and_is_the_value_rounded(value: float, digits: int) -> None:
    written = float(decimal(value, digits, plus=True).replace(",", ""))
    assert (written == 0) == (value == 0)
    assert math.isclose(written, value, rel_tol=0.06, abs_tol=0.51 * 10**-digits)
    assert written == 0 or (written > 0) == (value > 0)
