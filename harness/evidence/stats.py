"""Does an arm differ from its reference? Comparisons paired by seed, and what may have spoiled them.

Arms of one seed share the order of the data and, where shapes agree, the initial weights. That takes out what the two
have in common, which is less than one might think: on a GPU their losses over seeds had a correlation of 0.42 to 0.47,
so that pairing saves about a third of the seeds. Every comparison here is a paired t-test on the differences.

A verdict is one word:

    better, worse   the difference is shown: p < 0.05, adjusted for arms and looks, at least three seeds
    equivalent      the whole interval of the effect lies within the margin: too small to matter, zero or not
    undecided       neither; `detectable` says how large a difference these seeds would have shown
    not comparable  the sides differ in what the metric depends on (data, device, compilation): the note says in what

Holm's adjustment runs over the arms of an experiment, for each metric by itself: with seven arms against one baseline,
one in three experiments would show a "better" at p < 0.05 where there is nothing. Where verdicts are given before all
seeds are there, it is by the looks that were registered (`looks`), and what counts is what was registered
(`registered`).

Losses are judged by what they are worth in compute (`effects`), since a share of a loss means one thing in a short run
and another in a long one: the margin is STUDY_MARGIN, 1 % of compute unless set. That of costs is 1 % of the cost.
"""

from __future__ import annotations

from collections.abc import Container, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from harness.evidence.comparison import Comparison, Metric
from harness.evidence.costs import cost_facts
from harness.evidence.effects import Effect, compute_effect, time_effect
from harness.evidence.looks import overall_p
from harness.evidence.paired import paired_test
from harness.evidence.references import effective_slope, fitting, reference_of
from harness.evidence.registered import Block, blocks_of
from harness.evidence.runs import RunRecord, data_hash, has_clean_times
from harness.evidence.store import Arm, Experiment
from harness.evidence.verdicts import judge, margin_of, of_survivors, with_pooled_error

METRICS = (
    Metric(name="val_loss", label="validation loss", unit="nats/token", is_cost=False),
    Metric(name="val_bpb", label="validation loss", unit="bits/byte", is_cost=False),
    Metric(name="ms_per_step", label="time per step", unit="ms"),
    Metric(name="tokens_per_s", label="throughput", unit="tokens/s", higher_is_better=True),
    Metric(name="peak_mem_gib", label="peak memory", unit="GiB"),
    Metric(name="train_time_s", label="training time", unit="s"),
)
"""What is compared, in the order of comparison.csv."""

_STEP_TIME = METRICS[2]
_TIMES = ("ms_per_step", "tokens_per_s", "train_time_s")


@dataclass(frozen=True, kw_only=True)
class _Pair:
    """An arm beside its reference, on the seeds of a block."""

    arm: Arm
    reference: Arm
    block: Block
    note: str


def compare(experiment: Experiment) -> list[Comparison]:
    """Every arm against its reference in every metric that both have, by arm, metric and block of seeds.

    Raises UserError where registration.json or STUDY_MARGIN is not what it should be.
    """
    margin = margin_of(experiment)
    found = [(arm, *reference_of(arm, experiment)) for arm in experiment.compared]
    pairs = [
        _Pair(arm=arm, reference=other, block=block, note=note)
        for arm, other, note in found
        if other is not None
        for block in blocks_of(arm, other, experiment.registration)
    ]
    judged = [_judged(pairs, family, experiment, margin) for family in families(experiment)]
    steps = [arm.step for arm in experiment.arms]
    return sorted((c for of in judged for c in of), key=lambda c: steps.index(c.step))


def compare_besides(experiment: Experiment) -> list[Comparison]:
    """The validation loss of arms against those that they are held against besides (STEP_BESIDE): over all seeds that
    both have, adjusted for nothing, and without verdict."""
    found: list[Comparison] = []
    for arm in experiment.compared:
        reference, _ = reference_of(arm, experiment)
        for other in filter(None, (fitting(name, arm, experiment) for name in arm.beside)):
            seeds = tuple(sorted({run.seed for run in arm.runs} & {run.seed for run in other.runs}))
            if seeds and other not in (arm, reference):
                pair = _Pair(arm=arm, reference=other, block=Block(seeds=seeds, sizes=(len(seeds),)), note="")
                found.append(_compare(pair, METRICS[0], experiment, 1))
    return found


def families(experiment: Experiment) -> list[list[Metric]]:
    """What is compared, in the order of comparison.csv. Verdicts are adjusted over all arms and metrics of a family.

    Each of METRICS is one by itself. EVAL_DATASETS are one together: a difference in one of several sets is found by
    chance as easily as one in one of several arms.
    """
    sets = [
        Metric(name=f"val_loss/{name}", label=f"loss on {name}", unit="nats/token", is_cost=False)
        for name in experiment.eval_datasets
    ]
    return [*([metric] for metric in METRICS), *([sets] if sets else [])]


def _judged(
    pairs: Sequence[_Pair], family: Sequence[Metric], experiment: Experiment, margin: float
) -> list[Comparison]:
    """All comparisons of a family, judged at each planned look in turn: what one has shown stays."""
    judged: list[Comparison] = []
    for look in range(1, max((len(pair.block.sizes) for pair in pairs), default=0) + 1):
        found = [_compare(pair, metric, experiment, look) for metric in family for pair in pairs]
        judged = judge(found, judged, margin)
    pooled = [
        c if c.metric.is_cost else with_pooled_error(c, [other for other in judged if other.metric == c.metric])
        for c in judged
    ]
    return [of_survivors(c) for c in pooled if c.metric.name == "val_loss" or c.n > 0]


def _compare(pair: _Pair, metric: Metric, experiment: Experiment, look: int) -> Comparison:
    """The numbers of a comparison at a look, or at the last one reached before, with the verdict left to `judge`
    unless the sides cannot be compared."""
    arm, other, block = pair.arm, pair.reference, pair.block
    reached = block.look(arm, other)
    number = min(look, reached)
    seeds = block.seeds[: block.sizes[number - 1]] if number else block.seeds
    ours, theirs = ({run.seed: run for run in of.done} for of in (arm, other))
    pairs = {
        seed: (ours[seed], theirs[seed])
        for seed in seeds
        if all(seed in of and of[seed].value(metric.name) is not None for of in (ours, theirs))
    }
    values = {seed: (x.value(metric.name) or 0.0, y.value(metric.name) or 0.0) for seed, (x, y) in pairs.items()}
    deltas = {seed: x - y for seed, (x, y) in values.items()}
    differing = _spoiled(list(pairs.values()), metric)
    c = Comparison(
        step=arm.step,
        reference=other.step,
        metric=metric,
        block=block,
        look_number=number,
        deltas=deltas,
        failed_seeds=tuple(run.seed for run in arm.runs if run.status == "failed" and run.seed in seeds),
        reference_mean=float(np.mean([y for _, y in values.values()])) if values else None,
        delta_mean=None,
        ci_low=None,
        ci_high=None,
        p_value=None,
        verdict="not comparable" if differing else "undecided",
        note="; ".join(filter(None, [*differing, pair.note, block.note, *_absent(pair, seeds, pairs, reached)])),
    )
    test = paired_test(list(deltas.values()), c.level)
    c = replace(c, delta_mean=test.mean, ci_low=test.ci_low, ci_high=test.ci_high, p_value=test.p_value)
    if c.p_value is not None and number:
        c = replace(c, p_overall=overall_p(c.p_value, block.sizes, number))
    return c if metric.is_cost or differing else _with_effects(c, list(pairs.values()), other, seeds, experiment)


def _absent(pair: _Pair, seeds: Sequence[int], pairs: Container[int], reached: int) -> Iterator[str]:
    """Which of the seeds are no pairs and why, and for how many more the next look waits."""
    failed: set[int] = set()
    for of in (pair.arm, pair.reference):
        if here := [run.seed for run in of.runs if run.status == "failed" and run.seed in seeds]:
            yield f"without seed {_listed(here)}: failed in {of.step}"
            failed |= set(here)
    block = pair.block
    if reached < len(block.sizes):
        there, which = len(block.there(pair.arm, pair.reference)), "next" if reached else "first"
        size = block.sizes[reached]
        # With others there instead, their number does not say why.
        absent = set(block.seeds[:size]) - block.there(pair.arm, pair.reference)
        waits = f", and waits for seed {_listed(sorted(absent))}" * (there >= size)
        yield f"{there} of {len(block.seeds)} seeds: the {which} planned look is at {size}{waits}"
    missing = [seed for seed in seeds if seed not in pairs and seed not in failed]
    if missing and reached and len(missing) + len(failed) < len(seeds):
        yield f"without seed {_listed(missing)}: not finished on both sides"


def _with_effects(
    c: Comparison,
    pairs: Sequence[tuple[RunRecord, RunRecord]],
    other: Arm,
    seeds: Sequence[int],
    experiment: Experiment,
) -> Comparison:
    """A comparison of losses with what they are worth, as far as the reference was trained at other lengths."""
    slope = effective_slope(other, experiment, c.metric.name)
    if slope is None or not pairs:
        return c
    # A look is at its seeds alone. An amendment's may have been run at one length only.
    within = {seed: b for seed, b in slope.by_seed.items() if seed in seeds}
    gain = compute_effect(c.deltas, within or slope.by_seed, c.level)
    times = [(x.value("ms_per_step"), y.value("ms_per_step")) for x, y in pairs]
    ratios = [x / y for x, y in times if x and y]
    may = len(ratios) == len(pairs) and not _spoiled(pairs, _STEP_TIME)
    time = time_effect(gain, ratios, c.level) if may else Effect()
    whose = "" if slope.step == c.reference else f"compute by the lengths of {slope.step}"
    return replace(
        c,
        compute=gain.value,
        compute_low=gain.low,
        compute_high=gain.high,
        time=time.value,
        time_low=time.low,
        time_high=time.high,
        note="; ".join(filter(None, [c.note, gain.note, whose])),
    )


def _spoiled(pairs: Sequence[tuple[RunRecord, RunRecord]], metric: Metric) -> list[str]:
    """What differs within pairs and makes a metric's difference mean something else, as `compile differs: a vs b`."""

    def facts(run: RunRecord) -> dict[str, str | None]:
        return {"data": data_hash(run)} | (cost_facts(run) if metric.is_cost else {})

    differing = {
        f"{name} differs: {ours[name]} vs {theirs[name]}": None
        for ours, theirs in ((facts(run), facts(reference)) for run, reference in pairs)
        for name in ours
        if ours[name] != theirs[name]
    }
    if metric.name in _TIMES and (shared := [x.name for pair in pairs for x in pair if not has_clean_times(x)]):
        differing[f"times of a device that others used meanwhile: {some(shared)}"] = None
    return list(differing)


def some(names: list[str]) -> str:
    """Names, or the first two of them and their number."""
    return ", ".join(names) if len(names) <= 3 else f"{', '.join(names[:2])} and {len(names) - 2} more"


def _listed(seeds: Sequence[int]) -> str:
    return ", ".join(map(str, seeds))
