"""What the technical report says of one experiment, as text: computed from its directory by the same code as its own
report, and nothing that only one of them would know."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from datetime import datetime
from functools import cached_property
from pathlib import Path
from statistics import median, stdev

from gpt2.base.errors import UserError
from gpt2.base.numbers import decimal
from gpt2.base.text import shown
from harness.configure.tuning import Tuned
from harness.evidence.comparison import Comparison
from harness.evidence.gate_noise import noise_of
from harness.evidence.launches import Launch, device_hours, launches_of, mean_efficiency
from harness.evidence.noise import spread_of_reruns
from harness.evidence.references import effective_slope
from harness.evidence.registration import entries_of
from harness.evidence.runs import RunRecord, data_hash, device_name
from harness.evidence.stats import compare, compare_besides
from harness.evidence.store import Experiment, load_experiment
from harness.evidence.tuned import tuned_of
from harness.evidence.verdicts import margin_of
from harness.report.apart import apart
from harness.report.doubts import doubts
from harness.report.numbers import DASH, count, effect_interval, interval_percent, p_value, percent, signed
from harness.report.pages import escape_markdown
from harness.report.paper_gates import Gates, gates_of
from harness.report.study import SENTENCE, registration_facts
from harness.report.tables import IN_COMPUTE, ITS_INTERVAL, Table, beside_table
from harness.report.verdict import controls, failed_controls, verdict

RA_V5 = "ra-v5"
"""How names of its steps begin."""


class Study:
    """An experiment, as the technical report tells it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.experiment: Experiment = load_experiment(path)
        self.comparisons: Sequence[Comparison] = compare(self.experiment)
        self.losses = [c for c in self.comparisons if c.metric.name == "val_loss"]
        self.arms = {arm.step: arm for arm in self.experiment.arms}

    # What was asked

    @property
    def question(self) -> str:
        """As it was registered; empty where nothing was."""
        entries = entries_of(self.experiment)
        return shown(entries[0].question, SENTENCE) if entries else ""

    @property
    def registered(self) -> list[str]:
        """What was registered, was to be tuned, and was added later: a line of the experiment's own report each."""
        facts = [fact for fact in registration_facts(self.experiment) if fact[0] in ("Registered", "Tuning", "Amended")]
        return [f"{name} {escape_markdown(value)}." for name, value in facts]

    @property
    def doubts(self) -> list[str]:
        """What speaks against it, as its own report says it, with paths from the experiment on."""
        return [escape_markdown(sentence.replace(f"{self.path}/", "")) for sentence in doubts(self.experiment)]

    @property
    def is_tuned(self) -> bool:
        return self.tuned is not None

    @property
    def is_tuned_arm_by_arm(self) -> bool:
        """Whether each arm got its lowest loss, whatever its reference got, as early studies had it."""
        return self.tuned is not None and self.tuned.runs is None

    # How large, and on what

    @property
    def runs(self) -> int:
        """Runs that have ended well."""
        return sum(run.status == "done" for run in self._runs)

    @property
    def partial(self) -> str:
        """What is not finished, as a sentence; empty where every directory holds a finished run."""
        left = [run for run in self._runs if run.status != "done"]
        return f"{len(left)} of {count(len(self._runs), 'run')} did not end well, or have not ended." if left else ""

    @property
    def seeds(self) -> str:
        """The pairs of seeds that comparisons have: "4", or "3 to 8"."""
        pairs = sorted({c.n for c in self.losses})
        return " to ".join(dict.fromkeys(map(str, (pairs[0], pairs[-1])))) if pairs else "0"

    @property
    def size(self) -> str:
        """Parameters of the references and tokens of their runs."""
        references = [self.arms[c.reference] for c in self.losses] or list(self.experiment.compared)
        params = {run.value("params") or 0 for arm in references for run in arm.done}
        tokens = {run.value("tokens") or 0 for arm in references for run in arm.done}
        return f"{_millions(params)} parameters and {_millions(tokens)} tokens a run"

    @property
    def device(self) -> str:
        return ", ".join(sorted({name for run in self._runs if (name := device_name(run)) is not None}))

    @property
    def data(self) -> str:
        """What it was trained on: tokens, and the first digits of their hash."""
        of = {
            str(data_hash(run)): (run.provenance or {})["data"]["train_tokens"] for run in self._runs if run.provenance
        }
        return "; ".join(f"{tokens / 1e6:,.0f} M tokens, hash `{digits}`" for digits, tokens in of.items())

    @property
    def uses_exact_gelu(self) -> bool:
        """Whether a run of it has nanoGPT's GELU and not GPT-2's."""
        return any(run.settings.get("GELU_TANH") == "n" for run in self._runs)

    @property
    def last_began(self) -> datetime | None:
        return max((run.began for run in self._runs if run.began), default=None)

    @property
    def _runs(self) -> list[RunRecord]:
        return self.experiment.runs

    # What came of it

    @property
    def margin(self) -> float:
        return margin_of(self.experiment)

    @property
    def nats_per_percent(self) -> str:
        """What 1 % of compute is worth, over the references: "0.0062", or "0.0041 to 0.0067"; empty without lengths."""
        references = [self.arms[step] for step in dict.fromkeys(c.reference for c in self.losses)]
        slopes = [effective_slope(arm, self.experiment, "val_loss") for arm in references]
        values = [slope.mean * math.log1p(0.01) for slope in slopes if slope is not None]
        ends = (min(values), max(values)) if values else ()
        return " to ".join(dict.fromkeys(decimal(value, 4) for value in ends))

    @property
    def verdict(self) -> str:
        return verdict(self.experiment, self.losses)

    @property
    def controls(self) -> str:
        return controls(self.experiment, self.losses)

    def effect(self, step: str) -> Comparison:
        """The first row of a step: the registered one. UserError where there is none."""
        found = [c for c in self.losses if c.step == step]
        if not found:
            raise UserError(f"{self.path}: {step} is compared with nothing there")
        return found[0]

    @property
    def ra_v5(self) -> list[Comparison]:
        """The first row of each arm of RA v5."""
        return [self.effect(step) for step in dict.fromkeys(c.step for c in self.losses) if step.startswith(RA_V5)]

    @cached_property
    def failed(self) -> list[Comparison]:
        """The controls that came out as something else than they have to."""
        return failed_controls(self.experiment, self.losses)

    @property
    def ra_v5_failed(self) -> list[Comparison]:
        """Those of them that RA v5 shares its reference with."""
        references = {c.reference for c in self.ra_v5}
        return [c for c in self.failed if c.reference in references]

    @cached_property
    def besides(self) -> list[Comparison]:
        """Arms against others than their reference, without verdict."""
        return compare_besides(self.experiment)

    @cached_property
    def tuned(self) -> Tuned | None:
        """What tuning chose; None where nothing was tuned, or nobody can read what."""
        return tuned_of(self.experiment)

    def apart(self, c: Comparison) -> dict[str, tuple[str, str]]:
        """Symbol -> the two values, of what was tuned to different ones for the two sides."""
        return apart(self.tuned, self.arms[c.step], self.arms[c.reference])

    @property
    def failed_apart(self) -> str:
        """Which controls that failed were tuned to something else than their reference; empty where none was."""
        return "; ".join(
            f"{self.name(c)} was tuned to `{symbol}` {value}, and {self.reference(c)} to {of_reference}"
            for c in self.failed
            for symbol, (value, of_reference) in self.apart(c).items()
        )

    def name(self, c: Comparison) -> str:
        """The title of the arm that is compared."""
        return self.arms[c.step].title

    def reference(self, c: Comparison) -> str:
        """The title of what it is compared with."""
        return self.arms[c.reference].title

    @cached_property
    def table(self) -> Table:
        """Every arm against its reference."""
        columns: dict[str, list[str]] = {
            "arm": [self._title(c.step) for c in self.losses],
            "against": [self._title(c.reference) for c in self.losses],
            "n": [str(c.n) for c in self.losses],
            "Δ loss": [signed(c.delta_mean, 4) for c in self.losses],
            "compute": [percent(c.compute) for c in self.losses],
            "95 % interval": [effect_interval(c) for c in self.losses],
            "p": [p_value(c.p_value) for c in self.losses],
            "p (Holm)": [p_value(c.p_holm) for c in self.losses],
            "verdict": [c.verdict for c in self.losses],
        }
        if len({c.reference for c in self.losses}) == 1:
            del columns["against"]
        if any(c.failed_seeds for c in self.losses):
            columns["failed"] = [c.failed for c in self.losses]
        if any(c.registered != "yes" for c in self.losses):
            columns["registered"] = [c.registered for c in self.losses]
        return _table(columns, text_columns=1 + ("against" in columns))

    @cached_property
    def beside(self) -> Table | None:
        """What arms add to others than their reference; None where there is none."""
        found = beside_table(self.experiment)
        if found is None:
            return None
        names = {"arm": "step", "against": "beside", "n": "n", "Δ loss": "Δ loss", "compute": IN_COMPUTE}
        names |= {"95 % interval": ITS_INTERVAL, "p": "p"}
        of = {name: found.columns.index(column) for name, column in names.items()}
        return _table({name: [row[i] for row in found.rows] for name, i in of.items()}, text_columns=2)

    @property
    def against(self) -> str:
        """Of whom the differences are."""
        references = {c.reference for c in self.losses}
        return self._title(references.pop()) if len(references) == 1 else "the reference named"

    @property
    def look(self) -> str:
        """Which planned look it is, where there are several; empty where there is one."""
        looks = dict.fromkeys(c.look for c in self.losses if len(c.block.sizes) > 1)
        return f"This is look {' and '.join(looks)}; intervals hold at all looks together." if looks else ""

    @cached_property
    def costs(self) -> Table | None:
        """Time and memory of a step, relative to the reference; None where none can be compared."""
        by = {(c.step, c.metric.name): c for c in self.comparisons if c.n > 0 and c.relative is not None}
        steps = [step for step in self.arms if (step, "ms_per_step") in by and (step, "peak_mem_gib") in by]
        if not steps:
            return None

        def cell(step: str, metric: str, said: Callable[[Comparison], str]) -> str:
            c = by[step, metric]
            return DASH if c.verdict == "not comparable" else said(c)

        def middle(c: Comparison) -> str:
            return f"{signed(100 * median(c.deltas.values()) / (c.reference_mean or math.nan), 1)} %"

        return _table(
            {
                "arm": [self._title(step) for step in steps],
                "time per step": [
                    cell(step, "ms_per_step", lambda c: f"{signed(100 * (c.relative or 0.0), 1)} %") for step in steps
                ],
                "95 % interval": [cell(step, "ms_per_step", lambda c: f"{interval_percent(c)} %") for step in steps],
                "median": [cell(step, "ms_per_step", middle) for step in steps],
                # It is the same in all runs, but for one that went on from a checkpoint near its end.
                "peak memory": [cell(step, "peak_mem_gib", middle) for step in steps],
                "worth in time": [percent(self.effect(step).time) for step in steps],
            }
        )

    def step_time(self, step: str) -> str:
        """How much longer a training step is than the reference's, with its interval; empty where that is not known."""
        found = [c for c in self.comparisons if c.step == step and c.metric.name == "ms_per_step"]
        if not found or found[0].relative is None or found[0].verdict == "not comparable":
            return ""
        return f"{signed(100 * found[0].relative, 1)} % ({interval_percent(found[0])} %)"

    @cached_property
    def tuning(self) -> Table | None:
        """What was chosen for each arm; None where nothing was tuned."""
        tuned = self.tuned
        if tuned is None:
            return None
        choices = tuned.choices
        return _table(
            {
                "arm": [self._title(arm) for arm in choices],
                "chosen": [", ".join(f"`{k}={v}`" for k, v in of.settings.items()) for of in choices.values()],
                "runs": [str(len(of.trials) * len(tuned.seeds_of(of))) for of in choices.values()],
                "at the edge of": [", ".join(f"`{k}`" for k in of.at_edge) or "none" for of in choices.values()],
            },
            text_columns=2,
        )

    @property
    def rerun(self) -> tuple[str, int]:
        """The standard deviation of the difference between two runs of one seed of the reference that most are compared
        with, and from how many repetitions it is; a dash and 0 without any."""
        references = [c.reference for c in self.losses]
        sd, n = spread_of_reruns(self.arms[max(references, key=references.count)], self.experiment)
        return (DASH, 0) if sd is None else (decimal(sd, 4), n)

    def spread(self, step: str) -> str:
        """The standard deviation of a step's paired differences."""
        return decimal(stdev(self.effect(step).deltas.values()), 4)

    # What it took

    @cached_property
    def launches(self) -> list[Launch]:
        return launches_of(self.path)

    @property
    def device_hours(self) -> float:
        return device_hours(self.launches)

    @property
    def efficiency(self) -> str:
        """The share of the devices' time that went into training steps; a dash where no make left a record of it."""
        efficiency = mean_efficiency(self.launches)
        return DASH if efficiency is None else decimal(efficiency, 2)

    # Figures, gates

    def figure(self, name: str) -> Path | None:
        """A figure of it that is there, a picture of dots before one of lines, which not every page can show."""
        return next((path for end in ("png", "svg") if (path := self.path / f"figures/{name}.{end}").exists()), None)

    @cached_property
    def gates(self) -> list[Gates]:
        """Of each arm whose gates have moved."""
        noise = noise_of(self.experiment)
        arms = self.experiment.compared
        return [of for arm in arms for of in gates_of(arm, noise, self._title(arm.step)) if of.have_moved]

    def gate(self, step: str, name: str) -> Gates | None:
        """One of them; None where an arm has none of that name that has moved."""
        return next((of for of in self.gates if (of.step, of.name) == (step, name)), None)

    def _title(self, step: str) -> str:
        return escape_markdown(self.arms[step].title if step in self.arms else step)


def _table(columns: dict[str, list[str]], *, text_columns: int = 1) -> Table:
    rows = [list(row) for row in zip(*columns.values(), strict=True)]
    return Table(title="", columns=list(columns), rows=rows, text_columns=text_columns)


def _millions(values: set[float]) -> str:
    """ "45 M" or "0.4 M", or the range of several that differ so written; "0" of none."""
    ends = [value / 1e6 for value in (min(values), max(values))] if values else []
    texts = dict.fromkeys(f"{end:,.0f} M" if end >= 10 else f"{end:.2g} M" for end in ends) or {"0": None}
    return " to ".join(texts)
