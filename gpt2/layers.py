"""Which layers of a model have its attention, as text: "0-2", "0+2+4", "0-1+5", counted from 0; "" is all of them.

A "+" stands between them because a sweep's values have a "," there.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from gpt2.base.settings import check

SYMBOL = "ATTENTION_LAYERS"

_RANGE = re.compile(r"([0-9]{1,4})(?:-([0-9]{1,4}))?", re.ASCII)


def parse_layers(text: str, n_layer: int) -> tuple[int, ...]:
    """The layers that a text which is not empty names, in order. SettingError where it names none of `n_layer`."""
    expected = f'is not layers from 0 to {n_layer - 1}, each once, such as "0", "0-2" or "0+2" (N_LAYER={n_layer})'
    found: list[int] = []
    for part in text.split("+"):
        match = _RANGE.fullmatch(part)
        first, last = (int(match[1]), int(match[2] or match[1])) if match else (0, -1)
        check(first <= last < n_layer, SYMBOL, f'"{text}"', expected)
        found += range(first, last + 1)
    check(len(set(found)) == len(found), SYMBOL, f'"{text}"', expected)
    return tuple(sorted(found))


def layers_text(layers: Iterable[int]) -> str:
    """The shortest text that names layers: of several that name the same, the one by which a run is known."""
    ranges: list[list[int]] = []
    for layer in sorted(layers):
        if ranges and layer == ranges[-1][1] + 1:
            ranges[-1][1] = layer
        else:
            ranges.append([layer, layer])
    return "+".join(str(first) if first == last else f"{first}-{last}" for first, last in ranges)
