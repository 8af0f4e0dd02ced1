"""The one reader of the lines of `.config` files: settings that somebody asked for, each with its origin.

What they come to, and whether they can be had, is gpt2/dotconfig.py's.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

import kconfiglib

from gpt2.base.errors import UserError
from gpt2.base.files import read_file
from gpt2.base.text import shown

MAX_CONFIG = 1 << 20
"""Bytes of a configuration: a hundred times the complete one."""

CONTROL = re.compile(r"[\x00-\x1f\x7f\ud800-\udfff]")
"""What no line and no value may have."""

_SET = re.compile(r"CONFIG_(\w+)=(.*)", re.ASCII)
_UNSET = re.compile(r"# CONFIG_(\w+) is not set", re.ASCII)
_ALMOST_UNSET = re.compile(r"#\s*(?:CONFIG_)?\w+\s+is\s+not\s+set\s*")
_QUOTED = re.compile(r'"((?:[^"\\]|\\.)*)"')
_UNQUOTED = re.compile(r"""[^\s"'#]+""")


@dataclass(frozen=True)
class Assignment:
    """One setting that somebody asked for."""

    symbol: str
    """Name, without CONFIG_."""

    value: str
    """The value itself, without quotes and escapes; "n" for `# CONFIG_X is not set`."""

    origin: str
    """Who asked: "defconfigs/gpt2-baseline:3", "command line", "sweep"."""

    quoted: bool | None = None
    """Whether a file had the value in quotes, as text has to be and nothing else may be; None outside files."""

    def __str__(self) -> str:
        value = f'"{kconfiglib.escape(self.value)}"' if self.quoted else self.value
        return f"CONFIG_{shown(self.symbol)}={shown(value)}"


def read_assignments(path: Path) -> list[Assignment]:
    """The assignments in a file, in order. Raises UserError where a line is anything else."""
    near = Path(os.path.abspath(path)).is_relative_to(Path.cwd())
    name = os.path.relpath(path) if near else str(path)
    data = read_file(Path(name), MAX_CONFIG)
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise UserError(f"{name}:{line}: not UTF-8: byte 0x{data[error.start]:02x}") from None
    return parse_assignments(text, name)


def parse_assignments(text: str, name: str) -> list[Assignment]:
    """The assignments in the text of a `.config`; `name` stands for the file in their origins."""
    found: dict[str, Assignment] = {}
    for number, line in enumerate(text.split("\n"), 1):
        origin = f"{name}:{number}"
        assignment = _parse_line(line, origin)
        if assignment is None:
            continue
        if assignment.symbol in found:
            first = found[assignment.symbol].origin
            raise UserError(f"{origin}: {assignment}: CONFIG_{assignment.symbol} was already set at {first}")
        found[assignment.symbol] = assignment
    return list(found.values())


def _parse_line(line: str, origin: str) -> Assignment | None:
    """The assignment in a line; None for a comment or a blank line."""
    if control := CONTROL.search(line):
        raise UserError(f"{origin}: control character {control[0]!r} in '{shown(line)}': a line is plain text")
    if unset := _UNSET.fullmatch(line):
        return Assignment(unset[1], "n", origin, quoted=False)
    if _ALMOST_UNSET.fullmatch(line):
        raise UserError(f"{origin}: '{shown(line)}' is only a comment: write exactly '# CONFIG_NAME is not set'")
    if not line.strip() or line.startswith("#"):
        return None
    match = _SET.fullmatch(line)
    if match is None:
        raise UserError(f"{origin}: '{shown(line)}' is not CONFIG_NAME=value, '# CONFIG_NAME is not set' or a comment")
    symbol, value = match.groups()
    if quoted := _QUOTED.fullmatch(value):
        return Assignment(symbol, kconfiglib.unescape(quoted[1]), origin, quoted=True)
    if _UNQUOTED.fullmatch(value):
        return Assignment(symbol, value, origin, quoted=False)
    raise UserError(
        f"{origin}: CONFIG_{shown(symbol)}={shown(value)}: malformed value: write y, n, a whole number, "
        'or text in double quotes with \\" for " and \\\\ for \\'
    )
