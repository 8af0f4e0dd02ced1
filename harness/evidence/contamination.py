"""What differs between the runs of an experiment, and should not; and in what an arm differs from its reference."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from harness.evidence.references import reference_of
from harness.evidence.runs import devices, processes_of
from harness.evidence.stats import some
from harness.evidence.store import Arm, Experiment, own_symbols
from harness.evidence.tuned import tuned_of

RUN_SYMBOLS = {"SEED", "DATA_HASH"}
"""Symbols of an identity that are not an arm's own."""


def contamination(experiment: Experiment) -> list[str]:
    """Reasons to distrust the comparisons: what differs between runs and should not. One sentence each."""
    found = []
    for name, fact in _SHARED_FACTS.items():
        runs: dict[Any, list[str]] = {}
        for run in experiment.runs:
            if run.provenance is not None:
                runs.setdefault(fact(run.provenance), []).append(run.name)
        if len(runs) > 1:
            found.append(f"{name} differs between runs: " + "; ".join(f"{v} ({some(of)})" for v, of in runs.items()))
    tuned = tuned_of(experiment)
    chosen = {symbol for choice in (tuned.choices.values() if tuned else ()) for symbol in choice.settings}
    for arm in experiment.arms:
        found += [
            f"{run.name}: {symbol} is {run.provenance['identity'].get(symbol)}, unlike {value} in {arm.runs[0].name}"
            for run in arm.runs
            if run.provenance is not None
            for symbol, value in identity(arm).items()
            if symbol not in RUN_SYMBOLS and run.provenance["identity"].get(symbol) != value
        ]
        other, _ = reference_of(arm, experiment)
        if other is not None:
            # Whether tuned settings are those that were chosen, `tuning_errors` says.
            own = {*own_symbols(arm), *own_symbols(other), *chosen, "ATTENTION"}
            found += [
                f"{arm.step}: {d.symbol} is {d.value}, but {d.reference_value} in its reference {other.step}, and the "
                "step does not ask for that"
                for d in identity_differences(arm, other)
                if None not in (d.value, d.reference_value) and not any(_belongs(s, d.symbol) for s in own)
            ]
    dirty = [run.name for run in experiment.runs if run.provenance is not None and run.provenance["code"]["dirty"]]
    if dirty:
        found.append(f"the code had uncommitted changes, of which provenance.json tells: {some(dirty)}")
    return found


def _products(provenance: dict[str, Any]) -> str:
    """Who made a run's matrix products, in each of its processes. PyTorch, before that was recorded."""
    ran = [part.get("products", {"ran": "torch"})["ran"] for part in processes_of(provenance)]
    return ", then ".join(dict.fromkeys(ran))


_SHARED_FACTS: dict[str, Callable[[dict[str, Any]], Any]] = {
    "data": lambda provenance: str(provenance["data"]["hash"])[:12],
    "device": devices,
    "torch version": lambda provenance: provenance["versions"]["torch"],
    "who made matrix products": _products,
    "code commit": lambda provenance: str(provenance["code"]["commit"])[:12],
}
"""What all runs of an experiment should share, from their provenance."""


def _belongs(asked: str, symbol: str) -> bool:
    """Whether a setting of a step decides a symbol of the identity. ATTENTION_RA_V5 is a member of ATTENTION."""
    return asked == symbol or asked.startswith(f"{symbol}_")


@dataclass(frozen=True, kw_only=True)
class Difference:
    """A setting in which an arm differs from its reference."""

    symbol: str
    value: Any
    """The arm's; None where the setting does not exist for it."""

    reference_value: Any


def identity_differences(arm: Arm, other: Arm) -> list[Difference]:
    """The settings that affect numbers and differ between the first started runs of two arms; seed and data aside.

    A setting that one of them does not have, such as RA_V5_R of a baseline, is part of the variant itself.
    """
    mine, theirs = identity(arm), identity(other)
    symbols = sorted((mine.keys() | theirs.keys()) - RUN_SYMBOLS)
    return [
        Difference(symbol=symbol, value=mine.get(symbol), reference_value=theirs.get(symbol))
        for symbol in symbols
        if mine and theirs and mine.get(symbol) != theirs.get(symbol)
    ]


def identity(arm: Arm) -> dict[str, Any]:
    """Symbol -> value of the settings that affect numbers, of the arm's first run that has begun; empty without one."""
    started = [run.provenance["identity"] for run in arm.runs if run.provenance is not None]
    return dict(started[0]) if started else {}
