"""Do a run's numbers agree with each other? What can be counted again is: summary.json from metrics.jsonl.

    for wrong in summary_errors(summary, lines, provenance): print(wrong)

A loss in the middle of a curve, and a time that no line repeats, stand for themselves: whether those are true only
training again shows (harness/evidence/again.py).
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from gpt2.run.evaluation import due_steps, tail_mean, tail_steps
from gpt2.run.records import Json, timed

_MAY_BE_NULL = {"error", "mfu", "val_bpb", "ema_val_bpb", "gates", "compile"}
"""Of a finished run's summary; the number of bytes of its text may not be known."""

_OF_AVERAGE = ("ema_val_loss", "ema_val_bpb")

_NUMBERS = (
    *("iters", "tokens", "val_loss", "val_bpb", "train_loss", "ms_per_step", "ms_per_step_iqr", "tokens_per_s", "mfu"),
    *("peak_mem_gib", "train_time_s", "eval_time_s", "checkpoint_time_s", "wall_time_s", "startup_s", "params"),
    *("flops_per_token", "overflows", "waited_s", "val_loss_tail", *_OF_AVERAGE),
)
"""Of a summary."""

_ROUNDED = 0.001
"""What times in lines of metrics.jsonl are rounded to, in ms and in s."""


def line_errors(lines: Sequence[Json], provenance: Json, *, done: bool, log_interval: int | None) -> Iterator[str]:
    """What lines of metrics.jsonl say that cannot be. `log_interval`: LOG_INTERVAL, None where it is not known."""
    identity, data = provenance["identity"], provenance["data"]
    for line in lines:
        where = f"{line['kind']} at step {line['step']}"
        yield from (f"{where}: {name} is not finite" for name in _nonfinite(line))
        if line["kind"] not in ("train", "eval"):
            continue
        yield from differ(f"{where}: tokens", line.get("tokens"), line["step"] * _tokens_per_step(identity))
        if line["kind"] == "eval":
            for bpb, loss in {"val_bpb": "val_loss", "ema_val_bpb": "ema_val_loss"}.items():
                yield from differ(f"{where}: {bpb}", line.get(bpb), _bits_per_byte(data, line.get(loss)), 1e-9)
            if ("ema_val_loss" in line) != ("EMA_DECAY" in identity):
                yield f"{where}: ema_val_loss is what EMA_DECAY asks for, and nothing else"
            others = [*data.get("eval_datasets", {})]
            yield from differ(f"{where}: what val_losses are of", [*line.get("val_losses", {})], others)
        elif abs(1000 * _tokens_per_step(identity) / line["tokens_per_s"] - line["ms_per_step"]) > _ROUNDED:
            yield f"{where}: tokens_per_s is not what its ms_per_step makes"
    due = {"eval": due_steps(identity["MAX_ITERS"], identity["EVAL_INTERVAL"], identity.get("EVAL_TAIL", 0))}
    # A run that was stopped may have gone on with another pace of logging.
    if log_interval is not None and not provenance.get("resumed"):
        due["train"] = due_steps(identity["MAX_ITERS"], log_interval, 0) - {0}
        if any(line["kind"] == "gates" for line in lines):
            due["gates"] = due["train"]
    newest = max((line["step"] for line in lines), default=0)
    for kind, steps in due.items():
        # One that was stopped may not have come to all that is due at its newest step.
        yield from _missing(lines, kind, steps if done else {step for step in steps if step < newest}, exactly=done)


def summary_errors(summary: Json, lines: Sequence[Json], provenance: Json) -> Iterator[str]:
    """What a summary says other than the lines of its metrics.jsonl do."""
    if strange := [name for name in _NUMBERS if not isinstance(summary.get(name), int | float | None)]:
        yield f"{', '.join(strange)}: no number"
        return
    done = summary.get("status") == "done"
    identity, data = provenance["identity"], provenance["data"]
    train, evaluation, gates = (_last(lines, kind) for kind in ("train", "eval", "gates"))
    iters = summary.get("iters")
    expected: dict[str, tuple[Any, float]] = {}
    """Name -> what it should be, and the share of it by which the summary may differ."""
    if done:
        yield from (f"{name} is not a finite number, and the run is done" for name in _nonfinite(summary))
        yield from (f"{k} is null, and the run is done" for k, v in summary.items() if v is None and _needs(k, data))
        for kind, line in {"train": train, "eval": evaluation}.items():
            yield from differ(f"the last {kind} line's step", line.get("step"), identity["MAX_ITERS"])
        expected["iters"] = identity["MAX_ITERS"], 0
        expected["tokens_per_s"] = _speed(identity, summary), 1e-9
        if summary.get("mfu") is not None:
            expected["mfu"] = _mfu(summary, train), 1e-6
    elif iters is not None and train and train["step"] > iters:
        yield f"iters is {iters}, and metrics.jsonl goes to step {train['step']}"
    if iters is not None:
        expected["tokens"] = iters * _tokens_per_step(identity), 0
    if evaluation:
        names = ("val_loss", "val_bpb", *(name for name in _OF_AVERAGE if "EMA_DECAY" in identity))
        expected |= {name: (evaluation.get(name), 0) for name in names}
        if "EVAL_DATASETS" in identity:
            expected["val_losses"] = evaluation.get("val_losses"), 0
        if "EVAL_TAIL" in identity:
            expected["val_loss_tail"] = _tail_mean(lines, identity), 0
    if train:
        expected["train_loss"] = train.get("loss"), 0
    if gates or done:
        expected["gates"] = gates.get("gates", {}), 0
    for name, (value, tolerance) in expected.items():
        if name in summary or done:
            found = summary.get(name)
            yield from differ(name, (found or {}) if name == "gates" else found, value, tolerance)
    if done:
        yield from _time_errors(summary, lines)
    yield from _overflow_errors(summary, lines, resumed=bool(provenance.get("resumed")))


def _tail_mean(lines: Sequence[Json], identity: Json) -> float | None:
    """The mean validation loss over the run's last evaluations, where there are all of them."""
    steps = tail_steps(identity["MAX_ITERS"], identity["EVAL_TAIL"])
    return tail_mean([line["val_loss"] for line in lines if line["kind"] == "eval" and line["step"] in steps], steps)


def differ(name: str, found: Any, expected: Any, tolerance: float = 0) -> Iterator[str]:
    """What to say where a value is not what it should be. `tolerance` is relative, and for numbers."""
    numbers = all(isinstance(value, int | float) for value in (found, expected))
    if numbers and tolerance and math.isclose(found, expected, rel_tol=tolerance):
        return
    if found != expected:
        yield f"{name} is {_short(found)}, and should be {_short(expected)}"


def _time_errors(summary: Json, lines: Sequence[Json]) -> Iterator[str]:
    """Lines are rounded, so that these are alike only."""
    train = [line for line in lines if line["kind"] == "train"]
    laps, is_clean = timed([line["ms_per_step"] for line in train], [line.get("shared", False) for line in train])
    if not laps:
        return
    quartiles = statistics.quantiles(laps, n=4) if len(laps) > 1 else [0.0, 0.0, 0.0]
    found = {
        "ms_per_step": (statistics.median(laps), _ROUNDED),
        "ms_per_step_iqr": (quartiles[2] - quartiles[0], 2 * _ROUNDED),
        "train_time_s": (train[-1]["time_s"], _ROUNDED),
    }
    shared = sum(bool(line.get("shared")) for line in train)
    if "timed" in summary:
        yield from differ("timed", summary["timed"], {"lines": len(train), "shared": shared, "clean": is_clean})
    for name, (value, rounded) in found.items():
        said = summary.get(name)
        if said is None or abs(said - value) > rounded:
            yield f"{name} is {_short(said)}, and {value:.6g} by metrics.jsonl"


def _overflow_errors(summary: Json, lines: Sequence[Json], *, resumed: bool) -> Iterator[str]:
    """A step that was taken twice, by a run that was stopped in between, need not have overflowed twice."""
    events = {line.get("message") for line in lines if line["kind"] == "event" and line.get("event") == "overflow"}
    said = summary.get("overflows")
    if said is None:
        if summary.get("status") == "done":
            yield "overflows is null, and the run is done"
    elif said > len(events) if resumed else said != len(events):
        yield f"overflows is {said}, and metrics.jsonl has {len(events)} of them"


def _short(value: Any) -> str:
    text = "null" if value is None else str(value)
    return text if len(text) <= 60 else f"{text[:60]}..."


def _missing(lines: Sequence[Json], kind: str, due: set[int], *, exactly: bool) -> Iterator[str]:
    steps = {line["step"] for line in lines if line["kind"] == kind}
    if absent := sorted(due - steps):
        more = f", and {len(absent) - 1} more," if len(absent) > 1 else ""
        yield f"the {kind} line of step {absent[0]}{more} is missing"
    elif exactly and (odd := sorted(steps - due - {0})):  # where gates are logged too
        yield f"there is a {kind} line of step {odd[0]}, where none is due"


def _last(lines: Sequence[Json], kind: str) -> Json:
    return next((line for line in reversed(lines) if line["kind"] == kind), {})


def _tokens_per_step(identity: Json) -> int:
    return int(identity["BATCH_SIZE"] * identity["GRADIENT_ACCUMULATION_STEPS"] * identity["BLOCK_SIZE"])


def _speed(identity: Json, of: Json) -> float | None:
    """tokens/s by its ms per step."""
    ms = of.get("ms_per_step")
    return 1000 * _tokens_per_step(identity) / ms if ms else None


def _mfu(summary: Json, train: Json) -> float | None:
    """Which is to its speed as the last line's is."""
    if not train.get("mfu") or not summary.get("tokens_per_s"):
        return None
    return float(train["mfu"] * summary["tokens_per_s"] / train["tokens_per_s"])


def _bits_per_byte(data: Json, loss: float | None) -> float | None:
    """Of the text that was evaluated, where its bytes are recorded; earlier versions took those of the whole split."""
    if data.get("eval_bytes") is not None:
        bytes_per_token = data["eval_bytes"] / data["eval_targets"]
    else:
        bytes_per_token = None if "eval_bytes" in data else data.get("val_bytes_per_token")
    return None if loss is None or bytes_per_token is None else loss / (math.log(2) * bytes_per_token)


def _needs(name: str, data: Json) -> bool:
    """Whether a finished run has to have it."""
    return name not in _MAY_BE_NULL or (name in ("val_bpb", "ema_val_bpb") and _bits_per_byte(data, 1.0) is not None)


def _nonfinite(value: Any, name: str = "") -> list[str]:
    """Names of numbers at any depth that are none."""
    items: Mapping[Any, Any] = {}
    if isinstance(value, dict):
        items = value
    elif isinstance(value, list):
        items = dict(enumerate(value))
    elif isinstance(value, float) and not math.isfinite(value):
        return [name]
    return [bad for key, item in items.items() for bad in _nonfinite(item, f"{name}.{key}" if name else str(key))]
