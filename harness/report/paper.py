"""The technical report: prose written by hand, every measured number an expression over what is committed.

    python -m scripts.paper [--pdf]

The template is docs/technical-report.md.j2; the same files give the same text, to the character. An experiment that
is not there yet has one sentence in its place, and its section once its directory is there.
"""

from __future__ import annotations

import re
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import jinja2

from gpt2.base.errors import UserError
from gpt2.base.files import ROOT, read_json
from gpt2.base.numbers import decimal
from harness.evidence.paired import ALPHA, POWER
from harness.evidence.store import run_directories
from harness.report.kv_memory import kv_memory
from harness.report.numbers import MINUS, effect_interval, percent, signed
from harness.report.pages import TEMPLATES
from harness.report.paper_answer import answer
from harness.report.paper_rates import lower_at_higher_rate, pairs_won, rates_table
from harness.report.paper_study import Study
from harness.report.tables import Table

DOCS = ROOT / "docs"
TEMPLATE = DOCS / "technical-report.md.j2"
MARKDOWN = DOCS / "technical-report.md"

EXPERIMENTS = {
    "controls": "h100/gpt2-controls",
    "noise": "h100/gpt2-noise",
    "study": "h100/gpt2-ra-v5-study-2",
    "first_study": "h100/gpt2-ra-v5-study",
    "ladder": "h100/gpt2-ra-v5-ladder",
    "full_size": "h100/gpt2-ra-v5-124m",
    "bytes": "cpu/gpt2-ra-v5-bytes",
}
"""Experiments by the template's names, below results/. One more is a line here and one in the template."""

MEASUREMENTS = {
    "attention": "h100/attention.json",
    "training": "h100/training.json",
    "training_compiled": "h100/training-compiled.json",
    "training_b64": "h100/training-b64.json",
    "parity": "h100/parity.json",
    "quality": "h100/quality.json",
    "noise_readings": "h100/noise.json",
    "rules": "cpu/rules.json",
}
"""Records of single measurements, likewise."""

PLAN = "ra-v5-plan.json"
"""Figures quoted from the RA v5 plan, in docs/."""

ANSWERS = ("study", "controls")
"""The experiment that gives the answer: the first of these that is there."""


@dataclass(frozen=True, kw_only=True)
class Paper:
    """Everything the report is made of."""

    results: Path = ROOT / "results"
    template: Path = TEMPLATE

    @cached_property
    def experiments(self) -> Mapping[str, Study | None]:
        """By the template's names; None where an experiment has not been run. Raises UserError where one is damaged."""
        paths = {name: self.results / place for name, place in EXPERIMENTS.items()}
        return {name: Study(path) if run_directories(path) else None for name, path in paths.items()}

    @cached_property
    def measured(self) -> Mapping[str, Any]:
        """By the template's names. Raises UserError where one is missing or damaged."""
        return {name: read_json(self.results / place) for name, place in MEASUREMENTS.items()}

    @property
    def date(self) -> str:
        """When the last of what it rests on began, in UTC: it does not get newer by being rendered again."""
        dates = [str(of["started"])[:10] for of in self.measured.values() if "started" in of]
        began = [study.last_began for study in self.experiments.values() if study]
        return max([*dates, *(f"{when:%Y-%m-%d}" for when in began if when)])

    @property
    def answering(self) -> tuple[str, Study]:
        """The experiment that the answer is from, and its name here. UserError where none of them is there."""
        for name in ANSWERS:
            if study := self.experiments[name]:
                return name, study
        raise UserError(f"{self.results / EXPERIMENTS[ANSWERS[-1]]}: holds no runs, and the answer is from them")

    def answer(self) -> str:
        """What RA v5 is worth, in one to three sentences. README has it too."""
        _, study = self.answering
        return answer(study)

    def figure(self) -> Path:
        """The picture of that answer."""
        _, study = self.answering
        path = study.figure("effects")
        if path is None:
            raise UserError(f"{study.path / 'figures/effects.png'}: is not here: `make plots` draws it")
        return path

    def render(self) -> str:
        """The report in Markdown. UserError where the template names what there is not."""
        environment = jinja2.Environment(
            loader=jinja2.FileSystemLoader([self.template.parent, TEMPLATES]),
            autoescape=False,  # noqa: S701 - Markdown, of files that are ours
            trim_blocks=True,
            lstrip_blocks=True,
            keep_trailing_newline=True,
            undefined=jinja2.StrictUndefined,
        )
        environment.filters |= {"percent": percent, "signed": signed, "decimal": _decimal, "interval": effect_interval}
        environment.filters |= {"link": self.link, "table": markdown_table}
        environment.globals |= {"the": the, "kv_memory": kv_memory, "answer_of": answer, "rates_table": rates_table}
        environment.globals |= {"lower_at_higher_rate": lower_at_higher_rate, "pairs_won": pairs_won}
        name, study = self.answering
        facts = {
            **{"date": self.date, "answer": self.answer(), "answering": study, "answering_name": name},
            **{"figure": self.figure(), "experiments": self.experiments, "paths": EXPERIMENTS},
            **{"uses_exact_gelu": [of.path.name for of in self.experiments.values() if of and of.uses_exact_gelu]},
            **{"measurement_paths": MEASUREMENTS, "plan": read_json(DOCS / PLAN), "alpha": ALPHA, "power": POWER},
        }
        try:
            text = environment.get_template(self.template.name).render(facts | dict(self.measured))
        except jinja2.TemplateError as error:
            lines = [of.lineno for of in traceback.extract_tb(error.__traceback__) if of.filename == str(self.template)]
            raise UserError(f"{self.template}:{lines[-1] if lines else '?'}: {error.message}") from error
        return re.sub(r"\n{3,}", "\n\n", re.sub(r" +$", "", text, flags=re.MULTILINE))  # what was left out leaves gaps

    def link(self, path: Path) -> str:
        """A path as the report links to it."""
        return f"../{path.relative_to(self.results.parent).as_posix()}"


def the(rows: Sequence[Mapping[str, Any]], **wanted: object) -> Mapping[str, Any]:
    """The one row that has these values. Raises UserError where there is none, or several."""
    found = [row for row in rows if all(row.get(key) == value for key, value in wanted.items())]
    if len(found) != 1:
        raise UserError(f"a record has {len(found)} rows of {wanted}, and the report wants one")
    return found[0]


def _decimal(value: float, digits: int) -> str:
    """With a minus as wide as a plus, as everywhere in reports."""
    return decimal(value, digits).replace("-", MINUS)


def markdown_table(of: Table) -> str:
    """A table for a page and for pandoc alike, without title and note."""
    rule = [":---" if i < of.text_columns else "---:" for i in range(len(of.columns))]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (of.columns, rule, *of.rows))
