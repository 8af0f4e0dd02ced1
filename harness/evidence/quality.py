"""The RA v5 plan's quick quality test: is a variant as good as its reference, do its gates move, does it stay finite?

The variant and its reference (the first STEP_REFERENCE of its step) train on identical batches, seed by seed, as an
ordinary experiment below results/: stopped and started again it goes on, and `make report` reads it. Then the plan's
three criteria are judged, noise taken into account. Each is PASS, FAIL or UNDECIDED:

- Validation loss at most the reference's. On the paired differences over seeds, variant minus reference, with the
  margin of LOSS_MARGIN, 0.05 %, below which two losses count as the same here: PASS if the whole 95 % interval of the
  mean lies below the margin; else FAIL if it lies above 0: worse, and too much to be equivalent; else UNDECIDED. Below
  three seeds always UNDECIDED: two differences hardly tell their own spread, and one tells nothing.
- Some heads learn w_rec > 0.1, at the end of training, and more than Adam's noise makes them: the variant is also
  trained on uniform random tokens, where there is nothing to learn (harness/evidence/gate_noise.py, which has the
  statistic). PASS if every seed has a head above 0.1, and a head is above one trained on noise with a probability whose
  whole 95 % interval lies above 1/2. FAIL if no seed has a head above 0.1, or if that interval lies below 0.6 as a
  whole: what noise does as well is not learned. Else UNDECIDED, and so with fewer than three seeds. Not judged where
  there is no such gate, as where it is more than a number per head, nor where it is held (RA_V5_LEARN_W_REC=n), nor in
  the direct fold, where it starts at 1.
- No NaN or infinity: FAIL if a run of the variant or of its reference was stopped by one, else PASS.

The verdict is FAIL if a criterion is, else UNDECIDED if one is, else PASS. UNDECIDED is no failure: more seeds or more
steps may decide. The baseline has no reference and no gates, and is tested for finite numbers alone.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from gpt2.base.errors import UserError
from gpt2.run.records import NONFINITE
from harness.configure.quality import STEPS, reference_step
from harness.evidence.gate_noise import noise_of, of_heads, superiority
from harness.evidence.paired import MIN_SEEDS, paired_test
from harness.evidence.runs import RunRecord
from harness.evidence.store import Experiment

GATE = "w_rec"
GATE_THRESHOLD = 0.1
"""The RA v5 plan's: a head above this has learned to use reciprocity."""

LOSS_MARGIN = 0.0005
"""Share of a loss: a test of minutes has no lengths from which compute could be told."""

INDISTINCT = 0.6
"""A head's w_rec is above that of a head trained on noise with less than this probability: noise does as well."""

PASS, FAIL, UNDECIDED = "PASS", "FAIL", "UNDECIDED"


@dataclass(frozen=True, kw_only=True)
class SeedResult:
    """One seed's pair. What a run did not get to is None."""

    seed: int
    val_loss: float | None
    """nats/token, at the end."""

    reference_val_loss: float | None
    peak_mem_gib: float | None
    reference_peak_mem_gib: float | None
    w_rec: tuple[float, ...] | None
    """Of every head, layer by layer; None where there is no such gate."""

    noise_w_rec: tuple[float, ...] | None
    """The same of the variant trained on random tokens."""

    nonfinite: tuple[str, ...]
    """For each run of the pair that met a NaN or an infinity: its name and what it was."""

    @property
    def delta(self) -> float | None:
        """Loss minus the reference's."""
        return (
            None
            if self.val_loss is None or self.reference_val_loss is None
            else self.val_loss - self.reference_val_loss
        )

    @property
    def heads_above(self) -> int | None:
        """Heads whose w_rec is above GATE_THRESHOLD."""
        return None if self.w_rec is None else sum(w > GATE_THRESHOLD for w in self.w_rec)


@dataclass(frozen=True, kw_only=True)
class Criterion:
    """One of the RA v5 plan's criteria, judged."""

    name: str
    verdict: str
    """PASS, FAIL or UNDECIDED."""

    evidence: str
    """What it rests on, in a few words."""


@dataclass(frozen=True, kw_only=True)
class Quality:
    """The outcome of a quick quality test."""

    step: str
    reference: str | None
    seeds: tuple[SeedResult, ...]
    criteria: tuple[Criterion, ...]
    verdict: str
    """PASS, FAIL or UNDECIDED."""


def assess(experiment: Experiment, model: str, seeds: Sequence[int]) -> Quality:
    """Judge the finished runs of a test. UserError where one ended otherwise than done or with a NaN."""
    step, reference = STEPS[model], reference_step(model)
    runs = {(arm.step, run.seed): run for arm in experiment.arms for run in arm.runs}
    on_noise = noise_of(experiment)
    noise = {run.seed: run for arm in on_noise.arms for run in arm.runs if arm.step == step} if on_noise else {}
    results = tuple(
        _seed_result(seed, runs[step, seed], None if reference is None else runs[reference, seed], noise.get(seed))
        for seed in seeds
    )
    criteria = [_judge_finite(results)]
    if reference is not None:
        criteria.append(_judge_loss(results))
    asked = experiment.settings
    is_held = asked.get("RA_V5_FOLD_DIRECT") == "y" or asked.get("RA_V5_LEARN_W_REC") == "n"  # as `plan_quality` has it
    if any(result.w_rec is not None for result in results) and not is_held:
        criteria.append(_judge_gates(results))
    verdicts = [criterion.verdict for criterion in criteria]
    verdict = next((v for v in (FAIL, UNDECIDED) if v in verdicts), PASS)
    return Quality(step=step, reference=reference, seeds=results, criteria=tuple(criteria), verdict=verdict)


def _seed_result(seed: int, run: RunRecord, reference: RunRecord | None, noise: RunRecord | None) -> SeedResult:
    nonfinite = []
    for each in filter(None, (reference, run, noise)):
        events = [line for line in each.metrics if line["kind"] == "event" and line["event"] in NONFINITE]
        if each.status == "failed" and events:
            nonfinite.append(f"{each.name}: {events[-1]['message']}")
        elif each.status != "done":
            raise UserError(f"{each.path}: the run is {each.status}, so there is nothing to judge; see its train.log")
    return SeedResult(
        seed=seed,
        val_loss=_loss(run),
        reference_val_loss=None if reference is None else _loss(reference),
        peak_mem_gib=run.value("peak_mem_gib"),
        reference_peak_mem_gib=None if reference is None else reference.value("peak_mem_gib"),
        w_rec=_w_rec(run),
        noise_w_rec=None if noise is None or noise.status != "done" else _w_rec(noise),
        nonfinite=tuple(nonfinite),
    )


def _w_rec(run: RunRecord) -> tuple[float, ...] | None:
    """Of every head that has one, layer by layer, at the end; None where there is no such gate."""
    gate = ((run.summary or {}).get("gates") or {}).get(GATE)
    return None if gate is None else of_heads(gate)


def _loss(run: RunRecord) -> float | None:
    """The loss at the end; what a run that was stopped by a NaN had last is not that."""
    return run.value("val_loss") if run.status == "done" else None


def _judge_finite(results: Sequence[SeedResult]) -> Criterion:
    found = [message for result in results for message in result.nonfinite]
    return Criterion(name="no NaN/Inf", verdict=FAIL if found else PASS, evidence="; ".join(found) or "none")


def _judge_loss(results: Sequence[SeedResult]) -> Criterion:
    """The first criterion of this module's docstring."""
    deltas = [result.delta for result in results if result.delta is not None]
    test = paired_test(deltas)
    name = "val loss <= reference"
    if test.mean is None:
        return Criterion(name=name, verdict=UNDECIDED, evidence="no seed has finished on both sides")
    mean = f"difference {test.mean:+.2g}"
    if test.ci_low is None or test.ci_high is None:
        return Criterion(name=name, verdict=UNDECIDED, evidence=f"{mean} with one seed, which shows nothing")
    references = [r.reference_val_loss for r in results if r.delta is not None and r.reference_val_loss is not None]
    margin = LOSS_MARGIN * statistics.fmean(references)
    evidence = f"{mean}, 95 % interval {test.ci_low:+.2g} to {test.ci_high:+.2g}, n={len(deltas)}, margin {margin:.2g}"
    if len(deltas) < MIN_SEEDS:
        return Criterion(name=name, verdict=UNDECIDED, evidence=f"{evidence}; {MIN_SEEDS} seeds are the least")
    verdict = PASS if test.ci_high < margin else FAIL if test.ci_low > 0 else UNDECIDED
    return Criterion(name=name, verdict=verdict, evidence=evidence)


def _judge_gates(results: Sequence[SeedResult]) -> Criterion:
    """The second criterion of this module's docstring."""
    name = f"some {GATE} > {GATE_THRESHOLD}"
    above = [result.heads_above or 0 for result in results]
    heads = max(len(result.w_rec or ()) for result in results)
    evidence = f"{', '.join(map(str, above))} of {heads} heads"
    if not any(above):
        return Criterion(name=name, verdict=FAIL, evidence=evidence)
    real = [result.w_rec for result in results if result.w_rec is not None]
    noise = [result.noise_w_rec for result in results if result.noise_w_rec is not None]
    if not noise:
        return Criterion(name=name, verdict=UNDECIDED, evidence=f"{evidence}; none was trained on noise")
    on_noise = ", ".join(str(sum(w > GATE_THRESHOLD for w in of)) for of in noise)
    found = superiority(real, noise)
    evidence += f", {on_noise} on noise; above one on noise with probability {found.value:.2f}"
    if found.low is None or found.high is None:
        return Criterion(name=name, verdict=UNDECIDED, evidence=f"{evidence}, from one seed")
    evidence += f", 95 % interval {found.low:.2f} to {found.high:.2f}"
    if min(len(real), len(noise)) < MIN_SEEDS:
        return Criterion(name=name, verdict=UNDECIDED, evidence=f"{evidence}; {MIN_SEEDS} seeds are the least")
    verdict = PASS if all(above) and found.low > 0.5 else FAIL if found.high < INDISTINCT else UNDECIDED
    return Criterion(name=name, verdict=verdict, evidence=evidence)


def quality_json(directory: Path) -> Path:
    """Where the outcome is kept, in the experiment's directory."""
    return directory / "quality.json"
