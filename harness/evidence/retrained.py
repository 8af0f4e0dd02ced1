"""What speaks for runs that were trained more than once, or chosen: in what the makes kept, and in when runs began.

A run that displeased can be taken away and trained again. Nothing forbids it, and there are good reasons for it; but
who reads the result has to know. Each of these is a sentence for the report.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from datetime import timedelta
from pathlib import Path

from gpt2.base.errors import UserError
from gpt2.run.records import read_provenance
from harness.configure.registration import REGISTRATION, Entry
from harness.evidence.contamination import identity
from harness.evidence.launches import NAME, read_launches
from harness.evidence.references import reference_of
from harness.evidence.registered import is_named
from harness.evidence.registration import entries_of
from harness.evidence.runs import RunRecord
from harness.evidence.stats import some
from harness.evidence.store import Arm, Experiment


def retrained(experiment: Experiment) -> Iterator[str]:
    """What tells of runs that are not there any more, or not the first of their name. One sentence each.

    Raises UserError where launches.jsonl cannot be read.
    """
    yield from _ended_before(experiment)
    for entry in entries_of(experiment)[:1]:
        yield from _late(experiment, entry)
    for arm in experiment.arms:
        yield from _copies(arm)
    yield from _elsewhere(experiment)


def _ended_before(experiment: Experiment) -> Iterator[str]:
    """By launches.jsonl: runs that ended well once, and are not there, or ended again."""
    ends: dict[str, list[float | None]] = {}
    for launch in read_launches(experiment.path):
        for name, loss in launch.done.items():
            ends.setdefault(name, []).append(loss)
    here = {run.name for run in experiment.runs if run.status in ("done", "damaged")}
    if twice := [f"{name} ({', '.join(map(str, losses))})" for name, losses in ends.items() if len(losses) > 1]:
        yield f"runs that had finished were taken away and trained again, with these losses, by {NAME}: {some(twice)}"
    losses_here = {run.name: run.value("val_loss") for run in experiment.runs if run.status == "done"}
    if other := [
        f"{name} ({losses[-1]}, and here {losses_here[name]})"
        for name, losses in ends.items()
        if name in losses_here and None not in (losses[-1], losses_here[name]) and losses[-1] != losses_here[name]
    ]:
        yield f"runs that had finished have other losses here than by {NAME}: {some(other)}"
    if gone := [f"{name} ({losses[-1]})" for name, losses in ends.items() if name not in here]:
        yield f"runs that had finished, with these losses, are not here any more, by {NAME}: {some(gone)}"


def _late(experiment: Experiment, entry: Entry) -> Iterator[str]:
    """Runs that began after what should have come after them had ended: of the registered ones, which `make` trains
    seed by seed."""
    order = {seed: place for place, seed in enumerate(entry.seeds)}
    arms = [arm for arm in experiment.compared if is_named(arm, entry)]
    began = {arm.step: [run for run in arm.runs if run.seed in order and run.began] for arm in arms}
    late = [
        f"{run.name} (after {after.name})"
        for runs in began.values()
        for run in runs
        if (after := next((o for o in runs if order[o.seed] > order[run.seed] and _is_after(run, o)), None))
    ]
    if late:
        yield (
            "runs began after the next seeds' of their arm had ended, as those do that are taken away and trained "
            f"again: {some(late)}"
        )
    for arm in arms:
        other, _ = reference_of(arm, experiment)
        ours, theirs = began[arm.step], began.get(other.step, []) if other else []
        for late_ones, early in ((ours, theirs), (theirs, ours)):
            # Of a single seed one arm always comes after the other.
            is_out_of_turn = any(order[o.seed] > order[run.seed] for run in late_ones for o in early)
            if is_out_of_turn and all(_is_after(run, o) for run in late_ones for o in early):
                yield (
                    f"{late_ones[0].step} was trained after all of {early[0].step} had ended, though both were "
                    "registered together: its losses may be a second try's"
                )


def _copies(arm: Arm) -> Iterator[str]:
    """Runs of other seeds with the same curve: one is the other, under another name."""
    known: dict[tuple[float, ...], str] = {}
    for run in arm.done:
        steps, losses = run.series("eval", "step", "val_loss")
        first = known.setdefault(tuple(losses), run.name) if len(steps) > 1 else run.name
        if first != run.name:
            yield f"{run.name} has the losses of {first}, to the last digit: it is no other run"


def _elsewhere(experiment: Experiment) -> Iterator[str]:
    """Experiments beside this one that ask the same: an arm and its reference, the same runs but for the seed."""
    pairs = [(arm, reference_of(arm, experiment)[0]) for arm in experiment.compared]
    same = []
    for registration in sorted(experiment.path.parent.glob(f"*/{REGISTRATION}")):
        path = registration.parent
        if path.name != experiment.path.name and any(
            other is not None and _is_same(arm, path) and _is_same(other, path) for arm, other in pairs
        ):
            same.append(str(path))
    if same:
        yield f"the same was asked in {some(same)}, too: what came out there counts as much"


def _is_same(arm: Arm, experiment: Path) -> bool:
    """Whether an experiment has an arm of this name whose runs are these but for the seed."""
    ours = identity(arm)
    for path in sorted((experiment / arm.step).glob("seed-*/provenance.json"))[:1]:
        with suppress(UserError):
            theirs = read_provenance(path)["identity"]
            return bool(ours) and ours | {"SEED": 0} == theirs | {"SEED": 0}
    return False


def _is_after(run: RunRecord, other: RunRecord) -> bool:
    """Whether a run began when another had ended, as far as it tells how long it took."""
    began, theirs, took = run.began, other.began, other.value("wall_time_s")
    return bool(began and theirs and took) and began > theirs + timedelta(seconds=took)  # type: ignore
