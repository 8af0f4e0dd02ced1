"""Whether registration.json says what was asked: it was made of configurations that are kept in asked/."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from datetime import timedelta
from pathlib import Path

from gpt2.base.errors import UserError
from gpt2.dotconfig import load
from harness.configure.plan import make_plan
from harness.configure.registration import REGISTRATION, Entry, asked_by, hashes_of_steps, read_registration, sha256
from harness.configure.requests import Request, requests
from harness.evidence.store import Experiment

_WRITTEN_WITHIN = timedelta(seconds=2)
"""Times of entries are in whole seconds."""


def registration_errors(experiment: Path) -> Iterator[str]:
    """What registration.json has otherwise than the configurations that it was made of, one sentence each.

    Raises UserError where it is damaged, or an entry is not the one that the next was written after.
    """
    path = experiment / REGISTRATION
    asked = requests(experiment)
    entries = read_registration(path)
    if not entries and any(request.when for request in asked):
        yield f"{path}: is not here: what was asked before the first run cannot be told"
    by_hash = {sha256(request.path.read_text(encoding="utf-8", errors="replace")): request for request in asked}
    for number, entry in enumerate(entries, start=1):
        request = by_hash.get(str(entry.hashes.get("config")))
        if request is None:
            yield f"{path}: entry {number}: no configuration in {experiment / 'asked'} is the one that it was made of"
        else:
            yield from (f"{path}: entry {number}: {said}" for said in _unlike(entry, request))


def entries_of(experiment: Experiment) -> tuple[Entry, ...]:
    """The entries of an experiment's registration; none where it has none, or a damaged one: `registration_errors`
    says so."""
    with suppress(UserError):
        return experiment.registration
    return ()


def _unlike(entry: Entry, request: Request) -> Iterator[str]:
    """In what an entry is not what a configuration asks for."""
    name = f"asked/{request.path.name}" if request.when else request.path.name
    if request.when and entry.when < request.when - _WRITTEN_WITHIN:
        yield f"when is {entry.when:%Y-%m-%d %H:%M:%S}, and it was asked at {request.when:%Y-%m-%d %H:%M:%S} ({name})"
    try:
        plan = make_plan(load(request.path), asked=())
    except UserError:  # of another version of the code: what was asked then is not known to this one
        return
    is_of_now = entry.hashes.get("steps") == hashes_of_steps(plan)
    for key, value in asked_by(plan).items():
        found = _plain(getattr(entry, key))
        if isinstance(found, dict) and isinstance(value, dict):
            # From how many runs each arm is chosen, the first make says, which this configuration need not be of.
            found, value = ({of: said for of, said in side.items() if of != "runs"} for side in (found, value))
        # What a fragment that is another now says: whom an arm is compared with, and so the question.
        if found != value and (is_of_now or key not in ("arms", "question")):
            yield f"{key} is {found}, and {value} by {name}"


def _plain(value: object) -> object:
    """As JSON has it."""
    if isinstance(value, tuple):
        return list(value)
    return {key: _plain(of) for key, of in value.items()} if isinstance(value, dict) else value
