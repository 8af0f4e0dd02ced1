"""nanoGPT's `meta.pkl`, which lies beside character tokens and says what they are, read without unpickling it.

Loading a pickle runs what it says. Here its opcodes are looked at one by one: those that build dicts, lists, strings
and numbers are followed, and at any other one the file is not read. nanoGPT writes a dict of `vocab_size` (int), `itos`
(token to text) and `stoi`.
"""

from __future__ import annotations

import pickletools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gpt2.base.errors import UserError
from gpt2.base.files import require_regular

_GREATEST = 16 << 20  # bytes; 65536 tokens take 2 MB
_MARK = object()

_VALUES = frozenset(
    {"INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "FLOAT", "BINFLOAT"}
    | {"UNICODE", "SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8"}
)
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_PUT = frozenset({"PUT", "BINPUT", "LONG_BINPUT"})
_GET = frozenset({"GET", "BINGET", "LONG_BINGET"})


@dataclass(frozen=True, kw_only=True)
class Meta:
    """What a meta.pkl says of its tokens."""

    path: Path

    vocab_size: int | None
    """None where it does not say."""

    texts: dict[int, str] | None
    """The text of each token; None where it does not say so for every one."""

    unread: str | None
    """Why it was not read, in a few words; None if it was."""


def read_meta(folder: Path) -> Meta | None:
    """The meta.pkl in `folder`, if there is one. Nothing in it is run."""
    path = folder / "meta.pkl"
    if not path.exists():
        return None
    try:
        if require_regular(path).st_size > _GREATEST:
            raise ValueError("is too large for a vocabulary")
        value = _plain(path.read_bytes())
        if not isinstance(value, dict):
            raise ValueError("holds no dict")
    except (UserError, OSError, ValueError) as error:
        reason = str(error).removeprefix(f"{path}: ")
        return Meta(path=path, vocab_size=None, texts=None, unread=reason)
    size, texts = value.get("vocab_size"), value.get("itos")
    if type(size) is not int:
        size = len(texts) if isinstance(texts, dict | list) else None
    if isinstance(texts, list):
        texts = dict(enumerate(texts))
    if not (
        isinstance(texts, dict)
        and size is not None
        and texts.keys() == set(range(size))
        and all(isinstance(text, str) for text in texts.values())
    ):
        texts = None
    return Meta(path=path, vocab_size=size, texts=texts, unread=None)


def _plain(pickled: bytes) -> Any:
    """The dicts, lists, strings and numbers that a pickle builds. Raises ValueError where it does anything else."""
    stack: list[Any] = []
    memo: dict[Any, Any] = {}

    def since_mark() -> list[Any]:
        at = max(i for i, value in enumerate(stack) if value is _MARK)
        items = stack[at + 1 :]
        del stack[at:]
        return items

    def pairs(items: list[Any]) -> dict[Any, Any]:
        return dict(zip(items[::2], items[1::2], strict=True))

    try:
        for opcode, argument, _ in pickletools.genops(pickled):
            name = opcode.name
            if name in _VALUES:
                stack.append(argument)
            elif name in _CONSTANTS:
                stack.append(_CONSTANTS[name])
            elif name == "EMPTY_DICT":
                stack.append({})
            elif name == "EMPTY_LIST":
                stack.append([])
            elif name == "MARK":
                stack.append(_MARK)
            elif name == "DICT":
                stack.append(pairs(since_mark()))
            elif name == "LIST":
                stack.append(since_mark())
            elif name == "SETITEMS":
                items = since_mark()
                stack[-1].update(pairs(items))
            elif name == "SETITEM":
                value, key = stack.pop(), stack.pop()
                stack[-1][key] = value
            elif name == "APPENDS":
                items = since_mark()
                stack[-1].extend(items)
            elif name == "APPEND":
                value = stack.pop()
                stack[-1].append(value)
            elif name == "MEMOIZE":
                memo[len(memo)] = stack[-1]
            elif name in _PUT:
                memo[argument] = stack[-1]
            elif name in _GET:
                stack.append(memo[argument])
            elif name == "STOP":
                (value,) = stack
                return value
            elif name not in ("PROTO", "FRAME"):
                raise ValueError(f"holds more than plain values (opcode {name})")
    except (AttributeError, IndexError, KeyError, TypeError, RecursionError) as error:
        raise ValueError(f"is no whole pickle ({type(error).__name__})") from None
    raise ValueError("is no whole pickle")
