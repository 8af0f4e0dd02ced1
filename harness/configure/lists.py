"""What the texts of ablation settings say: lists of seeds and steps, with ranges, and sweeps."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import TypeVar

from gpt2.base.errors import UserError
from harness.configure.kconfig import Size, Step, find_size, find_step

T = TypeVar("T")

MAX_ITEMS = 10_000
"""A range longer than this is a slip of the finger, and would take the memory before anybody noticed."""

_RANGE = re.compile(r"([0-9]+)\s*-\s*([0-9]+)", re.ASCII)


def parse_seeds(where: str, text: str) -> tuple[int, ...]:
    """Seeds such as "1,2,3" or "1-3,7", each once. Raises UserError, which begins with `where`."""
    return _split(where, text, _seed, "expected whole numbers from 0 to 2147483647, such as 1,2,3 or 1-5", ranges=True)


def parse_steps(where: str, text: str) -> tuple[Step, ...]:
    """Steps by number or name, such as "1-4,gated-baseline,2@RA_V5_R=8", each once.

    Raises UserError, which begins with `where`.
    """
    return _split(where, text, _step, "expected numbers or names of steps, such as 1,2,3,4 or 1-4", ranges=True)


def _step(text: str) -> Step:
    name, *labels = text.split("@")
    if labels and _RANGE.fullmatch(name):
        raise ValueError(f"{text!r}: settings are of one step, and {name} is a range")
    settings: dict[str, str] = {}
    for label in labels:
        symbol, _, value = label.removeprefix("CONFIG_").partition("=")
        if not symbol or not value:
            raise ValueError(f"{text!r}: {label!r} is not SYMBOL=value")
        if symbol in settings:
            raise ValueError(f"{text!r}: sets {symbol} twice")
        settings[symbol] = value
    return replace(find_step(name), settings=tuple(settings.items()))


def parse_sizes(where: str, text: str) -> tuple[Size, ...]:
    """Sizes by name, each once; none of an empty text. Raises UserError, which begins with `where`."""
    return _split(where, text, find_size, "expected names of sizes, such as 16m,45m,124m") if text.strip() else ()


def parse_lengths(where: str, text: str) -> tuple[float, ...]:
    """Shares of a run's length such as "0.8,1.25", each once; none of an empty text. Raises UserError."""
    return _split(where, text, _length, "expected shares such as 0.8,1.25") if text.strip() else ()


def parse_sweep(setting: str, text: str) -> tuple[tuple[str, tuple[str, ...]], ...]:
    """ "A=1,2;B=3" as (("A", ("1", "2")), ("B", ("3",))). Raises UserError, which names the `setting`."""
    sweep: dict[str, tuple[str, ...]] = {}
    for part in filter(None, (part.strip() for part in text.split(";"))):
        symbol, equals, values = part.partition("=")
        symbol = symbol.strip().removeprefix("CONFIG_")
        expected = 'is written "SYMBOL=value,value", several separated by ";"'
        if not equals or not symbol:
            raise UserError(f'{setting}="{text}": {part!r} {expected}')
        if symbol in sweep:
            raise UserError(f'{setting}="{text}": {symbol} is swept twice')
        sweep[symbol] = _split(f'{setting}="{text}"', values, str, expected)
    return tuple(sweep.items())


def _split(where: str, text: str, convert: Callable[[str], T], expected: str, *, ranges: bool = False) -> tuple[T, ...]:
    """Comma-separated items, at least one, none empty and none twice; with `ranges`, 2-4 stands for 2,3,4."""
    items: list[T] = []
    for item in text.split(","):
        try:
            if not item.strip():
                raise ValueError("an item is empty")
            items += [convert(each) for each in (_expanded(item.strip()) if ranges else [item.strip()])]
        except ValueError as error:
            raise UserError(f"{where}: {error}; {expected}") from None
        except UserError as error:
            raise UserError(f"{where}: {error}") from None
    if len(set(items)) != len(items):
        raise UserError(f"{where}: an item stands there twice")
    return tuple(items)


def _expanded(item: str) -> Iterator[str]:
    """The numbers of a range; any other item as it is. Raises ValueError."""
    match = _RANGE.fullmatch(item)
    if match is None:
        yield item
        return
    # A number of thousands of digits is no number to Python, which says so in a ValueError of its own.
    first, last = (int(end) if len(end) < 20 else MAX_ITEMS**5 for end in match.groups())
    if first > last:
        raise ValueError(f"{item!r} runs backwards")
    if last - first >= MAX_ITEMS:
        raise ValueError(f"{item!r} is more than {MAX_ITEMS} of them")
    yield from map(str, range(first, last + 1))


def _seed(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 20 and int(text) < 2**31):
        raise ValueError(f"{text!r} is no seed")
    return int(text)


def _length(text: str) -> float:
    share = float(text)  # a ValueError says what is no number
    if not 0 < share < 1000 or share == 1:
        raise ValueError(f"{text!r} is no other length")
    return share
