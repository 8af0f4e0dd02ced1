"""What has been asked of an experiment, and when: one arm today, another tomorrow. All of it together is its plan.

<experiment>/asked/20261125T152233.000000Z.config     a complete configuration for each time something new was asked
<experiment>/config                                   the newest of them
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from pathlib import Path

from gpt2.base.errors import UserError
from gpt2.base.files import make_directory, write_text
from gpt2.dotconfig import Resolved, load_complete
from harness.configure.plan import Plan, PlannedRun, Trials, make_plan

_FORM = "%Y%m%dT%H%M%S.%fZ"


@dataclass(frozen=True, kw_only=True)
class Request:
    """One time that something was asked of an experiment."""

    when: datetime | None
    """UTC; None where it was before these were kept."""

    path: Path
    """The configuration."""


def record_request(plan: Plan) -> None:
    """Keep what a plan was made from in its experiment's directory, unless it has been asked before."""
    asked = plan.directory / "asked"
    make_directory(asked)
    known = [(request, _text(request.path)) for request in requests(plan.directory)]
    for request, text in known:
        if request.when is None:  # how the experiment was started, before all of it was kept
            began = datetime.fromtimestamp(request.path.stat().st_mtime, timezone.utc)
            write_text(asked / f"{began.strftime(_FORM)}.config", text)
    if plan.base.text() not in [text for _, text in known]:
        plan.base.write(asked / f"{datetime.now(timezone.utc).strftime(_FORM)}.config")
    plan.base.write(plan.directory / "config")


def requests(directory: Path) -> list[Request]:
    """What has been asked of an experiment, oldest first. None where its runs were trained by hand."""
    found = [Request(when=_when(path), path=path) for path in sorted((directory / "asked").glob("*.config"))]
    config = directory / "config"
    if config.exists() and _text(config) not in [_text(request.path) for request in found]:
        found.append(Request(when=None, path=config))
    return found


def asked_plan(directory: Path, load: Callable[[Path], Resolved] = load_complete) -> Plan:
    """All runs that have ever been asked of an experiment, in the order in which they were first.

    Of a run that was asked for twice the newer configuration counts: they differ in what changes no number, or the
    second would have been refused. Raises UserError where a configuration is damaged, or there is none.
    """
    plans = [make_plan(load(request.path), asked=()) for request in requests(directory)]
    if not plans:
        raise UserError(f"{directory / 'config'}: cannot be read: No such file or directory")
    trials = [plan.trials for plan in plans if plan.trials is not None]
    tuning = None
    if trials:
        tuning = _all_trials(trials)
    on_noise = frozenset[str]().union(*(plan.also_on_noise for plan in plans))
    return replace(plans[-1], runs=_all(plans), trials=tuning, also_on_noise=on_noise)


def _all_trials(trials: Sequence[Trials]) -> Trials:
    """Each arm as it was asked for last, but that it has as many runs as any was to have: before the first make of them
    begins nothing says how many."""
    return Trials(
        plan=replace(trials[-1].plan, runs=_all([each.plan for each in trials])),
        arms={arm: of for each in trials for arm, of in each.arms.items()},
        runs=max(each.runs for each in trials),
        references={arm: of for each in trials for arm, of in each.references.items()},
    )


def _all(plans: Sequence[Plan]) -> tuple[PlannedRun, ...]:
    """The runs of plans, each once."""
    runs: dict[str, PlannedRun] = {}
    for plan in plans:
        runs |= {run.name: run for run in plan.runs}
    return tuple(runs.values())


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace")


def _when(path: Path) -> datetime:
    try:
        return datetime.strptime(path.stem, _FORM).replace(tzinfo=timezone.utc)
    except ValueError:
        raise UserError(f"{path}: is no name of a time, such as 20261125T152233.000000Z.config; remove it") from None
