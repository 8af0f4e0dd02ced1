"""What was to be shown, and how, written down before anything had been trained: registration.json.

The first `make` writes it; what a later one adds (arms, seeds, another margin) is an amendment with its date. Each
entry has the hash of the one before it, so that none can be changed or dropped by itself. The report says of every
verdict whether it was registered.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from gpt2.base.errors import UserError
from gpt2.base.files import locked, read_json, write_json
from gpt2.run.records import LINE, OBJECT, TEXT, WHOLE, Kind, is_finite, or_null
from harness.configure.kconfig import list_steps
from harness.configure.plan import Plan
from harness.configure.tuning import read_tuned

REGISTRATION = "registration.json"

METRIC = "val_loss"
"""What a verdict on an arm is on. Others are reported beside it."""


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One time that something was registered."""

    when: datetime
    """UTC."""

    question: str
    metric: str
    margin: float
    """A share of compute."""

    arms: Mapping[str, tuple[str, ...]]
    """Every arm that is compared, and the steps that it may be compared with, best first."""

    seeds: tuple[int, ...]
    """In the order in which they are trained."""

    looks: int
    lengths: tuple[float, ...]
    reruns: int
    tuning: Mapping[str, Any] | None
    """`symbols` with the values tried, and `seeds`."""

    sizes: tuple[str, ...]
    hashes: Mapping[str, Any]
    """`config` and `steps` by SHA-256, `code`: the commit, `data`: hash of each data set."""

    previous: str | None
    """Hash of the entry before."""


def register(plan: Plan, *, code: Mapping[str, Any], data: Mapping[str, str]) -> str:
    """Write down what a plan asks for, unless it is all there already. Returns what there is to say about it.

    code: as `code_state` has it. data: name -> hash of the data. Raises UserError where the file is damaged.
    """
    path = plan.directory / REGISTRATION
    with locked(path):  # of several makes each adds to what the others have
        known = _entries(path) if path.exists() else []
        entry = _asked(plan, code, data) | {"previous": hash_of(known[-1]) if known else None}
        if any(_says_nothing_new(entry, old) for old in known):
            return ""
        write_json(path, {"entries": [*known, entry]})
    if not known:
        return f"registered before the first run: {path}, of hash {hash_of(entry)}"
    return f"amended, as what is asked for was not registered at first: {path}"


def _asked(plan: Plan, code: Mapping[str, Any], data: Mapping[str, str]) -> dict[str, Any]:
    """What a plan asks for, as an entry without its place among the others."""
    assert plan.study is not None
    return {
        "when": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        **asked_by(plan),
        "hashes": {
            "config": sha256(plan.base.text()),
            "steps": hashes_of_steps(plan),
            "code": code["commit"],
            "dirty": code["dirty"],
            "data": dict(data),
        },
    }


def asked_by(plan: Plan) -> dict[str, Any]:
    """What an entry has of a plan, and of nothing else."""
    assert plan.study is not None
    return {
        "question": plan.study.question or _question(plan),
        "metric": METRIC,
        "margin": plan.study.margin,
        "arms": {arm: list(names) for arm, names in plan.references.items()},
        "seeds": list(plan.seeds),
        "looks": plan.study.looks,
        "lengths": list(plan.study.lengths),
        "reruns": plan.study.reruns,
        "tuning": _tuning(plan),
        "sizes": [size.name for size in plan.study.sizes],
    }


def hashes_of_steps(plan: Plan) -> dict[str, str]:
    """SHA-256 of each of a plan's fragments, as they are now."""
    return {step.name: sha256(step.path.read_text()) for step in list_steps() if step.name in _steps(plan)}


def read_registration(path: Path) -> tuple[Entry, ...]:
    """The entries of a registration.json, oldest first; none where there is no such file.

    Raises UserError where it is damaged, or an entry is not the one that the next was written after.
    """
    if not path.exists():
        return ()
    return tuple(_entry(path, number, entry) for number, entry in enumerate(_entries(path), start=1))


def published_hash(path: Path) -> str | None:
    """Of the first entry: who published it before the first run can show that it is the one; None without a file.

    Raises UserError as `read_registration` does.
    """
    return hash_of(_entries(path)[0]) if path.exists() else None


def _entries(path: Path) -> list[dict[str, Any]]:
    content = read_json(path)
    entries = content.get("entries") if isinstance(content, dict) else None
    if not isinstance(entries, list) or not entries or not all(isinstance(entry, dict) for entry in entries):
        raise UserError(f"{path}: has no list of entries, as docs/results.md says of it; restore it")
    for number, (before, entry) in enumerate(zip([None, *entries], entries, strict=False), start=1):
        if entry.get("previous") != (None if before is None else hash_of(before)):
            raise UserError(
                f"{path}: entry {number} was not written after the one before it: one of them has been changed, added "
                "or dropped; restore the file"
            )
    return entries


def _entry(path: Path, number: int, found: Mapping[str, Any]) -> Entry:
    where = f"{path}: entry {number}"
    for key, kind in _KEYS.items():
        if key not in found:
            raise UserError(f"{where}: {key} is missing")
        if not kind.fits(found[key]):
            raise UserError(f"{where}: {key} must be {kind.words}")
    values: dict[str, Any] = {key: tuple(found[key]) if isinstance(found[key], list) else found[key] for key in _KEYS}
    values["when"] = datetime.fromisoformat(found["when"])
    values["arms"] = {arm: tuple(references) for arm, references in found["arms"].items()}
    return Entry(**values)


def _says_nothing_new(entry: Mapping[str, Any], old: Mapping[str, Any]) -> bool:
    """Whether all that an entry asks for is in an old one, and asked for in the same way."""
    same = ("metric", "margin", "looks", "lengths", "reruns", "tuning")
    return (
        all(entry[key] == old.get(key) for key in same)
        and entry["arms"].items() <= old.get("arms", {}).items()
        and set(entry["seeds"]) <= set(old.get("seeds", []))
    )


def _tuning(plan: Plan) -> dict[str, Any] | None:
    study = plan.study
    if study is None or not study.tune:
        return None
    tuned = None if plan.trials else read_tuned(plan.directory, study)
    runs = plan.trials.runs if plan.trials else tuned and tuned.runs
    symbols = {symbol: list(values) for symbol, values in study.tune}
    return {"symbols": symbols, "seeds": list(study.tune_seeds), **({"runs": runs} if runs else {})}


def _question(plan: Plan) -> str:
    compared = [arm for arm, names in plan.references.items() if any(name in _steps(plan) for name in names)]
    return f"Which of {', '.join(compared)} beats its reference?" if compared else "What does it come to?"


def _steps(plan: Plan) -> set[str]:
    return {arm.partition("@")[0] for arm in plan.references}


def hash_of(entry: Mapping[str, Any]) -> str:
    """What the entry after this one has as `previous`."""
    return sha256(json.dumps(entry, sort_keys=True))


def sha256(text: str) -> str:
    """Of a text, in hexadecimal."""
    return hashlib.sha256(text.encode()).hexdigest()


def _is_time(value: Any) -> bool:
    try:
        return datetime.fromisoformat(value).tzinfo is not None
    except (TypeError, ValueError):
        return False


def _list_of(kind: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, list) and all(map(kind, value))


def _is_tuning(value: Any) -> bool:
    symbols = value.get("symbols") if isinstance(value, dict) else None
    return (
        isinstance(symbols, dict)
        and all(map(_list_of(TEXT.fits), symbols.values()))
        and _list_of(WHOLE.fits)(value.get("seeds"))
        and (value.get("runs") is None or WHOLE.fits(value["runs"]))
    )


_KEYS: Mapping[str, Kind] = {
    "when": Kind("a time with its zone, ISO 8601", _is_time),
    "question": LINE,
    "metric": TEXT,
    "margin": Kind("a share of compute above 0, such as 0.01", lambda value: is_finite(value) and 0 < value < 1),
    "arms": Kind(
        "arms, each with a list of what it is compared with",
        lambda value: isinstance(value, dict) and all(map(_list_of(TEXT.fits), value.values())),
    ),
    "seeds": Kind("a list of whole numbers", _list_of(WHOLE.fits)),
    "looks": Kind("a whole number, 1 at least", lambda value: WHOLE.fits(value) and value >= 1),
    "lengths": Kind("a list of numbers", _list_of(is_finite)),
    "reruns": WHOLE,
    "tuning": or_null(Kind("symbols, each with a list of values, and a list of seeds", _is_tuning)),
    "sizes": Kind("a list of names", _list_of(TEXT.fits)),
    "hashes": OBJECT,
    "previous": or_null(TEXT),
}
