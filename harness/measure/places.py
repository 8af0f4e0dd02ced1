"""The places at which a make is struck: around and inside everything that it writes, renames, removes and locks.

deck = Deck(PLACES, random.Random(1))
place = deck.draw(lambda place: not place.needs or place.needs in what_is_there(run))
"""

from __future__ import annotations

import glob
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Place:
    """What a process does to a file."""

    file: str
    """What the file is."""

    doing: str
    """What is being done to it, for people."""

    call: str
    """See faults.Fault, and so for the four below."""

    pattern: str
    """Relative to the run's directory; beginning with `../../` or `/`, to the experiment's or the trial's."""

    when: str
    by: str
    most: int = 1
    """How often a process may come here in a run that is young."""

    needs: str = ""
    """What an earlier process must have left for anybody to come here: a name of `what_is_there`."""

    @property
    def name(self) -> str:
        """Of the place."""
        return f"{self.file}: {self.doing}"

    def path(self, run: Path, trial: Path) -> str:
        """`pattern` of a run of a trial, absolute."""
        base, pattern = run, self.pattern
        if pattern.startswith("/"):
            base, pattern = trial, pattern[1:]
        while pattern.startswith("../"):
            base, pattern = base.parent, pattern[3:]
        return f"{glob.escape(str(base))}/{pattern}"


def _places(
    file: str, pattern: str, by: str, *steps: tuple[str, str, str], most: int = 1, needs: str = ""
) -> list[Place]:
    """Of one file; `steps`: what is being done, the call, when."""
    return [
        Place(file=file, doing=doing, call=call, pattern=pattern, when=when, by=by, most=most, needs=needs)
        for doing, call, when in steps
    ]


_WHOLE = (
    ("half written", "write", "before"),
    ("not yet on the disk", "fsync", "before"),
    ("about to be named", "replace", "before"),
    ("just named", "replace", "after"),
)
"""A file that is written beside its place, brought to the disk, and renamed."""

PLACES = (
    # A checkpoint is written in a hundred pieces or so.
    *_places("checkpoint", "checkpoints/.step-*.unchecked.*.tmp", "trainer", _WHOLE[0], most=300),
    *_places("checkpoint", "checkpoints/.step-*.unchecked.*.tmp", "trainer", *_WHOLE[1:], most=5),
    *_places("checksum", "checkpoints/.step-*.sha256.*.tmp", "trainer", *_WHOLE, most=5),
    *_places(
        "checked checkpoint",
        "checkpoints/step-*.unchecked",
        "trainer",
        ("about to be named", "replace", "before"),
        ("just named", "replace", "after"),
        most=5,
    ),
    *_places(
        "old checkpoint",
        "checkpoints/step-*.pt",
        "trainer",
        ("about to be removed", "unlink", "before"),
        ("removed, its checksum not", "unlink", "after"),
        most=4,
    ),
    *_places("old checksum", "checkpoints/step-*.pt.sha256", "trainer", ("just removed", "unlink", "after"), most=4),
    *_places("checkpoints' folder", "checkpoints", "trainer", ("just made", "mkdir", "after"), needs="no checkpoints"),
    *_places("summary", ".summary.json.*.tmp", "trainer", *_WHOLE),
    *_places("provenance", ".provenance.json.*.tmp", "trainer", *_WHOLE),
    *_places("metrics", "metrics.jsonl", "trainer", ("just opened", "open", "after")),
    *_places("metrics", "metrics.jsonl", "trainer", ("half a line", "write", "before"), most=20),
    *_places(
        "metrics",
        "metrics.jsonl",
        "trainer",
        ("half a line about to be cut off", "truncate", "before"),
        ("half a line just cut off", "truncate", "after"),
        needs="metrics",
    ),
    *_places("config", ".config.*.tmp", "runner", *_WHOLE),
    *_places("config, again", ".config.*.tmp", "trainer", *_WHOLE),
    *_places("experiment's config", "../../.config.*.tmp", "runner", *_WHOLE),
    *_places("what was asked", "../../asked/.*.config.*.tmp", "runner", *_WHOLE, needs="nothing asked"),
    *_places("experiment's name", "/..last-experiment.*.tmp", "runner", *_WHOLE),
    *_places("summary.csv", "../../.summary.csv.*.tmp", "runner", *_WHOLE),
    *_places(
        "lock",
        ".lock",
        "runner",
        ("about to be taken", "flock", "before"),
        ("just taken", "flock", "after"),
        ("emptied", "ftruncate", "after"),
        ("signed", "pwrite", "after"),
    ),
    *_places(
        "lock, shared", ".lock", "trainer", ("just taken over", "flock", "after"), ("emptied", "ftruncate", "after")
    ),
    *_places("lease", ".lease.*.tmp", "runner", ("half written", "write", "before"), ("just named", "unlink", "after")),
    *_places("lease, shared", ".lease.*.tmp", "trainer", ("half written", "write", "before"), *_WHOLE[2:]),
    *_places("lease", ".lease", "trainer", ("just given back", "unlink", "after")),
    *_places(
        "what was left",
        "*",
        "runner",
        ("about to be swept", "unlink", "before"),
        ("just swept", "unlink", "after"),
        needs="leftovers",
    ),
)
"""Every one of them."""


def what_is_there(run: Path) -> set[str]:
    """What earlier processes have left in a run's directory, as Place.needs."""
    checkpoints = run / "checkpoints"
    left = [
        *run.glob(".*.tmp"),
        *run.glob("summary.json"),
        *checkpoints.glob(".*.tmp"),
        *checkpoints.glob("*.unchecked"),
    ]
    left += [path for path in checkpoints.glob("*.sha256") if not path.with_suffix("").exists()]
    found = {
        "metrics": (run / "metrics.jsonl").exists(),
        "leftovers": bool(left),
        "no checkpoints": not checkpoints.exists(),
        "nothing asked": not any((run.parent.parent / "asked").glob("*.config")),
    }
    return {name for name, is_there in found.items() if is_there}


class Deck(Generic[T]):
    """Cards in an order of chance, each once before any comes twice."""

    def __init__(self, cards: Sequence[T], dice: random.Random) -> None:
        self._cards, self._dice = list(cards), dice
        self._stack: list[T] = []

    def draw(self, fits: Callable[[T], bool]) -> T | None:
        """The topmost card that fits; None if none of all does."""
        for _ in range(2):
            for card in self._stack:
                if fits(card):
                    self._stack.remove(card)
                    return card
            self._stack += self._dice.sample(self._cards, len(self._cards))
        return None

    def give_back(self, card: T) -> None:
        """It was not used: it comes again, after the others."""
        self._stack.append(card)
