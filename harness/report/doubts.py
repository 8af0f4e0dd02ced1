"""What speaks against an experiment: other data, devices or versions in it, failures, fallbacks, what was changed."""

from __future__ import annotations

from collections.abc import Iterator

from gpt2.base.errors import UserError
from gpt2.base.text import shown
from harness.configure.tuning import TRIALS
from harness.evidence.contamination import contamination
from harness.evidence.references import reference_of
from harness.evidence.registration import registration_errors
from harness.evidence.retrained import retrained
from harness.evidence.store import Experiment, load_experiment, run_directories
from harness.evidence.tuned import tuning_errors
from harness.report.apart import tuned_apart
from harness.report.study import SENTENCE
from harness.report.sweeps import edges


def doubts(experiment: Experiment) -> list[str]:
    """What to know before believing an experiment, a sentence each: whatever its records say against it."""
    found = [*contamination(experiment), *_against(registration_errors(experiment.path))]
    found += [*_against(tuning_errors(experiment)), *_against(retrained(experiment))]
    for run in experiment.runs:
        summary, provenance = run.summary or {}, run.provenance or {}
        if run.status == "failed":
            found.append(f"{run.name} failed: {summary.get('error') or 'it does not say why'}")
        if run.damage is not None:
            found.append(f"{run.name} is damaged, and left out: {run.damage}")
        found += [f"{run.name}: {message}" for message in summary.get("events", [])]
        for resumed in provenance.get("resumed", []):
            for part in ("versions", "code", "hardware"):
                if resumed[part] != provenance[part]:
                    found.append(f"{run.name}: was resumed at step {resumed['step']} with other {part} than it began")
    found += [*edges(experiment), *tuned_apart(experiment)]
    if run_directories(trials := experiment.path / TRIALS):
        found += _against(retrained(load_experiment(trials)))
    for arm in experiment.arms:
        _, note = reference_of(arm, experiment)
        if note:
            found.append(f"{arm.step}: {note}")
    return [shown(sentence, SENTENCE) for sentence in found]


def _against(found: Iterator[str]) -> Iterator[str]:
    """What is found; where a file cannot be read, that."""
    try:
        yield from found
    except UserError as error:
        yield str(error)
