"""The records of a run, read back: provenance.json, summary.json, metrics.jsonl. docs/results.md says what is in them.

Results are carried about, edited and cut short, so none is believed before it has been looked at: what readers rely on
is there and has the type they rely on, or a UserError names the file and the key. Who relies on records of others reads
them here, without torch; what looks for faults in them (`make verify`), or at a run that it is training, reads JSON.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from gpt2.base.errors import UserError
from gpt2.base.files import read_file, read_json
from gpt2.base.text import quoted, shown
from gpt2.config import RunConfig, identity_differences

Json = dict[str, Any]

MAX_METRICS = 1 << 30
"""Bytes of a metrics.jsonl: a million lines with the gates of GPT-2 large."""

LARGEST = 3.5e38
"""Of a number in a record: everything measured is a float32 at most."""


@dataclass(frozen=True)
class Kind:
    """What a value has to be."""

    words: str
    fits: Callable[[Any], bool]


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and -LARGEST < value < LARGEST


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**63


def _is_text(value: object, limit: int = 4096) -> bool:
    return isinstance(value, str) and len(value) <= limit


def _is_scalar(value: object) -> bool:
    return value is None or isinstance(value, bool) or _is_text(value) or _is_number(value)


def or_null(kind: Kind) -> Kind:
    """The same, or null."""
    return Kind(f"{kind.words} or null", lambda value: value is None or kind.fits(value))


TEXT = Kind("text", _is_text)
LINE = Kind("a line of text", lambda value: _is_text(value, 1 << 16))
WHOLE = Kind("a whole number, not negative", _is_whole)
NUMBER = or_null(Kind("a number", _is_number))
_AMOUNT = Kind("a number, not negative", lambda value: _is_number(value) and value >= 0)
AMOUNT = or_null(_AMOUNT)
FLAG = or_null(Kind("true or false", lambda value: isinstance(value, bool)))
SCALAR = Kind("text, a number, true, false or null", _is_scalar)
OBJECT = Kind("an object", lambda value: isinstance(value, dict))
STATUS = Kind('"done", "failed" or "interrupted"', lambda value: value in ("done", "failed", "interrupted"))
TOKENIZER = Kind('"byte" or "gpt2"', lambda value: value in ("byte", "gpt2"))

Schema = Mapping[str, "Kind | Schema | list[Kind | Schema]"]
"""Key -> what its value is: a kind, an object, a list of such. "key?" may be absent, "*" is every key not named."""

SUMMARY: Schema = {
    "status": STATUS,
    "error?": or_null(LINE),
    **dict.fromkeys(("iters?", "tokens?", "params?", "flops_per_token?", "overflows?"), or_null(WHOLE)),
    **dict.fromkeys(("val_loss?", "val_bpb?", "train_loss?"), NUMBER),
    "val_losses?": {"*": NUMBER},
    **dict.fromkeys(("ema_val_loss?", "ema_val_bpb?", "val_loss_tail?"), NUMBER),
    **dict.fromkeys(("ms_per_step?", "ms_per_step_iqr?", "tokens_per_s?", "mfu?", "peak_mem_gib?"), AMOUNT),
    **dict.fromkeys(("train_time_s?", "eval_time_s?", "checkpoint_time_s?"), AMOUNT),
    **dict.fromkeys(("wall_time_s?", "startup_s?", "waited_s?"), AMOUNT),
    "timed?": {"lines": WHOLE, "shared": WHOLE, "clean": FLAG},
    "config_hash?": TEXT,
    "compile?": {"ran": TEXT, "asked?": TEXT, "mode?": or_null(TEXT)},
    "gates?": or_null(OBJECT),
    "events?": [LINE],
}

_CODE: Schema = {"commit": or_null(TEXT), "dirty": FLAG}
_VERSIONS: Schema = {"torch": or_null(TEXT), "*": or_null(TEXT)}
_HARDWARE: Schema = {
    "device_name": TEXT,
    "cpu": or_null(TEXT),
    "cores": or_null(WHOLE),
    "driver": or_null(TEXT),
    "threads?": or_null(WHOLE),
}
_PARALLEL: Schema = {"processes": Kind("a whole number, 1 at least", lambda value: _is_whole(value) and value >= 1)}
_SDPA: Schema = {"asked": TEXT, "ran": or_null(TEXT)}
_PRODUCTS: Schema = {"asked": TEXT, "ran": TEXT}
_PROCESS: Schema = {
    "code": _CODE,
    "versions": _VERSIONS,
    "hardware": _HARDWARE,
    "sdpa?": _SDPA,
    "products?": _PRODUCTS,
}
PROVENANCE: Schema = {
    "started": TEXT,
    **_PROCESS,
    "parallel?": _PARALLEL,
    "data": {
        "dataset": TEXT,
        "tokenizer": or_null(TEXT),
        "hash": TEXT,
        "train_tokens": WHOLE,
        "eval_datasets?": {"*": {"hash": TEXT, "val_tokens": WHOLE, "eval_targets": WHOLE}},
    },
    "identity": {"RA_V5_GATE_INIT?": NUMBER, "*": SCALAR},
    "config_hash": TEXT,
    "resumed?": [{"step": WHOLE, **_PROCESS}],
}

Event = Literal[
    "start", "ranks", "data", "slow_precision", "sdpa", "resume", "damaged", "taken_over", "memory", "waiting",
    "training", "compile", "compile_fallback", "overflow", "interrupted", "nonfinite", "out_of_memory",
]  # fmt: skip
"""What a run tells of, by the names that lines of kind "event" have for it."""

NONFINITE = ("nonfinite", "not_finite")
"""What readers take for the event "nonfinite": earlier versions had two names for it."""

_EVENT: Schema = {"event": TEXT, "message": LINE}
_LINES: Mapping[str, Schema] = {"event": _EVENT, "gates": {"gates": OBJECT}}
"""What lines of a kind have to have. The numbers of others are left out where they are none (`RunRecord.series`)."""

_LIVE_LINES: Mapping[str, Schema] = {
    **_LINES,
    "train": {"loss": NUMBER, "ms_per_step": _AMOUNT, "tokens_per_s": _AMOUNT, "shared?": FLAG},
    "eval": {"val_loss": NUMBER},
}
"""What those that show a run while it is trained take from its lines."""


def read_summary(path: Path) -> Json:
    """A summary.json. Raises UserError."""
    return _checked(path, read_json(path), SUMMARY)


def read_provenance(path: Path) -> Json:
    """A provenance.json. Raises UserError."""
    return _checked(path, read_json(path), PROVENANCE)


def differences(recorded: Json, ours: Json) -> list[str]:
    """What makes a recorded identity another run's than ours, a symbol and both of its values each."""
    return [
        f"CONFIG_{shown(symbol)} is {quoted(recorded.get(symbol), 80)} there and {quoted(ours.get(symbol), 80)} here"
        for symbol in identity_differences(recorded, ours)
    ]


def identity_beside(config: RunConfig, recorded: Json) -> Json:
    """The identity of a run as far as settings tell: of its data, and the weights it starts from, what is recorded."""
    ours = config.identity()
    asked = ("DATA_HASH", *(key for key in ("INIT_FROM", "EVAL_DATASETS") if key in ours))
    return ours | {key: recorded[key] for key in asked if key in recorded}


def timed(laps: Sequence[float], shared: Sequence[bool]) -> tuple[list[float], bool]:
    """The ms per step that tell how fast a run is, of those of its lines of the log and whether each was `shared`.

    The first line's steps are slower than the rest where anything still warms up, and so are those during which another
    process used the device. Where nothing but these is left they count all the same, and the second value is False.
    """
    later = list(zip(laps, shared, strict=True))[1:] or list(zip(laps, shared, strict=True))
    clean = [ms for ms, was_shared in later if not was_shared]
    return clean or [ms for ms, _ in later], bool(clean)


def read_tokenizer(path: Path) -> str | None:
    """The tokenizer that a provenance.json names, if any, whatever else is in it. Raises UserError."""
    name: str | None = _checked(path, read_json(path), {"data": {"tokenizer": or_null(TOKENIZER)}})["data"]["tokenizer"]
    return name


def read_metrics(path: Path) -> list[Json]:
    """The lines of a metrics.jsonl that count, in order of their steps; none where the file does not exist.

    Of two lines of one kind and step the later counts: a resumed run repeats what the interrupted one had logged.
    Events are history, and all of them are kept. A killed process may leave half a last line, which is dropped;
    anything else that is not as docs/results.md has it raises a UserError that names file and line.
    """
    if not os.path.lexists(path):
        return []
    counting: dict[tuple[Any, ...], Json] = {}
    shape: Any = None
    lines = read_file(path, MAX_METRICS).split(b"\n")
    for number, text in enumerate(lines, start=1):
        where = f"{path}:{number}"
        line = _line(text)
        if line is None:
            if number == len(lines):  # what follows the last newline; nothing in an intact file
                break
            seen = shown(text[:60].decode(errors="replace"))
            raise UserError(f'{where}: not a metrics line: "{seen}"; see docs/results.md')
        _check(where, line, _LINES.get(line["kind"], {}))
        if line["kind"] == "gates":
            shape = shape or _gate_shape(line["gates"])
            if shape is None or _gate_shape(line["gates"]) != shape:
                raise UserError(f"{where}: gates: must be, by name, a number per layer and head, as in every line")
        key = (line["kind"], line["step"])
        counting[(*key, number) if line["kind"] == "event" else key] = line
    return sorted(counting.values(), key=lambda line: line["step"])


def read_live_line(text: bytes) -> Json | None:
    """A line of a metrics.jsonl that is still written to; None where it is not as the trainer writes it.

    Whoever shows it goes on without: `read_metrics` says what is wrong with the file.
    """
    line = _line(text)
    try:
        if line is not None:
            _check("", line, _LIVE_LINES.get(line["kind"], {}))
    except UserError:
        return None
    return line


def _line(text: bytes) -> Json | None:
    """An object with kind and step, which every line of a metrics.jsonl is; None for anything else."""
    try:
        line = json.loads(text.decode())
    except (ValueError, RecursionError):
        return None
    is_one = isinstance(line, dict) and _is_text(line.get("kind")) and _is_whole(line.get("step"))
    return line if is_one else None


def _gate_shape(gates: Json) -> dict[str, tuple[int, int]] | None:
    """Name -> (layers, heads) of a line's gates; None where they are no numbers per layer and head."""
    shapes: dict[str, tuple[int, int]] = {}
    for name, layers in gates.items():
        if not isinstance(layers, list) or not all(isinstance(heads, list) for heads in layers):
            return None
        widths = {len(heads) for heads in layers}
        if len(widths) != 1 or not all(NUMBER.fits(value) or value != value for heads in layers for value in heads):
            return None
        shapes[name] = (len(layers), widths.pop())
    return shapes


def is_finite(value: object) -> bool:
    """Whether a value from a record is a finite number. Diverged runs have NaN, unknown values are null."""
    return _is_number(value) and math.isfinite(value)  # type: ignore[arg-type]


def _checked(path: Path, value: Json, schema: Schema) -> Json:
    _check(str(path), value, schema)
    return value


def _check(where: str, value: object, kind: Kind | Schema | list[Kind | Schema], key: str = "") -> None:
    """Raise a UserError that begins with `where` and names the key unless a value is of a kind."""
    if isinstance(kind, Kind):
        if not kind.fits(value):
            raise UserError(f"{where}: {key} is {_described(value)}: must be {kind.words}")
    elif isinstance(kind, list):
        if not isinstance(value, list):
            raise UserError(f"{where}: {key} is {_described(value)}: must be a list")
        for i, item in enumerate(value):
            _check(where, item, kind[0], f"{key}[{i}]")
    elif not isinstance(value, dict):
        raise UserError(f"{where}: {key} is {_described(value)}: must be an object")
    else:
        named = {name.removesuffix("?") for name in kind}
        for name, of in kind.items():
            if name == "*":
                for other in value.keys() - named:
                    _check(where, value[other], of, _within(key, shown(other)))
            elif name.removesuffix("?") in value:
                _check(where, value[name.removesuffix("?")], of, _within(key, name.removesuffix("?")))
            elif not name.endswith("?"):
                raise UserError(f"{where}: {_within(key, name)} is missing")


def _within(key: str, name: str) -> str:
    return f"{key}.{name}" if key else name


def _described(value: object) -> str:
    """A value in a few words, whatever its size."""
    if isinstance(value, str):
        return f'"{shown(value, 60)}"'
    if isinstance(value, dict | list):
        return f"{'an object' if isinstance(value, dict) else 'a list'} of {len(value)}"
    return shown(json.dumps(value), 60)
