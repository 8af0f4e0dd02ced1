"""How numbers are written for people: with the digits that say something."""

from __future__ import annotations

import math

SMALLEST = 1e-6
"""What is nearer to 0 is written with an exponent."""


def decimal(value: float, digits: int, *, plus: bool = False) -> str:
    """`value` with so many decimals, or with two significant digits where these would say that it is 0 and it is not.

    `plus`: with its sign. Exactly 0 is "0".
    """
    if value == 0:
        return "0"
    sign = "+" if plus else ""
    if not math.isfinite(value) or float(f"{value:.{digits}f}") != 0:
        return f"{value:{sign},.{digits}f}"
    if abs(value) < SMALLEST:
        return f"{value:{sign}.1e}"
    return f"{value:{sign}.{1 - math.floor(math.log10(abs(value)))}f}"
