"""How something that takes long tells how far it is."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

Progress = Callable[[float, str], None]
"""Called with the share done, from 0 to 1, and a line that says what is being done."""

Item = TypeVar("Item")


def silent(share: float, line: str) -> None:
    """A Progress that shows nothing."""


def reported(items: Iterable[Item], total: int, report: Progress, line: Callable[[Item], str]) -> Iterator[Item]:
    """`items`, of which there are `total`, each reported with its `line` as it comes."""
    for done, item in enumerate(items, start=1):
        report(done / total, line(item))
        yield item


def part(report: Progress, start: float, end: float) -> Progress:
    """A Progress of a part of the work: its 0 to 1 are the whole's `start` to `end`."""
    return lambda share, line: report(start + share * (end - start), line)
