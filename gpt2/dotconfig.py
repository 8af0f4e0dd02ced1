"""From what was asked for to a complete configuration: strict, and without torch.

A configuration is made of layers of assignments: a defconfig, a step's fragment, settings from the command line.
`resolve` lays them over each other, lets Kconfig work out the rest, and then compares what was asked for with what came
out. kconfiglib drops or replaces what it does not like, with a warning at best; here that is an error which names the
place, the symbol, the value and what would be right. `Resolved.run_config` makes typed settings of it (gpt2/config.py).

    resolve(read_assignments(ROOT / "defconfigs/gpt2-baseline")).write(ROOT / ".config")
"""

from __future__ import annotations

import difflib
import functools
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import kconfiglib

from gpt2.assignments import CONTROL, Assignment, read_assignments
from gpt2.base.errors import UserError
from gpt2.base.files import ROOT, write_text
from gpt2.base.settings import SettingError
from gpt2.base.text import shown
from gpt2.config import RunConfig
from gpt2.symbols import run_config

HEADER = "# A complete configuration. `make menuconfig` edits it, `make savedefconfig` shortens it.\n"

_INT = re.compile(r"0|-?[1-9][0-9]*")


@dataclass(frozen=True)
class Resolved:
    """A complete configuration in which everything that was asked for holds."""

    symbols: Mapping[str, bool | int | str]
    """Value of every symbol that a `.config` holds, without CONFIG_; the others have dependencies that are not met."""

    _text: str
    _defconfig: str
    _minimal: tuple[Assignment, ...]

    def text(self) -> str:
        """The complete `.config`."""
        return self._text

    def defconfig(self) -> str:
        """The shortest file that resolves to the same: only what differs from the defaults."""
        return self._defconfig

    def value(self, symbol: str) -> str:
        """A symbol's value as an assignment writes it; "n" where it has none."""
        value = self.symbols.get(symbol, False)
        return ("y" if value else "n") if isinstance(value, bool) else str(value)

    def minimal(self) -> list[Assignment]:
        """What differs from the defaults, with its origins: the layer to lay others over."""
        return list(self._minimal)

    def run_config(self) -> RunConfig:
        """The typed settings. Raises UserError, with the origin, where a number is malformed or out of range."""
        try:
            return run_config(self.symbols)
        except SettingError as error:
            origin = next((a.origin for a in self._minimal if a.symbol == error.symbol), "default")
            raise UserError(f"{origin}: CONFIG_{error}") from None

    def write(self, path: Path) -> None:
        """Write the complete `.config`, atomically."""
        write_text(path, self._text)


def load(path: Path) -> Resolved:
    """The configuration in one file, complete or minimal. Raises UserError."""
    return resolve(read_assignments(path))


def load_complete(path: Path) -> Resolved:
    """The configuration in a file that has to name every setting, as one that was stored with runs does.

    Raises UserError where it does not: what is missing would silently be the defaults.
    """
    asked = read_assignments(path)
    resolved = resolve(asked)
    missing = [symbol for symbol in resolved.symbols if symbol not in {assignment.symbol for assignment in asked}]
    if missing:
        raise UserError(
            f"{path}: says nothing of {len(missing)} of {len(resolved.symbols)} settings (CONFIG_{missing[0]} is the "
            "first): it is damaged, or of an earlier version; put it right, or copy it to .config, run "
            "`make olddefconfig`, look at the defaults that it fills in, and `make`"
        )
    return resolved


def resolve(*layers: Sequence[Assignment]) -> Resolved:
    """Lay layers of assignments over each other, later ones on top, and work out every symbol.

    Choosing a member of a choice drops what earlier layers said of its other members. Raises UserError if anything
    asked for is not what came out.
    """
    tree = _tree()
    tree.unset_values()
    asked = _merge(tree, layers)
    for assignment in asked.values():
        tree.syms[assignment.symbol].set_value(assignment.value)
    _refuse([(assignment, _not_taken(tree, assignment, asked)) for assignment in asked.values()])
    minimal = _minimize(tree, asked)
    defconfig = "".join(tree.syms[assignment.symbol].config_string for assignment in minimal)
    return Resolved(symbol_values(tree), config_text(tree), defconfig, tuple(minimal))


def merge(*layers: Sequence[Assignment]) -> list[Assignment]:
    """Of layers laid over each other as `resolve` does, the assignments that count. Raises UserError."""
    return list(_merge(_tree(), layers).values())


def resolve_each(layers: Sequence[Sequence[Assignment]], tops: Sequence[Assignment]) -> list[Resolved]:
    """`resolve` of the layers with each of `tops` over them: assignments of one symbol that no other depends on.

    As if each were resolved by itself, for the price of one. Raises UserError.
    """
    tree = _tree()
    symbol = tree.syms[tops[0].symbol]
    symbol.unset_value()
    default = symbol.str_value
    # One that is not the default's, where there is one, shows where the symbol stands among what differs from it.
    shown_by = next((top for top in tops if top.value != default), tops[0])
    first = resolve(*layers, [shown_by])
    line = symbol.config_string
    each = []
    for top in tops:
        _refuse([(top, _malformed(tree, top))])
        symbol.set_value(top.value)
        _refuse([(top, _not_taken(tree, top, {top.symbol: top}))])
        present, differs = symbol.config_string, top.value != default
        symbols = {**first.symbols, symbol.name: _typed(symbol)}
        defconfig = first._defconfig.replace(line, present if differs else "")
        minimal = tuple(top if a is shown_by else a for a in first._minimal if a is not shown_by or differs)
        each.append(Resolved(symbols, first._text.replace(line, present), defconfig, minimal))
    return each


def parse_tree(kind: type[kconfiglib.Kconfig] = kconfiglib.Kconfig) -> Any:
    """The Kconfig tree, without any values. What kconfiglib reads from the environment is hidden from it."""
    with plain_environment():
        try:
            return kind(str(ROOT / "Kconfig"), warn_to_stderr=False)
        except (kconfiglib.KconfigError, OSError) as error:
            raise UserError(" ".join(str(error).split())) from None


@contextmanager
def plain_environment() -> Iterator[None]:
    """Set `srctree` to the checkout, and hide the other variables that change how kconfiglib reads a tree."""
    before = dict(os.environ)
    for name in before:
        if name.startswith("KCONFIG_") or name == "CONFIG_":
            del os.environ[name]
    os.environ["srctree"] = str(ROOT)  # noqa: SIM112 - kconfiglib's spelling
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def symbol_values(tree: kconfiglib.Kconfig) -> dict[str, bool | int | str]:
    """Name -> value of the symbols that the tree would write to a `.config`."""
    return {symbol.name: _typed(symbol) for symbol in tree.unique_defined_syms if symbol.config_string}


def config_text(tree: kconfiglib.Kconfig) -> str:
    """The complete `.config` of a tree's present values, under the titles of its menus."""
    chunks = [HEADER]
    for node in tree.node_iter(unique_syms=True):
        if isinstance(node.item, kconfiglib.Symbol):
            chunks.append(node.item.config_string)
        elif node.item == kconfiglib.MENU and kconfiglib.expr_value(node.dep):
            chunks.append(f"\n# {node.prompt[0]}\n\n")
    return "".join(chunks)


def settable_symbols() -> list[str]:
    """Names of all symbols with a prompt, in the order of the menu."""
    return [symbol.name for symbol in _tree().unique_defined_syms if _has_prompt(symbol)]


def is_removed(assignment: Assignment) -> bool:
    """Whether an assignment is of a symbol that no Kconfig file defines: one that was removed, or never was."""
    return not file_of(assignment.symbol)


def file_of(symbol: str) -> str:
    """The Kconfig file that defines a symbol, relative to the checkout; "" if none does."""
    known = _tree().syms.get(symbol)
    if known is None or not known.nodes:
        return ""
    return (ROOT / known.nodes[0].filename).relative_to(ROOT).as_posix()


_REPLACED = {
    "EVAL_ITERS": "EVAL_TOKENS has taken its place: validation tokens, EVAL_ITERS * BATCH_SIZE * BLOCK_SIZE of them"
}
"""Symbols of earlier versions, and what to set instead."""


def did_you_mean(name: str, names: Sequence[str]) -> str:
    """What to append to a complaint about `name`: the closest of `names` as a question, or nothing."""
    if name in _REPLACED:
        return f"; {_REPLACED[name]}"
    close = difflib.get_close_matches(name, names, n=1)
    return f"; did you mean {close[0]}?" if close else ""


@functools.cache
def _tree() -> kconfiglib.Kconfig:
    return parse_tree()


def _merge(tree: kconfiglib.Kconfig, layers: Sequence[Sequence[Assignment]]) -> dict[str, Assignment]:
    """Symbol -> the assignment that counts. Raises UserError for what no configuration could hold."""
    _refuse([(assignment, _malformed(tree, assignment)) for layer in layers for assignment in layer])
    asked: dict[str, Assignment] = {}
    for layer in layers:
        chosen: dict[kconfiglib.Choice, Assignment] = {}
        for assignment in layer:
            choice = tree.syms[assignment.symbol].choice
            if choice and assignment.value == "y":
                if choice in chosen:
                    other = chosen[choice]
                    only_one = f"only one member of {_title(choice)} can be y"
                    _refuse([(assignment, f"{other.symbol}=y was set at {other.origin}, and {only_one}")])
                chosen[choice] = assignment
                for member in choice.syms:
                    asked.pop(member.name, None)
            asked[assignment.symbol] = assignment
    return asked


def _refuse(verdicts: Sequence[tuple[Assignment, str | None]]) -> None:
    """Raise UserError if any assignment comes with a reason against it: the first in full, the others by name."""
    refused = [(assignment, reason) for assignment, reason in verdicts if reason]
    if refused:
        (first, reason), *others = refused
        also = f" (refused as well: {', '.join(assignment.symbol for assignment, _ in others)})" if others else ""
        raise UserError(f"{first.origin}: {first}: {reason}{also}")


def _malformed(tree: kconfiglib.Kconfig, assignment: Assignment) -> str | None:
    """Why no symbol could take the assignment: none has that name, or the value has not the form of its type."""
    symbol = tree.syms.get(assignment.symbol)
    if symbol is None or not symbol.nodes:
        names = [symbol.name for symbol in tree.unique_defined_syms]
        return f"no such symbol{did_you_mean(assignment.symbol.upper(), names)}"
    if control := CONTROL.search(assignment.value):
        return f"control character {control[0]!r}: a value is one line of plain text"
    if symbol.type == kconfiglib.STRING:
        if assignment.quoted is False:
            return f'text is written in quotes: CONFIG_{symbol.name}="{shown(assignment.value)}"'
        return None
    if symbol.type == kconfiglib.BOOL and assignment.value not in ("y", "n"):
        return "must be y or n"
    if symbol.type == kconfiglib.INT and not _INT.fullmatch(assignment.value):
        return "must be a whole number such as 50"
    if assignment.quoted:
        kind = "a bool" if symbol.type == kconfiglib.BOOL else "a number"
        return f"{kind} is written without quotes: CONFIG_{symbol.name}={shown(assignment.value)}"
    return None


def _not_taken(tree: kconfiglib.Kconfig, assignment: Assignment, asked: Mapping[str, Assignment]) -> str | None:
    """Why the symbol's value is not what was asked for, or None if it is."""
    symbol = tree.syms[assignment.symbol]
    # "is not set" is also how a bool reads whose dependencies are not met.
    taken = symbol.str_value == assignment.value
    if taken and (symbol.config_string or symbol.type == kconfiglib.BOOL):
        return None
    if not _has_prompt(symbol):
        return f"cannot be set: it follows from other settings, and is {symbol.str_value or 'absent'}"
    if not symbol.visibility:
        return _unmet(symbol, asked)
    for low, high, condition in symbol.ranges:
        if kconfiglib.expr_value(condition):
            return f"out of range: must be from {low.str_value} to {high.str_value}"
    if symbol.choice:
        return f"one member of {_title(symbol.choice)} has to be y: set the one that shall be"
    return f"is {symbol.str_value}, forced by {kconfiglib.expr_str(symbol.rev_dep)}"


def _unmet(symbol: kconfiglib.Symbol, asked: Mapping[str, Assignment]) -> str:
    """What an invisible symbol depends on, the part of it that does not hold, and who is behind that."""
    parts = _conjuncts(next(node.prompt[1] for node in symbol.nodes if node.prompt))
    whole = " && ".join(_parenthesized(part, len(parts)) for part in parts)
    culprits = [
        item
        for part in parts
        if not kconfiglib.expr_value(part)
        for item in sorted(kconfiglib.expr_items(part), key=lambda item: item.name)
        if not item.is_constant
    ]
    values = ", ".join(f"{item.name}={item.str_value}" for item in culprits)
    behind = {other: asked[other] for item in culprits for other in _decided_by(item) if other in asked}
    because = ", ".join(f"{a.symbol}={a.value} from {a.origin}" for a in behind.values())
    return f"depends on {whole}, but {values}" + (f" ({because})" if because else "")


def _conjuncts(expression: Any) -> list[Any]:
    """The parts of a conjunction. Members depend on their choice, which stands for what it depends on itself."""
    parts = []
    for part in kconfiglib.split_expr(expression, kconfiglib.AND):
        if isinstance(part, kconfiglib.Choice):
            parts += _conjuncts(part.direct_dep)
        elif not (isinstance(part, kconfiglib.Symbol) and part.is_constant):
            parts.append(part)
    return parts


def _parenthesized(part: Any, parts: int) -> str:
    text = kconfiglib.expr_str(part)
    return f"({text})" if parts > 1 and " || " in text else text


def _decided_by(symbol: kconfiglib.Symbol) -> list[str]:
    """Names of the symbols whose assignments decide this one's value: itself, its rivals, and what selects it."""
    rivals = [member.name for member in symbol.choice.syms] if symbol.choice else []
    selectors = [item.name for item in kconfiglib.expr_items(symbol.rev_dep) if not item.is_constant]
    return [symbol.name, *rivals, *selectors]


def _minimize(tree: kconfiglib.Kconfig, asked: Mapping[str, Assignment]) -> list[Assignment]:
    """The assignments without which some value would change.

    One that changes nothing about its own symbol changes nothing about any other, so they can be tried one by one.
    """
    kept = []
    for assignment in asked.values():
        symbol = tree.syms[assignment.symbol]
        if symbol.choice and assignment.value == "n":
            continue
        holder = symbol.choice or symbol
        holder.unset_value()
        if symbol.str_value != assignment.value:
            symbol.set_value(assignment.value)
            kept.append(assignment)
    return kept


def _typed(symbol: kconfiglib.Symbol) -> bool | int | str:
    if symbol.type == kconfiglib.BOOL:
        return symbol.str_value == "y"
    return int(symbol.str_value) if symbol.type == kconfiglib.INT else symbol.str_value


def _has_prompt(symbol: kconfiglib.Symbol) -> bool:
    return any(node.prompt for node in symbol.nodes)


def _title(choice: kconfiglib.Choice) -> str:
    return f'the choice "{choice.nodes[0].prompt[0]}"'
