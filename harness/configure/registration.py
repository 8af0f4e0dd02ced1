"""registration.json: what an experiment was going to be, written down before its first run."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from gpt2.base.errors import UserError
from gpt2.base.files import read_json

Check = Callable[[Any], bool]


@dataclass(frozen=True, kw_only=True)
class Entry:
    """What was asked at one time: the first is the registration, later ones amend it."""

    when: datetime
    question: str
    metric: str
    margin: float
    """A share of compute."""

    arms: Mapping[str, tuple[str, ...]]
    """Arm -> what it may be compared with, best first; nothing for one that only others are compared with."""

    seeds: tuple[int, ...]
    looks: int
    lengths: tuple[float, ...]
    reruns: int
    tuning: Mapping[str, Any] | None
    sizes: tuple[str, ...]
    hashes: Mapping[str, Any]
    previous: str | None
    """SHA-256 of the entry before."""


def read_registration(path: Path) -> tuple[Entry, ...]:
    """The entries of a registration.json, in order; none where there is no such file. UserError where it is damaged."""
    if not path.exists():
        return ()
    found = read_json(path)
    entries = found.get("entries") if isinstance(found, dict) else None
    if not isinstance(entries, list) or not entries:
        raise UserError(f"{path}: must have entries, a list of one at least")
    return tuple(_entry(path, i, entry) for i, entry in enumerate(entries))


def _entry(path: Path, place: int, found: Any) -> Entry:
    where = f"{path}: entries[{place}]"
    if not isinstance(found, dict):
        raise UserError(f"{where}: must be an object")
    for key, (words, fits) in _KEYS.items():
        if key not in found:
            raise UserError(f"{where}.{key} is missing")
        if not fits(found[key]):
            raise UserError(f"{where}.{key}: must be {words}")
    values: dict[str, Any] = {key: tuple(found[key]) if isinstance(found[key], list) else found[key] for key in _KEYS}
    values["when"] = datetime.fromisoformat(found["when"])
    values["arms"] = {arm: tuple(references) for arm, references in found["arms"].items()}
    return Entry(**values)


def _is_time(value: Any) -> bool:
    try:
        return datetime.fromisoformat(value).tzinfo is not None
    except (TypeError, ValueError):
        return False


def _is_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _list_of(fits: Check) -> Check:
    return lambda value: isinstance(value, list) and all(map(fits, value))


_KEYS: Mapping[str, tuple[str, Check]] = {
    "when": ("a time with its zone, ISO 8601", _is_time),
    "question": ("text", _is_text),
    "metric": ("text", _is_text),
    "margin": ("a share of compute above 0, such as 0.01", lambda value: _is_number(value) and 0 < value < 1),
    "arms": (
        "arms, each with a list of what it is compared with",
        lambda value: isinstance(value, dict) and all(map(_list_of(_is_text), value.values())),
    ),
    "seeds": ("a list of whole numbers", _list_of(_is_int)),
    "looks": ("a whole number, 1 at least", lambda value: _is_int(value) and value >= 1),
    "lengths": ("a list of numbers", _list_of(_is_number)),
    "reruns": ("a whole number", _is_int),
    "tuning": ("an object or null", lambda value: value is None or isinstance(value, dict)),
    "sizes": ("a list of names", _list_of(_is_text)),
    "hashes": ("an object", lambda value: isinstance(value, dict)),
    "previous": ("text or null", lambda value: value is None or _is_text(value)),
}
