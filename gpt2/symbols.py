"""How the settings of gpt2/config.py are filled: from the symbols of a resolved `.config`."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any, get_type_hints

from gpt2.base.settings import check, number
from gpt2.config import DataConfig, GPTConfig, OptimizerConfig, RunConfig, TrainConfig
from gpt2.model_config import BUILT_IN

Symbols = Mapping[str, bool | int | str]
"""Values of a resolved configuration by symbol name, without the CONFIG_ prefix. Invisible symbols are absent."""


def padded(vocab_size: int, multiple: int = 64) -> int:
    """`vocab_size` rounded up to a multiple."""
    return -(-vocab_size // multiple) * multiple


def run_config(symbols: Symbols) -> RunConfig:
    """The typed configuration of a run from the symbols of a resolved `.config`.

    Raises UserError, naming the symbol and its value, where a number is malformed or out of range.
    """
    name = str(symbols["MODEL_NAME"])
    valid_name = name not in ("", ".", "..") and all((c.isalnum() and c.isascii()) or c in "._-" for c in name)
    check(valid_name and name[0] not in ".-", "MODEL_NAME", repr(name), "use letters, digits, '.', '_' and '-'")
    data = _fill(DataConfig, symbols)
    attention = _chosen("ATTENTION_", symbols)
    model = _fill(
        GPTConfig,
        symbols,
        vocab_size=padded(data.vocab_size) if symbols["PAD_VOCAB"] else data.vocab_size,
        attention_options=_attention_options(attention, symbols),
        ra_v5_compile=False,
    )
    return RunConfig(
        name=name,
        model=model,
        data=data,
        optimizer=_fill(OptimizerConfig, symbols),
        train=_fill(TrainConfig, symbols),
    )


def _fill(cls: type, symbols: Symbols, **given: Any) -> Any:
    """An instance of a settings dataclass from the symbols its fields name. Invisible symbols leave the default."""
    hints = _hints(cls)
    for f in dataclasses.fields(cls):
        symbol = f.metadata.get("symbol")
        if symbol is None or f.name in given:
            continue
        if f.metadata["choice"]:
            value: Any = _chosen(symbol, symbols)
        else:
            value = symbols.get(symbol)
            if value is not None and hints[f.name] in (float, float | None):
                value = number(symbol, value)
        if value is not None:
            given[f.name] = value
    return cls(**given)


_hints = functools.cache(get_type_hints)


def _chosen(prefix: str, symbols: Symbols) -> str | None:
    """The chosen member of a choice whose members begin with `prefix`, in lower case and without it.

    COMPILE_ and COMPILE_MODE_ are both prefixes: a member's own prefix is the longest that fits.
    """
    longer = [p for p in _CHOICE_PREFIXES if p.startswith(prefix) and p != prefix]
    for name, value in symbols.items():
        if value is True and name.startswith(prefix) and not any(name.startswith(p) for p in longer):
            return name[len(prefix) :].lower()
    return None


def _attention_options(attention: str | None, symbols: Symbols) -> dict[str, bool | int | str]:
    """Symbols of a variant that no field of any settings class takes: FOO_X=... of variant `foo` as {"x": ...}."""
    if attention in BUILT_IN:
        return {}
    prefix = f"{attention}_".upper()
    return {
        name[len(prefix) :].lower(): value
        for name, value in symbols.items()
        if name.startswith(prefix) and name not in _TAKEN and not any(name.startswith(p) for p in _CHOICE_PREFIXES)
    }


_FIELDS = [f for cls in (GPTConfig, DataConfig, OptimizerConfig, TrainConfig) for f in dataclasses.fields(cls)]
_TAKEN = {f.metadata["symbol"] for f in _FIELDS if "symbol" in f.metadata}
_CHOICE_PREFIXES = {f.metadata["symbol"] for f in _FIELDS if f.metadata.get("choice")}
