"""Which seeds a verdict is about, and whether it was registered before they were run.

An arm is judged on the seeds of the registration, once all planned for a look are there. What an amendment adds is
judged by itself: further seeds of registered arms alone, without those whose outcome was known when they were asked
for; a further arm on all seeds, and said to be one. Either gets a row of its own. So seeds added one at a time are
verdicts of one seed each, which show nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from harness.configure.kconfig import SIZE
from harness.configure.registration import Entry
from harness.evidence.looks import look_sizes
from harness.evidence.runs import RunRecord
from harness.evidence.store import Arm

UNREGISTERED = "no"
REGISTERED = "yes"


@dataclass(frozen=True, kw_only=True)
class Block:
    """Seeds of an arm and its reference that make one row of comparison.csv."""

    seeds: tuple[int, ...]
    """In the order in which looks take them."""

    sizes: tuple[int, ...]
    """So many of them at each planned look; one, of all that there are, where nothing was planned."""

    registered: str = UNREGISTERED
    """"yes", "no" or "amendment" and its date."""

    order: int = 0
    """Of the entry: its rows are corrected for as many comparisons as there were up to it."""

    family: int = 0
    """Comparisons that were planned up to then."""

    note: str = ""
    """Why it is not registered, though an entry names it."""

    @property
    def is_planned(self) -> bool:
        """Whether verdicts wait for the next look."""
        return self.family > 0

    def look(self, arm: Arm, reference: Arm) -> int:
        """The number of the last look that has been reached; 0 before the first.

        A seed is there when both sides have ended, be it by failing: who waited for a failed run could wait for ever.
        """
        if not self.is_planned:
            return len(self.sizes)
        there = self.there(arm, reference)
        return sum(there.issuperset(self.seeds[:size]) for size in self.sizes)

    def there(self, arm: Arm, reference: Arm) -> set[int]:
        """The seeds at which both sides have ended."""
        ours, theirs = ({run.seed for run in of.runs if run.has_ended} for of in (arm, reference))
        return ours & theirs & set(self.seeds)


def blocks_of(arm: Arm, reference: Arm, entries: Sequence[Entry]) -> list[Block]:
    """The rows of an arm against its reference; a registered one first."""
    if not entries:
        seeds = tuple(sorted({run.seed for run in (*arm.runs, *reference.runs)}))
        return [Block(seeds=seeds, sizes=(len(seeds),))]
    blocks: list[Block] = []
    known: tuple[int, ...] = ()
    family = 0
    is_known = False
    for order, entry in enumerate(entries):
        fresh = tuple(seed for seed in dict.fromkeys(entry.seeds) if seed not in known)
        known += fresh
        was_known, is_known = is_known, is_known or _names(entry, arm, reference)
        judged = fresh if was_known else known if is_known else ()
        family = _comparisons(entries[: order + 1])
        if judged:
            registered = REGISTERED if order == 0 else f"amendment {entry.when:%Y-%m-%d}"
            # The reference of a further arm has run before, by the registration of its own.
            early = [run.name for run in arm.runs if run.seed in judged and _began_before(run, entry.when)]
            early += [run.name for run in reference.runs if run.seed in fresh and _began_before(run, entry.when)]
            blocks.append(
                Block(
                    seeds=judged,
                    sizes=look_sizes(len(judged), entry.looks),
                    registered=UNREGISTERED if early else registered,
                    order=order,
                    family=family,
                    note=f"{early[0]} began before that was registered" if early else "",
                )
            )
    both = {run.seed for run in arm.runs} & {run.seed for run in reference.runs}
    if blocks and (strays := sorted(both - set(known))):
        said = f"without seed {', '.join(map(str, strays))}: not registered"
        blocks[0] = replace(blocks[0], note="; ".join(filter(None, [blocks[0].note, said])))
    if not blocks:
        seeds = tuple(sorted({run.seed for run in (*arm.runs, *reference.runs)}))
        return [Block(seeds=seeds, sizes=(len(seeds),), order=len(entries))]
    return blocks


def _names(entry: Entry, arm: Arm, reference: Arm) -> bool:
    """Whether an entry compares these two. Sizes are in the names of arms, and may be left out of an entry's."""
    names = {_without_size(name, entry): references for name, references in entry.arms.items()}
    references = names.get(_without_size(arm.step, entry), ())
    return bool({reference.base, _without_size(reference.step, entry)} & set(references))


def is_named(arm: Arm, entry: Entry) -> bool:
    """Whether an entry has this arm."""
    return _without_size(arm.step, entry) in {_without_size(name, entry) for name in entry.arms}


def _without_size(step: str, entry: Entry) -> str:
    return "@".join(part for part in step.split("@") if part.removeprefix(f"{SIZE}=") not in entry.sizes)


def _comparisons(entries: Sequence[Entry]) -> int:
    """How many there are by these entries: of each arm, at each size, that has one of its references beside it."""
    arms = {arm: references for entry in entries for arm, references in entry.arms.items()}
    steps = {arm.split("@")[0] for arm in arms}
    compared = [arm for arm, references in arms.items() if steps & set(references)]
    sizes = {size for entry in entries for size in entry.sizes}
    return len(compared) if any(f"{SIZE}=" in arm for arm in compared) else len(compared) * max(1, len(sizes))


def _began_before(run: RunRecord, when: datetime) -> bool:
    """Whether a run has begun, and not as it says after that."""
    return run.provenance is not None and (run.began is None or run.began < when)
