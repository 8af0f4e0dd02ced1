"""What a report says of a study beside its losses: what was registered, what effects are worth in time, other sets."""

from __future__ import annotations

from collections.abc import Sequence

from gpt2.base.text import shown
from harness.configure.registration import REGISTRATION, Entry, published_hash
from harness.evidence.comparison import Comparison
from harness.evidence.looks import look_sizes
from harness.evidence.registration import entries_of
from harness.evidence.store import Experiment
from harness.evidence.tuned import tuned_of
from harness.report.numbers import DASH, count, effect_interval, interval, p_value, percent, signed
from harness.report.tables import Table

SENTENCE = 400
"""Characters of what a record says, or somebody has written, or of many arms together."""


def registration_facts(experiment: Experiment) -> list[tuple[str, str]]:
    """What was registered, and what was added later; that nothing was, where there is no registration."""
    entries = entries_of(experiment)
    if not entries:  # of a damaged one a warning says so
        there = (experiment.path / REGISTRATION).exists()
        return [] if there else [("Registered", "nothing: there is no registration.json")]
    first, *later = entries
    compared = sum(bool(references) for references in first.arms.values())
    looks = ", ".join(map(str, look_sizes(len(first.seeds), first.looks)))
    facts = [
        ("Question", shown(first.question, SENTENCE)),
        (
            "Registered",
            f"{first.when:%Y-%m-%d %H:%M} UTC: {count(compared, 'comparison')} on {count(len(first.seeds), 'seed')}, "
            f"{count(first.looks, 'look')} (at {looks}), margin {100 * first.margin:.3g} % of compute; "
            f"hash {published_hash(experiment.path / REGISTRATION)}",
        ),
    ]
    if first.tuning:
        asked = "; ".join(f"{symbol}={','.join(values)}" for symbol, values in first.tuning["symbols"].items())
        facts.append(("Tuning", f"{asked}, on seeds {', '.join(map(str, first.tuning['seeds']))}"))
    if tuned := tuned_of(experiment):
        chosen = (
            f"{arm} {', '.join(f'{symbol}={value}' for symbol, value in choice.settings.items())}"
            for arm, choice in tuned.choices.items()
        )
        facts.append(("Chosen", shown("; ".join(chosen), SENTENCE)))
    known = [first]
    for entry in later:
        facts.append(("Amended", f"{entry.when:%Y-%m-%d %H:%M} UTC: {_what_is_new(entry, known)}"))
        known.append(entry)
    return facts


def _what_is_new(entry: Entry, known: Sequence[Entry]) -> str:
    arms = [arm for arm in entry.arms if not any(arm in old.arms for old in known)]
    seeds = [seed for seed in entry.seeds if not any(seed in old.seeds for old in known)]
    said = [f"arms {', '.join(arms)}"] * bool(arms) + [f"seeds {', '.join(map(str, seeds))}"] * bool(seeds)
    before = known[-1]
    for name in ("margin", "looks", "lengths", "reruns", "tuning"):
        if getattr(entry, name) != getattr(before, name):
            said.append(f"another {name}")
    return ", ".join(said) or "other references"


def time_table(experiment: Experiment, losses: Sequence[Comparison]) -> Table | None:
    """What arms are worth in time; None where no times can be compared, or compute is not known."""
    found = [c for c in losses if c.time is not None]
    if not found:
        return None
    titles = {arm.step: arm.title for arm in experiment.arms}
    return Table(
        title="Worth in time",
        columns=["step", "reference", "n", "in compute", "95 % interval", "in time", "95 % interval of it"],
        rows=[
            [
                titles[c.step],
                titles[c.reference],
                str(c.n),
                percent(c.compute),
                effect_interval(c),
                percent(c.time),
                DASH if c.time_low is None else f"{percent(c.time_low)} to {percent(c.time_high)}",
            ]
            for c in found
        ],
        text_columns=2,
        note="Time: what the loss is worth in compute, divided by the ratio of the times per step. It is of this "
        "implementation on this machine, with its compile setting.",
    )


def sets_table(experiment: Experiment, comparisons: Sequence[Comparison]) -> Table | None:
    """The losses on EVAL_DATASETS; None where there are none."""
    found = [c for c in comparisons if c.metric.name.startswith("val_loss/") and c.n > 0]
    if not found:
        return None
    titles = {arm.step: arm.title for arm in experiment.arms}
    return Table(
        title="Loss on other sets",
        columns=["step", "reference", "set", "n", "Δ loss", "95 % interval", "p (Holm)", "compute", "verdict"],
        rows=[
            [
                titles[c.step],
                titles[c.reference],
                c.metric.name.removeprefix("val_loss/"),
                str(c.n),
                signed(c.delta_mean, 4),
                interval(c, 4),
                p_value(c.p_holm),
                DASH if c.compute is None else percent(c.compute),
                c.verdict,
            ]
            for c in found
        ],
        text_columns=3,
        note="EVAL_DATASETS, in nats/token. p (Holm) is adjusted over the arms and the sets together.",
    )
