"""What a setting is, a dataclass field that a Kconfig symbol fills, and how a value that it cannot have is refused."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import field
from typing import Any

from gpt2.base.errors import UserError
from gpt2.base.text import shown


def setting(
    default: Any,
    symbol: str,
    *,
    choice: bool = False,
    identity: bool = True,
    optional: bool = False,
    only_if: Callable[[Any], bool] | None = None,
    idle_if: Callable[[Mapping[str, Any]], bool] | None = None,
) -> Any:
    """A dataclass field that a Kconfig symbol fills.

    `choice`: `symbol` is the prefix of a choice's members, and the value is the rest of the chosen member's name in
    lower case (DTYPE_FLOAT16 -> "float16"). `identity`: whether it affects a run's numbers. `optional`: it asks for
    something more, and its default, which does not, is left out of the identity: a run from before there was the
    setting is the same run. `only_if`: the models in which it does anything; elsewhere it does not belong to the
    identity. `idle_if`: the runs in which other settings leave it nothing to do; their identity has its default,
    whatever it is set to (`settled`).
    """
    metadata = {"symbol": symbol, "choice": choice, "identity": identity, "optional": optional}
    return field(default=default, metadata=metadata | {"only_if": only_if, "idle_if": idle_if})


class SettingError(UserError):
    """A value that a setting cannot have. Its reader adds where the value came from (`Resolved.run_config`)."""

    def __init__(self, symbol: str, value: object, expected: str) -> None:
        super().__init__(f"{symbol}={shown(value)}: {expected}")
        self.symbol = symbol


def check(condition: bool, symbol: str, value: object, expected: str) -> None:
    """Raise a one-line error that names the symbol (or field) and the value unless `condition` holds."""
    if not condition:
        raise SettingError(symbol, value, expected)


def number(symbol: str, text: object) -> float:
    """The finite number that a string symbol holds, Kconfig having no type for it. Raises SettingError."""
    value = float(str(text)) if _NUMBER.fullmatch(str(text)) else math.nan
    check(abs(value) <= FLOAT32_MAX, symbol, f'"{text}"', "is not a number such as 0.1 or 6e-4")
    return value


FLOAT32_MAX = 2.0**128 - 2.0**104
"""The largest number of a float32, which is what settings end up in."""


_NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")


def named_paths(symbol: str, text: str) -> dict[str, str]:
    """Name -> path of a setting that is such as "books=data/books;code=data/code". SettingError where it is not."""
    found: dict[str, str] = {}
    for part in filter(str.strip, text.split(";")):
        name, _, path = (word.strip() for word in part.partition("="))
        expected = 'is NAME=PATH;NAME=PATH, with names of letters, digits, ".", "_" and "-"'
        check(re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,40}", name) is not None, symbol, f'"{text}"', expected)
        check(name not in found, symbol, f'"{text}"', f"names {name} twice")
        check_path(symbol, path)
        found[name] = path
    return found


def check_path(symbol: str, path: str) -> None:
    """Refuse what no command that is given the path would take for one."""
    check(bool(path.strip()), symbol, f'"{path}"', "name a path")
    check(path[0] != "-", symbol, f'"{path}"', f'commands would take it for an option: write "./{path}"')
    check(path[0] != "~", symbol, f'"{path}"', f'"~" stands for nothing here: write "{os.path.expanduser(path)}"')
