"""The figures with a setting on the x axis: effects over a sweep, and what tuning tried."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullLocator

from harness.configure.kconfig import SIZE
from harness.configure.tuning import TUNED, parse_tuned
from harness.evidence.comparison import Comparison
from harness.evidence.store import Arm, Experiment
from harness.evidence.verdicts import margin_of
from harness.report.numbers import effect_bounds, percent
from harness.report.style import WIDTH, Sketch, draw_interval, legend_below, look_of, robust_limits, short

_LOG_FROM = 4.0
"""A sweep whose greatest value is so many times its least gets a logarithmic axis, if all are above zero."""


def sweep_figures(experiment: Experiment, comparisons: Sequence[Comparison]) -> list[Callable[[], Sketch | None]]:
    """A figure for each symbol that was swept over numbers, or over sizes: effect against value."""
    losses = [c for c in comparisons if c.metric.name == "val_loss" and c.n > 0]
    symbols = dict.fromkeys(label.split("=")[0] for arm in experiment.arms for label in arm.step.split("@")[1:])
    return [lambda symbol=symbol: _sweep_figure(experiment, losses, symbol) for symbol in symbols]  # type: ignore[misc]


def _sweep_figure(experiment: Experiment, losses: Sequence[Comparison], symbol: str) -> Sketch | None:
    """None where nothing has two values to be compared at."""
    arms = {arm.step: arm for arm in experiment.arms}
    in_compute = any(c.compute is not None for c in losses)
    known = [(arms[c.step], c) for c in losses if not in_compute or c.compute is not None]
    lines = [line for line in _by_rest(known, symbol).values() if len(line) > 1]
    if not lines:
        return None
    bounds = [{x: _bounds(c, in_compute=in_compute) for x, c in line.items()} for line in lines]
    limits = robust_limits(
        [mean for line in bounds for _, mean, _ in line.values()],
        [(low, high) for line in bounds for low, _, high in line.values()],
    )
    figure = Figure(figsize=(WIDTH, 3.0))
    axes = figure.subplots()
    values = sorted({x for line in lines for x in line})
    is_log = _value_axis(axes, values, values, symbol)
    axes.axhline(0, color="black", linewidth=0.8)
    if in_compute:
        margin = margin_of(experiment)
        axes.axhspan(-margin, margin, color="#000000", alpha=0.09, linewidth=0)
        axes.yaxis.set_major_formatter(FuncFormatter(lambda share, _: percent(share)))
    for i, (line, of) in enumerate(zip(lines, bounds, strict=True)):
        first = arms[next(iter(line.values())).step]
        look = look_of(first, experiment)
        at = {x: _beside(x, i, len(lines), values, is_log=is_log) for x in sorted(of)}
        means = [of[x][1] for x in at]
        axes.plot(list(at.values()), means, **look, linewidth=0.9, label=short(_rest_title(first, symbol)))
        for x, place in at.items():
            draw_interval(axes, place, of[x], limits, look, upright=True)
    axes.set_ylim(*limits)
    axes.set_ylabel("worth in compute" if in_compute else "difference in final\nvalidation loss (nats/token)")
    legend_below(figure, axes)
    what = "Worth in compute" if in_compute else "Difference in final validation loss"
    by = "number of parameters" if symbol == SIZE else symbol
    same = f"within the grey margin of {100 * margin_of(experiment):.3g} % two arms count as the same; " * in_compute
    return Sketch(
        name=f"sweep-{symbol.lower()}",
        title=f"Effect against {symbol}",
        caption=f"{what} against the reference, by {by}: mean and 95 % interval; {same}an arrow marks an interval that "
        "leaves the picture.",
        figure=figure,
    )


def _bounds(c: Comparison, *, in_compute: bool) -> tuple[float, float, float]:
    """Low, mean and high of an effect; of a single pair's loss three times its difference."""
    if in_compute:
        assert c.compute is not None
        low, high = effect_bounds(c)
        return low, c.compute, high
    assert c.delta_mean is not None
    if c.ci_low is None or c.ci_high is None:
        return c.delta_mean, c.delta_mean, c.delta_mean
    return c.ci_low, c.delta_mean, c.ci_high


def _by_rest(of: Sequence[tuple[Arm, Comparison]], symbol: str) -> dict[str, dict[float, Comparison]]:
    """For each arm without its label of `symbol`: place on the axis -> what there is at it."""
    lines: dict[str, dict[float, Comparison]] = {}
    for arm, comparison in of:
        place = place_of(arm, symbol)
        if place is not None:
            lines.setdefault(_rest(arm, symbol), {}).setdefault(place, comparison)
    return lines


def place_of(arm: Arm, symbol: str) -> float | None:
    """Where an arm lies on the axis of a swept symbol: its value, or of a SIZE the parameters; None if that is no
    number."""
    label = next((label for label in arm.swept if label.startswith(f"{symbol}=")), None)
    if label is None:
        return None
    if symbol == SIZE:
        return next((params for run in arm.runs if (params := run.value("params")) is not None), None)
    return _number(label.partition("=")[2])


def _number(text: str) -> float | None:
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def _rest(arm: Arm, symbol: str) -> str:
    """An arm's name without its label of a symbol."""
    base, *labels = arm.step.split("@")
    return "@".join([base, *(label for label in labels if not label.startswith(f"{symbol}="))])


def _rest_title(arm: Arm, symbol: str) -> str:
    rest = Arm(step=_rest(arm, symbol), runs=arm.runs)
    return rest.title


def _value_axis(axes: Axes, values: Sequence[float], ticks: Sequence[float], symbol: str) -> bool:
    """Put ticks on an axis of values, a logarithmic one where they are spread like that. Returns whether they are."""
    is_log = min(values) > 0 and max(values) / min(values) >= _LOG_FROM
    if is_log:
        axes.set_xscale("log")
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xticks(list(ticks), [f"{value / 1e6:.4g} M" if symbol == SIZE else f"{value:.6g}" for value in ticks])
    axes.set_xlabel("parameters" if symbol == SIZE else symbol)
    return is_log


def _beside(x: float, i: int, lines: int, values: Sequence[float], *, is_log: bool) -> float:
    """`x` moved a little for the i-th of several lines, so that their intervals stand side by side."""
    off = 0.015 * (i - (lines - 1) / 2)
    if is_log:
        return float(x * (max(values) / min(values)) ** off)
    return x + off * (max(values) - min(values))


# Tuning


@dataclass(frozen=True, kw_only=True)
class Tuned:
    """What one arm's trials say of one symbol."""

    step: str
    """Of the experiment."""

    symbol: str
    losses: dict[str, float]
    """Value -> validation loss, mean over the seeds, the best over what else was tried; values ascending. Without those
    at which every trial diverged."""

    best: str
    """The value that was chosen."""

    at_edge: bool
    """Whether that is the least or the greatest value that was tried."""


def tuned(experiment: Experiment) -> list[Tuned]:
    """What tuned.json says of each arm and each symbol that was tuned over numbers; nothing where there is none.

    Raises UserError where it is damaged.
    """
    path = experiment.path / TUNED
    found = []
    for step, choice in (parse_tuned(path).choices if path.exists() else {}).items():
        for symbol, best in choice.settings.items():
            losses: dict[str, float] = {}
            for trial in choice.trials:
                value = trial.settings.get(symbol, "")
                if trial.val_loss is not None and _number(value) is not None:
                    losses[value] = min(losses.get(value, math.inf), trial.val_loss)
            if len(losses) > 1:
                ascending = dict(sorted(losses.items(), key=lambda of: float(of[0])))
                at_edge = symbol in choice.at_edge
                found.append(Tuned(step=step, symbol=symbol, losses=ascending, best=best, at_edge=at_edge))
    return found


def edges(experiment: Experiment) -> list[str]:
    """A sentence for each symbol of which an arm's best value is the least or the greatest that was tried."""
    at_edge: dict[str, list[Tuned]] = {}
    for t in tuned(experiment):
        if t.at_edge:
            at_edge.setdefault(t.symbol, []).append(t)
    return [
        f"{symbol}: what was chosen is at the edge of what was tried, {min(values, key=float)} to "
        f"{max(values, key=float)}, for {', '.join(f'{t.step} ({t.best})' for t in found)}"
        for symbol, found in at_edge.items()
        if (values := [value for t in found for value in t.losses])
    ]


def tuning_figure(experiment: Experiment) -> Sketch | None:
    """Loss against each tuned symbol, a line for each step; None where nothing has two values with a loss."""
    arms = {arm.step: arm for arm in experiment.arms}
    found = tuned(experiment)
    symbols = list(dict.fromkeys(t.symbol for t in found))
    if not symbols:
        return None
    # Of what was tried between those there may be many, and close together.
    asked = {
        symbol: {number for value in values if (number := _number(value)) is not None}
        for symbol, values in parse_tuned(experiment.path / TUNED).asked
    }
    figure = Figure(figsize=(WIDTH, 0.4 + 2.5 * len(symbols)))
    panels = figure.subplots(len(symbols), 1, squeeze=False)[:, 0]
    # Of an arm that is tuned and has no run yet there is the name alone.
    arms |= {t.step: Arm(step=t.step, runs=()) for t in found if t.step not in arms}
    coloured = replace(experiment, arms=tuple(arms.values()))
    for axes, symbol in zip(panels, symbols, strict=True):
        of_symbol = [t for t in found if t.symbol == symbol]
        values = sorted({float(value) for t in of_symbol for value in t.losses})
        _value_axis(axes, values, sorted(asked.get(symbol, set()).intersection(values)), symbol)
        for t in of_symbol:
            look = look_of(arms[t.step], coloured)
            label = short(arms[t.step].title + " (chosen at the edge)" * t.at_edge)
            axes.plot([float(v) for v in t.losses], list(t.losses.values()), **look, label=label)
            size, width = (13, 1.6) if t.at_edge else (10, 0.9)
            at = float(t.best), t.losses[t.best]
            axes.plot(*at, "o", markersize=size, markerfacecolor="none", markeredgewidth=width, color=look["color"])
        axes.set_ylabel("validation loss (nats/token)")
        axes.margins(x=0.05, y=0.12)
        axes.legend(loc="upper left", bbox_to_anchor=(1.01, 1.0), borderaxespad=0.0)
    warned = edges(experiment)
    return Sketch(
        name="tuning",
        title="What tuning tried",
        caption="Validation loss of the trials, mean over their seeds, the best over whatever else was tried at a "
        "value. The ring marks what was chosen for each arm"
        + (f", a thick one where it is at an edge: {'; '.join(warned)}." if warned else "."),
        figure=figure,
    )
