"""The report of an experiment: report.md and report.html, from the runs' files alone.

    python -m scripts.report [EXPERIMENT_DIR]

The HTML is one file with its figures inside, and needs no network. Both formats are made of the same `Report`, so that
they cannot disagree. An ablation that is not finished gets a report too, which says so.
"""

from __future__ import annotations

import base64
import re
import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import rich.table
from markupsafe import Markup
from rich.text import Text

from gpt2.base import terminal
from gpt2.base.errors import UserError
from gpt2.base.files import write_text
from gpt2.base.text import showable, shown
from gpt2.dotconfig import load
from harness.configure.requests import Request, asked_plan, requests
from harness.evidence.comparison import Comparison, write_comparison_csv
from harness.evidence.contamination import identity
from harness.evidence.launches import device_hours, launches_of, mean_efficiency, mean_error
from harness.evidence.stats import compare
from harness.evidence.store import Experiment
from harness.evidence.summary_table import write_summary_csv
from harness.report.doubts import doubts
from harness.report.figures import Drawing, draw_figures
from harness.report.numbers import DASH, count
from harness.report.pages import escape_markdown, show, templates
from harness.report.study import registration_facts, sets_table, time_table
from harness.report.tables import (
    IN_COMPUTE,
    ITS_INTERVAL,
    Table,
    arm_table,
    beside_table,
    cost_table,
    differences_table,
    loss_table,
    noise_table,
    run_table,
)
from harness.report.verdict import controls, verdict

PRINTED = ("step", "reference", "n", "Δ loss", "95 % interval", "verdict")
PRINTED_IN_COMPUTE = ("step", "reference", "n", IN_COMPUTE, ITS_INTERVAL, "verdict")
"""Columns of the comparison that a terminal has room for: without a slope, and with one."""


@dataclass(frozen=True, kw_only=True)
class Report:
    """Everything a report says."""

    name: str
    verdict: str
    """One or two sentences: what a reader takes away who reads nothing else."""

    controls: str
    """What became of the controls, as a sentence; empty where nothing is compared."""

    partial: str
    """What is not finished, as a sentence; empty where all is."""

    warnings: Sequence[str]
    facts: Sequence[tuple[str, str]]
    """What was asked: name, value."""

    comparison: Table
    """The losses: what the verdict rests on."""

    tables: Sequence[Table]
    figures: Sequence[Drawing]
    provenance: Sequence[tuple[str, str]]
    commands: Sequence[str]
    """What reproduces the experiment."""


@dataclass(frozen=True, kw_only=True)
class Written:
    """A report, and where it lies."""

    report: Report
    paths: Sequence[Path]


def write_report(experiment: Experiment) -> Written:
    """Write summary.csv, comparison.csv, the figures, report.md and report.html."""
    comparisons = compare(experiment)
    figures = draw_figures(experiment, comparisons)
    report = make_report(experiment, comparisons, figures)
    paths = [write_summary_csv(experiment), write_comparison_csv(experiment, comparisons)]
    for name in ("report.md", "report.html"):
        path = experiment.path / name
        write_text(path, render(report, name))
        paths.append(path)
    return Written(report=report, paths=[*paths, *(path for figure in figures for path in (figure.png, figure.svg))])


def make_report(experiment: Experiment, comparisons: Sequence[Comparison], figures: Sequence[Drawing]) -> Report:
    """Put into words what an experiment has shown so far."""
    losses = [c for c in comparisons if c.metric.name == "val_loss"]
    missing, unknown = _missing(experiment)
    return Report(
        name=experiment.name,
        verdict=verdict(experiment, losses),
        controls=controls(experiment, losses),
        partial=_partial(experiment, missing),
        warnings=[*unknown, *doubts(experiment)],
        facts=_facts(experiment),
        comparison=loss_table(experiment, losses),
        tables=[
            *filter(None, [beside_table(experiment)]),
            *filter(None, [sets_table(experiment, comparisons), noise_table(experiment, comparisons)]),
            *filter(None, [time_table(experiment, losses)]),
            cost_table(experiment, comparisons),
            arm_table(experiment),
            differences_table(experiment),
            run_table(experiment),
        ],
        figures=figures,
        provenance=_provenance(experiment),
        commands=_commands(experiment),
    )


def render(report: Report, name: str) -> str:
    """The text of "report.md" or "report.html"."""
    is_html = name.endswith(".html")
    # Markdown has no escaping of jinja's: everything that is put into the template passes through ours instead.
    environment = templates(html=is_html, finalize=show if is_html else escape_markdown)
    environment.filters["data_uri"] = _data_uri
    return environment.get_template(f"{name}.j2").render(report=report)


def print_report(report: Report) -> None:
    """Print the comparison, what speaks against it and the verdict. Fits 80 columns; the files hold the rest."""
    console = terminal.console()
    comparison = report.comparison
    printed = PRINTED_IN_COMPUTE if IN_COMPUTE in comparison.columns else PRINTED
    places = [comparison.columns.index(column) for column in printed]
    table = rich.table.Table(title=comparison.title, title_justify="left", box=None, pad_edge=False)
    for index in places:
        is_text = index < comparison.text_columns
        table.add_column(comparison.columns[index], justify="left" if is_text else "right", no_wrap=not is_text)
    for row in comparison.rows:
        table.add_row(*(Text(showable(row[index])) for index in places))
    if comparison.rows:
        console.print(table)
    for sentence in (*(f"warning: {warning}" for warning in report.warnings), report.partial, report.controls):
        if sentence:
            console.print(Text(showable(sentence)))
    console.print(Text(showable(report.verdict), style="bold"))


def _data_uri(path: Path) -> Markup:
    """An SVG file as the address of an image. An image of its own keeps its ids and styles to itself."""
    # Base64 has nothing to escape.
    return Markup(f"data:image/svg+xml;base64,{base64.b64encode(path.read_bytes()).decode()}")  # noqa: S704


# What was asked, and what went wrong


def _partial(experiment: Experiment, missing: Sequence[str]) -> str:
    done = sum(run.status == "done" for run in experiment.runs)
    open_runs = [f"{run.name} ({run.status})" for run in experiment.runs if run.status != "done"]
    open_runs += [f"{name} (not started)" for name in missing]
    if not open_runs:
        return ""
    return f"This report is partial: {count(done, 'run')} done, {len(open_runs)} not: {', '.join(open_runs)}."


def _missing(experiment: Experiment) -> tuple[list[str], list[str]]:
    """Names of the runs that were asked for and have no directory, and a warning where that cannot be told."""
    try:
        if not requests(experiment.path):  # trained by hand: nothing else was asked for
            return [], []
        planned = asked_plan(experiment.path, load).runs
    except UserError as error:
        return [], [f"whether runs are missing cannot be told, this code no longer takes their configuration: {error}"]
    there = {run.name for run in experiment.runs}
    return [run.name for run in planned if run.name not in there], []


def _facts(experiment: Experiment) -> list[tuple[str, str]]:
    started = [run for run in experiment.runs if run.provenance is not None]
    facts = [
        ("Arms", "; ".join(arm.title for arm in experiment.compared)),
        ("Seeds", ", ".join(map(str, sorted({run.seed for run in experiment.runs})))),
    ]
    facts += registration_facts(experiment)
    dates = [f"{request.when:%Y-%m-%d %H:%M} UTC" for request in _requests(experiment) if request.when]
    if dates:
        facts.append(("Asked", ", ".join(dates)))
    if started:
        provenance = started[0].provenance or {}
        data = provenance["data"]
        names = f"{shown(data['dataset'])}, tokenizer {shown(data['tokenizer'])}"
        facts.append(("Data", f"{names}, {data['train_tokens']:,} tokens"))
        shapes = dict.fromkeys(_shape(identity(arm)) for arm in experiment.arms)
        facts.append(("Model", "; ".join(filter(None, shapes)) or DASH))
    facts.append(("Parameters", _range(experiment, "params", "{:,.0f}")))
    facts.append(("Tokens per run", _range(experiment, "tokens", "{:,.0f}")))
    facts.append(("Steps per run", _range(experiment, "iters", "{:,.0f}")))
    return facts + _launches(experiment)


def _launches(experiment: Experiment) -> list[tuple[str, str]]:
    """What its makes took, trials and runs on noise included, and how far `make estimate` was off; nothing where that
    cannot be told."""
    try:
        launches = launches_of(experiment.path)
    except UserError:
        return []
    if not launches:
        return []
    text = f"{len(launches)}; {device_hours(launches):.3g} device hours"
    if (efficiency := mean_efficiency(launches)) is not None:
        text += f", efficiency {efficiency:.2f}"
    if found := mean_error(launches):
        estimates, error = found
        text += f"; {count(estimates, 'estimate')}, off by {error:.0%} on average"
    return [("Launches", text)]


def _requests(experiment: Experiment) -> list[Request]:
    """What has been asked of an experiment; nothing where that is damaged, which a warning says."""
    try:
        return requests(experiment.path)
    except UserError:
        return []


def _shape(settings: dict[str, Any]) -> str:
    return ", ".join(f"{shown(settings[symbol])} {word}" for symbol, word in _SHAPE if symbol in settings)


_SHAPE = [("N_LAYER", "layers"), ("N_HEAD", "heads"), ("N_EMBD", "wide"), ("BLOCK_SIZE", "tokens of context")]


def _range(experiment: Experiment, metric: str, form: str) -> str:
    """The value that finished runs share, or the range of their values."""
    values = {v for run in experiment.runs if run.status == "done" and (v := run.value(metric)) is not None}
    return " to ".join(form.format(v) for v in dict.fromkeys([min(values), max(values)])) if values else DASH


def _provenance(experiment: Experiment) -> list[tuple[str, str]]:
    """Each fact with every value that occurs in the experiment."""
    started = [run.provenance for run in experiment.runs if run.provenance is not None]

    def values(get: Callable[[dict[str, Any]], object]) -> str:
        return "; ".join(dict.fromkeys(shown(get(p)) for p in started if get(p) is not None)) or DASH

    versions = dict.fromkeys(name for p in started for name in p["versions"])
    return [
        ("Commit", values(lambda p: f"{p['code']['commit']}{' with uncommitted changes' * bool(p['code']['dirty'])}")),
        ("Device", values(lambda p: p["hardware"]["device_name"])),
        ("Processor", values(lambda p: f"{p['hardware']['cpu']}, {p['hardware']['cores']} cores")),
        ("Driver", values(lambda p: p["hardware"]["driver"])),
        *((name, values(lambda p, name=name: p["versions"].get(name))) for name in versions),  # type: ignore[misc]
        ("Data hash", values(lambda p: p["data"]["hash"])),
        ("Started", min((str(p["started"]) for p in started), default=DASH)),
    ]


_COMMIT = re.compile(r"[0-9a-f]{7,64}")


def _commands(experiment: Experiment) -> list[str]:
    # Somebody will paste these into a shell, and some of the records may be somebody else's.
    commits = {str(run.provenance["code"]["commit"]) for run in experiment.runs if run.provenance is not None}
    checkout = [f"git checkout {commit}" for commit in sorted(filter(_COMMIT.fullmatch, commits))[:1]]
    directory = Path(experiment.settings.get("RESULTS_DIR", "results")) / experiment.name
    asked = [request.path.relative_to(experiment.path) for request in _requests(experiment)] or [Path("config")]
    train = []
    for config in asked:
        copy = f"cp -- {shlex.quote(showable(str(directory / config)))} .config"
        train += [copy, "make check", "make MODEL_NAME=again"]
    return [*checkout, *train, "make report MODEL_NAME=again"]
