"""Two experiments side by side: in what they differ, and which of their effects may be compared.

    found = side_by_side(load_experiment(Path("results/a")), load_experiment(Path("results/b")))

An effect is a step's against its reference. It may be compared between experiments where both have the same step and
the same reference, which differ in the same settings in both, and where it is told in the same unit: in compute, or in
nats per token where the reference is the same run but for its seed. Everything else the two experiments differ in, such
as the data or the length, is what the comparison is about.

The two are taken for independent: harness/evidence/unpaired.py has the interval of their difference.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import rich.table
from rich.text import Text

from gpt2.base import terminal
from gpt2.base.text import showable, shown
from harness.evidence.comparison import Comparison
from harness.evidence.contamination import identity, identity_differences
from harness.evidence.runs import devices
from harness.evidence.stats import compare
from harness.evidence.store import Arm, Experiment
from harness.evidence.unpaired import Estimate, mover, welch
from harness.report.numbers import DASH, effect_bounds, percent, setting, signed
from harness.report.pages import escape_markdown, templates
from harness.report.tables import Table


@dataclass(frozen=True, kw_only=True)
class SideBySide:
    """What there is to be said of two experiments."""

    names: tuple[str, str]
    """The directories of A and B."""

    tables: Sequence[Table]
    """Settings, code and machines, effects, and what cannot be compared."""


def side_by_side(a: Experiment, b: Experiment) -> SideBySide:
    """Compare two experiments. Raises UserError as `compare` does."""
    effects, apart = _effects(a, b)
    return SideBySide(
        names=(str(a.path), str(b.path)),
        tables=[_settings_table(a, b), _origin_table(a, b), effects, apart],
    )


# Settings, code and machines


def _settings_table(a: Experiment, b: Experiment) -> Table:
    """Settings that differ between arms of one name; those that differ alike in all of them once."""
    shared = [(x, y) for x in a.compared for y in b.compared if x.step == y.step]
    found: dict[tuple[str, str, str], list[str]] = {}
    for x, y in shared:
        mine, theirs = (_all_settings(arm) for arm in (x, y))
        for symbol in sorted(mine.keys() | theirs.keys()):
            if mine.get(symbol) != theirs.get(symbol):
                values = (symbol, setting(mine.get(symbol)), setting(theirs.get(symbol)))
                found.setdefault(values, []).append(x.step)
    rows = [
        [symbol, mine, theirs, "all" if len(steps) == len(shared) else ", ".join(steps)]
        for (symbol, mine, theirs), steps in found.items()
    ]
    rows += [
        [symbol, *map(setting, asked), "the experiment"]
        for symbol in sorted(a.settings.keys() | b.settings.keys())
        if symbol.startswith(("STUDY_", "ABLATION_"))
        if len(set(asked := [e.settings.get(symbol) for e in (a, b)])) > 1
    ]
    return Table(title="Settings that differ", columns=["setting", "A", "B", "in arms"], rows=rows, text_columns=4)


def _all_settings(arm: Arm) -> dict[str, Any]:
    """An arm's identity without its seed, the data by the beginning of its hash."""
    found = identity(arm)
    if "DATA_HASH" in found:
        found["DATA_HASH"] = str(found["DATA_HASH"])[:12]
    return {symbol: value for symbol, value in found.items() if symbol != "SEED"}


_ORIGINS: Mapping[str, Callable[[dict[str, Any]], Any]] = {
    "commit": lambda p: f"{str(p['code']['commit'])[:12]}{' with changes' * bool(p['code']['dirty'])}",
    "device": devices,
    "processor": lambda p: p["hardware"].get("cpu"),
    "threads": lambda p: p["hardware"].get("threads"),
    "driver": lambda p: p["hardware"].get("driver"),
}


def _origin_table(a: Experiment, b: Experiment) -> Table:
    """Code, machines and versions that differ, each with every value that occurs."""
    started = [[run.provenance for run in e.runs if run.provenance is not None] for e in (a, b)]
    versions = dict.fromkeys(name for of in started for provenance in of for name in provenance["versions"])
    facts = dict(_ORIGINS) | {name: lambda p, name=name: p["versions"].get(name) for name in versions}
    rows = []
    for name, fact in facts.items():
        values = ["; ".join(dict.fromkeys(setting(fact(provenance)) for provenance in of)) for of in started]
        if values[0] != values[1]:
            rows.append([name, *(value or DASH for value in values)])
    return Table(title="Code and machines that differ", columns=["of", "A", "B"], rows=rows, text_columns=3)


# Effects


def _effects(a: Experiment, b: Experiment) -> tuple[Table, Table]:
    """The effects that may be compared, and what may not, with the reason."""
    mine, theirs = (_losses(experiment) for experiment in (a, b))
    rows, apart = [], []
    for step in dict.fromkeys([*mine, *theirs]):
        x, y = mine.get(step), theirs.get(step)
        if x is None or y is None:
            there, missing, other = ("A", "B", b) if y is None else ("B", "A", a)
            is_there = any(arm.step == step for arm in other.arms)
            apart.append([step, f"has no reference in {missing}" if is_there else f"is in {there} alone"])
            continue
        reason = next(_reasons(x, y, a, b), None)
        if reason is not None:
            apart.append([step, reason])
            continue
        rows.append([_title(step, a), *_cells(x, y)])
    note = (
        "Step against reference: what it is worth in compute, or else the difference in nats/token; 95 % "
        "intervals. B - A: by seeds that are not paired; different: its interval leaves out 0."
    )
    return (
        Table(title="Effects", columns=["step", "A", "B", "B - A", "different"], rows=rows, note=note),
        Table(title="What cannot be compared", columns=["step", "why"], rows=apart, text_columns=2),
    )


def _losses(experiment: Experiment) -> dict[str, Comparison]:
    """By step, its comparison in validation loss; of several, the first, which is what was registered."""
    found: dict[str, Comparison] = {}
    for c in compare(experiment):
        if c.metric.name == "val_loss":
            found.setdefault(c.step, c)
    return found


def _title(step: str, experiment: Experiment) -> str:
    return next(arm.title for arm in experiment.arms if arm.step == step)


def _reasons(x: Comparison, y: Comparison, a: Experiment, b: Experiment) -> Iterator[str]:
    """Why two experiments' effects of a step may not be compared; nothing where they may."""
    if x.reference != y.reference:
        yield f"its reference is {x.reference} in A, and {y.reference} in B"
        return
    for name, c in (("A", x), ("B", y)):
        if c.verdict == "not comparable":
            yield f"is not comparable with its reference in {name}: {c.note}"
        elif c.n < 2:
            yield f"has {c.n or 'no'} finished pair{'s' * (c.n == 0)} in {name}: two are the least"
    mine, theirs = (_contrast(c, e) for c, e in ((x, a), (y, b)))
    for symbol in sorted(mine.keys() | theirs.keys()):
        if mine.get(symbol) != theirs.get(symbol):
            values = (setting(of.get(symbol)) for of in (mine, theirs))
            yield f"is another arm: {symbol} is {' in A, and '.join(values)} in B"
    if x.compute is None or y.compute is None:
        without = [name for name, c in (("A", x), ("B", y)) if c.compute is None]
        references = [_all_settings(_arm(c.reference, e)) for c, e in ((x, a), (y, b))]
        for symbol in sorted(references[0].keys() | references[1].keys()):
            if references[0].get(symbol) != references[1].get(symbol):
                yield (
                    f"there is no slope in {' and '.join(without)} to tell it in compute, and nats are not the same "
                    f"where {symbol} differs"
                )


def _contrast(c: Comparison, experiment: Experiment) -> dict[str, Any]:
    """Symbol -> the step's value, of the settings in which it differs from its reference."""
    pair = (_arm(step, experiment) for step in (c.step, c.reference))
    return {d.symbol: d.value for d in identity_differences(*pair)}


def _arm(step: str, experiment: Experiment) -> Arm:
    return next(arm for arm in experiment.arms if arm.step == step)


def _cells(x: Comparison, y: Comparison) -> list[str]:
    """Both effects and their difference, and whether that is shown."""
    if x.compute is not None and y.compute is not None:
        (low, high), (their_low, their_high) = effect_bounds(x), effect_bounds(y)
        mine = Estimate(value=x.compute, low=low, high=high)
        theirs = Estimate(value=y.compute, low=their_low, high=their_high)
        difference = mover(mine, theirs)
        say: Callable[[float | None], str] = percent
    else:
        mine, theirs = (Estimate(value=c.delta_mean, low=c.ci_low, high=c.ci_high) for c in (x, y))  # type: ignore[arg-type]
        difference, say = welch(list(x.deltas.values()), list(y.deltas.values())), _nats
    is_different = difference.low > 0 or difference.high < 0
    return [*(_said(e, say) for e in (mine, theirs, difference)), "yes" if is_different else "not shown"]


def _said(e: Estimate, say: Callable[[float | None], str]) -> str:
    return shown(f"{say(e.value)} ({say(e.low)} to {say(e.high)})")


def _nats(value: float | None) -> str:
    return signed(value, 4)


# Showing it


def print_comparison(found: SideBySide) -> None:
    """Print it. Fits 80 columns."""
    console = terminal.console()
    for name, path in zip("AB", found.names, strict=True):
        console.print(Text(showable(f"{name}: {path}")))
    for of in found.tables:
        console.print()
        if not of.rows:
            console.print(Text(f"{of.title}: none"))
            continue
        table = rich.table.Table(title=of.title, title_justify="left", box=None, pad_edge=False)
        for column in of.columns:
            table.add_column(column, overflow="fold")
        for row in of.rows:
            table.add_row(*(Text(showable(cell)) for cell in row))
        console.print(table)
        if of.note:
            console.print(Text(of.note))


def render_comparison(found: SideBySide) -> str:
    """It, as Markdown."""
    environment = templates(html=False, finalize=escape_markdown)
    return environment.get_template("compare.md.j2").render(found=found)
