"""One configuration trained by one process, and by several: tokens/s, memory, and how far the losses part.

The trainer's own command trains it each time, and what it wrote is read back.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.figure import Figure

from gpt2.assignments import Assignment
from gpt2.base.errors import UserError
from gpt2.base.files import ROOT
from gpt2.dotconfig import resolve
from gpt2.run.records import read_metrics, read_provenance, read_summary
from harness.measure.loss_curves_figure import name_axes
from harness.measure.timing import Times
from harness.report.style import COLOURS, DASHES, STYLE, WIDTH, Drawing, Sketch, write_sketch


@dataclass(frozen=True, kw_only=True)
class Trained:
    """A run, as one process or several trained it."""

    label: str
    processes: int
    strategy: str | None
    """Of the processes where there are several."""

    ms_per_step: Times
    """Of the lines of its log, without the first."""

    tokens_per_s: Times
    mfu: float | None
    peak_mem_gib: float
    """The largest of a process."""

    startup_s: float
    train_loss: dict[int, float]
    """Step -> mean loss of the steps since the last one."""

    val_loss: dict[int, float]


@dataclass(frozen=True, kw_only=True)
class Beside:
    """A run beside the first."""

    label: str
    speed: float
    """Its tokens/s as a multiple."""

    efficiency: float
    """That divided by how many times as many processes it has."""

    mean_abs: float
    """Of the differences of the training loss, nats/token."""

    max_abs: float
    last: float
    """Its last difference, with its sign."""

    val_loss: float
    """Difference of the last evaluation."""


def train(settings: Sequence[Assignment], processes: int, folder: Path, number: int) -> Trained:
    """Train what `settings` say with so many processes below `folder`. UserError, with its log, where that fails."""
    out = folder / f"{number}-of-{processes}"
    config = folder / f"{out.name}.config"
    strategies = [a for a in settings if a.symbol.startswith("PARALLEL_")]
    those = [a for a in settings if a not in strategies or processes > 1]
    resolve([*those, Assignment("PROCESSES_PER_RUN", str(processes), "--processes")]).write(config)
    log = folder / f"{out.name}.log"
    with log.open("wb") as file:
        trainer = [sys.executable, str(ROOT / "gpt2" / "train_ra_mla.py"), "--config", str(config), "--out", str(out)]
        status = subprocess.run(trainer, stdout=file, stderr=subprocess.STDOUT, cwd=ROOT).returncode
    if status != 0:
        last = (log.read_text(errors="replace").strip().splitlines() or ["printed nothing"])[-1]
        raise UserError(f"{processes} processes: {last}")
    parallel = read_provenance(out / "provenance.json")["parallel"]
    return _read(out, number, parallel)


def _read(out: Path, number: int, parallel: dict[str, Any]) -> Trained:
    lines = read_metrics(out / "metrics.jsonl")
    summary = read_summary(out / "summary.json")
    timed = [line for line in lines if line["kind"] == "train"]
    processes, strategy = parallel["processes"], parallel["strategy"]
    by = "1 process" if processes == 1 else f"{processes} processes, {strategy}"
    return Trained(
        label=f"{number}: {by}",
        processes=processes,
        strategy=strategy,
        ms_per_step=Times.of([line["ms_per_step"] for line in timed[1:]]),
        tokens_per_s=Times.of([line["tokens_per_s"] for line in timed[1:]]),
        mfu=summary["mfu"],
        peak_mem_gib=summary["peak_mem_gib"],
        startup_s=summary["startup_s"],
        train_loss={line["step"]: line["loss"] for line in timed},
        val_loss={line["step"]: line["val_loss"] for line in lines if line["kind"] == "eval"},
    )


def beside(first: Trained, other: Trained) -> Beside:
    """How `other` did beside `first`."""
    apart = differences(first, other)
    speed = other.tokens_per_s.median / first.tokens_per_s.median
    last = max(first.val_loss)
    return Beside(
        label=other.label,
        speed=speed,
        efficiency=speed * first.processes / other.processes,
        mean_abs=statistics.fmean(map(abs, apart)),
        max_abs=max(map(abs, apart)),
        last=apart[-1],
        val_loss=other.val_loss[last] - first.val_loss[last],
    )


def differences(first: Trained, other: Trained) -> list[float]:
    """Of the training losses, line by line."""
    return [other.train_loss[step] - loss for step, loss in first.train_loss.items()]


def draw(runs: Sequence[Trained], png: Path) -> Drawing:
    """The loss curves over each other, and below them how far they lie apart, as PNG and as SVG beside it."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, 4.6))
        upper, lower = figure.subplots(2, 1, sharex=True)
        for place, run in enumerate(runs):
            look: dict[str, Any] = {"color": COLOURS[place % len(COLOURS)], "linestyle": DASHES[place % len(DASHES)]}
            upper.plot(list(run.train_loss), list(run.train_loss.values()), label=run.label, **look)
            if place > 0:
                apart = [abs(d) for d in differences(runs[0], run)]
                label = run.label + ("" if any(apart) else ": none")
                lower.plot(list(run.train_loss), apart, label=label, marker=".", markersize=2, **look)
        name_axes(upper, lower, runs[0].label)
        caption = (
            "The same batches, dealt to other numbers of processes. Below: absolute differences; none is left out."
        )
        sketch = Sketch(name=png.stem, title="One run by several processes", caption=caption, figure=figure)
        return write_sketch(sketch, png.parent)
