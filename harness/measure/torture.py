"""Killing makes, at moments and at places of chance, and seeing whether anything is lost or false in the end.

    tortured = torture(folder, kills=20, seed=1, workers=2, look=print_status)
    print(len(tortured.kills), tortured.wrong)

A trial is a folder with a `.config`, in which `make` is struck several times and then left in peace. It has to end as a
make does that was left in peace from the beginning: `harness/measure/truths.py` says in what.
"""

from __future__ import annotations

import random
import shutil
import signal
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

from gpt2.base.errors import UserError
from harness.configure.plan import Plan, PlannedRun
from harness.measure import faults, truths
from harness.measure.makes import PATIENCE_S, Make, environment, fault_environment, prepared
from harness.measure.places import PLACES, Deck, Place, what_is_there

SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)

STRIKES = tuple((number, target) for number in SIGNALS for target in faults.TARGETS)
"""Every signal to everybody."""

MOMENT = "moment"
"""The name of a place that is none: a delay of chance."""

KILLS_OF_A_TRIAL = 10

STEPS_OF_STOPPING = 60
"""Steps, half a run's, that whoever has been told to stop may have logged by the time that it has heard it."""


@dataclass(frozen=True, kw_only=True)
class Kill:
    """One kill, and what became of it."""

    trial: int
    place: str
    """Name of the place, or MOMENT."""

    signal: str
    target: str
    ended_s: float
    """From the strike until there was no process left. Who was not asked to stop trains on."""

    wrong: list[str]
    """What was false then, or left, or lost."""


@dataclass(kw_only=True)
class Tortured:
    """What came of it all."""

    peaceful_s: float = 0.0
    """A make that was left in peace."""

    kills: list[Kill] = field(default_factory=list)
    missed: int = 0
    """Makes that were done before they came to the place or moment."""

    trials: int = 0
    lost: list[str] = field(default_factory=list)
    """Runs that were not done at the end, or had to do again what a checkpoint held."""

    differ: list[str] = field(default_factory=list)
    left: list[str] = field(default_factory=list)
    """Processes, or what trained on that had been told to stop."""

    false: list[str] = field(default_factory=list)
    """What files, or make's exit status, said that was not so."""

    @property
    def wrong(self) -> list[str]:
        """All of it."""
        return self.lost + self.differ + self.left + self.false


def torture(
    folder: Path,
    *,
    kills: int,
    seed: int,
    workers: int,
    look: Callable[[Plan], object],
    settings: Mapping[str, str] = MappingProxyType({}),
    places: Sequence[Place] = PLACES,
    strikes: Sequence[tuple[int, str]] = STRIKES,
    moments: bool = True,
    report: Callable[[Tortured], object] = lambda tortured: None,
) -> Tortured:
    """Strike makes in `folder` so often that `kills` of them were hit, `workers` side by side.

    `look` is what `make status` does with a plan; `report` is called after each trial. `places`: those to be struck at;
    with `moments` half of all kills are at none. The folder of a trial in which anything was wrong stays. Raises
    UserError where even a make that is left in peace fails.
    """
    # Where this process was started with SIGINT ignored, what it starts would ignore it too.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        dice = random.Random(seed)
        work = _Work(folder.resolve(), kills, dice, settings, places, strikes, moments, look, report)
        with ThreadPoolExecutor(workers, "trial") as threads:
            working: list[Future[None]] = []
            try:
                work.leave_in_peace()
                working += [threads.submit(work.go_on, seed) for _ in range(workers)]
                for each in working:
                    each.result()
            except BaseException:
                work.is_over = True
                work.kill_all()
                while not all(each.done() for each in working):
                    time.sleep(0.1)
                    work.kill_all()
                raise
        return work.tortured
    finally:
        signal.signal(signal.SIGINT, before)


class _Work:
    """What trials share: the decks, the make left in peace, what was found."""

    def __init__(
        self,
        folder: Path,
        kills: int,
        dice: random.Random,
        settings: Mapping[str, str],
        places: Sequence[Place],
        strikes: Sequence[tuple[int, str]],
        moments: bool,
        look: Callable[[Plan], object],
        report: Callable[[Tortured], object],
    ) -> None:
        self.folder, self.settings, self.look, self.report = folder, settings, look, report
        self.lock = threading.Lock()
        self.is_over = False
        """Whether it was interrupted: nothing is to be started, or looked at, any more."""
        self.places = Deck(places, dice)
        self.kinds = Deck([*([MOMENT] * moments), *(["place"] * bool(places))], dice)
        self.strikes = Deck(strikes, dice)
        self.kills_left = kills
        self.tortured = Tortured()
        self.make_s = 0.0
        """How long a make takes that is left in peace, by the last one: a busy machine is slower."""
        self.environment = environment()
        self.peaceful = prepared(folder / "peaceful", folder / "data", settings)

    def leave_in_peace(self) -> None:
        """Run what all trials are compared with. UserError if it fails."""
        folder = self.folder / "peaceful"
        make = Make(folder, self.environment)
        status = make.wait()
        self.make_s = self.tortured.peaceful_s = make.seconds()
        if status or not all(run.is_done for run in self.peaceful.runs):
            raise UserError(f"make left in peace: exit status {status}; see {folder / 'make.log'}")

    def go_on(self, seed: int) -> None:
        """Trial after trial, until there are enough kills."""
        while not self.is_over:
            with self.lock:
                if self.kills_left <= 0:
                    return
                self.tortured.trials += 1
                number = self.tortured.trials
            trial = _Trial(self, number, random.Random(f"{seed}/{number}"))
            try:
                trial.run()
            except Exception:
                if not self.is_over:
                    raise
            with self.lock:
                self.report(self.tortured)

    def kill_all(self) -> None:
        """Kill what works in the folders below this one."""
        for folder in filter(Path.is_dir, self.folder.iterdir()):
            faults.strike(str(folder), signal.SIGKILL, "everything")

    def claim(self) -> bool:
        """Whether there is a kill left to do, which is then the caller's."""
        with self.lock:
            self.kills_left -= 1
            return self.kills_left >= 0


class _Trial:
    """A folder in which make is struck several times."""

    def __init__(self, work: _Work, number: int, dice: random.Random) -> None:
        self.work, self.number, self.dice = work, number, dice
        self.folder = work.folder / f"trial-{number}"
        with work.lock:  # one tree of symbols serves all
            self.plan = prepared(self.folder, work.folder / "data", work.settings)
        self.steps = truths.newest_steps(self.plan)
        self.is_clean = True

    def run(self) -> None:
        """Strike until nothing is left to be trained, then let make finish."""
        was_struck = True
        for number in range(KILLS_OF_A_TRIAL):
            unfinished = [run for run in self.plan.runs if not truths.is_done(run)]
            if not unfinished or self.work.is_over or not self.work.claim():
                break
            was_struck = self._kill(number, self.dice.choice(unfinished))
            if not self.is_clean:  # what is spoiled stays as it is
                return
            if not was_struck:
                with self.work.lock:
                    self.work.kills_left += 1
                    self.work.tortured.missed += 1
                break
        if self.work.is_over:
            return
        if was_struck:
            self._left_in_peace(Make(self.folder, self.work.environment), self._share())
        if self.is_clean:
            shutil.rmtree(self.folder)

    def _kill(self, number: int, run: PlannedRun) -> bool:
        """Strike one make. Whether it was still there to be struck; if not, it has finished."""
        with self.work.lock:
            kind = self.work.kinds.draw(lambda kind: True)
            there = what_is_there(run.path)
            place = None if kind == MOMENT else self.work.places.draw(lambda of: not of.needs or of.needs in there)
        return self._at_a_moment() if place is None else self._at(place, run, number)

    def _share(self) -> float:
        """Of the time of a make that has everything to do: half of it is importing, and the other the runs."""
        return (1 + sum(not truths.is_done(run) for run in self.plan.runs) / len(self.plan.runs)) / 2

    def _at_a_moment(self) -> bool:
        share = self._share()
        make = Make(self.folder, self.work.environment)
        delay = self.dice.uniform(0, share * self.work.make_s)
        while make.seconds() < delay:
            if make.process.poll() is not None:
                self._left_in_peace(make, share)
                return False
            time.sleep(0.01)
        there = {*faults.processes(str(self.folder)).values(), "group", "everything"}
        with self.work.lock:
            strike = self.work.strikes.draw(lambda strike: strike[1] in there)
        assert strike is not None
        struck = faults.strike(str(self.folder), *strike)
        if not struck:  # it has just ended
            self._left_in_peace(make, share)
            return False
        self._see(make, MOMENT, strike, time.time())
        return True

    def _at(self, place: Place, run: PlannedRun, number: int) -> bool:
        with self.work.lock:
            # There is no trainer yet, or no longer, where the runner writes.
            strike = self.work.strikes.draw(lambda strike: strike[1] != "trainer" or place.by == "trainer")
        assert strike is not None
        marker = self.folder / f"struck-{number}"
        fault = faults.Fault(
            call=place.call,
            pattern=place.path(run.path, self.folder),
            when=place.when,
            nth=1 + int(place.most * self.dice.random() ** 2),
            by=place.by,
            signal=strike[0],
            target=strike[1],
            folder=str(self.folder),
            marker=str(marker),
        )
        share = self._share()
        make = Make(self.folder, self.work.environment | fault_environment(fault, self.work.folder))
        while make.process.poll() is None and not marker.exists():
            time.sleep(0.01)
        if not marker.exists():
            with self.work.lock:
                self.work.places.give_back(place)
                self.work.strikes.give_back(strike)
            self._left_in_peace(make, share)
            return False
        self._see(make, place.name, strike, marker.stat().st_mtime)
        return True

    def _see(self, make: Make, place: str, strike: tuple[int, str], struck_at: float) -> None:
        """Wait until all is quiet after a strike, and look at what there is."""
        number, target = strike
        what = f"trial {self.number}, {signal.Signals(number).name} to {target} at {place}"
        # Others than these know nothing of it, or go on with the next run.
        stops = target in ("runner", "group", "everything") or strike == (signal.SIGTERM, "make")
        patience = PATIENCE_S if stops else PATIENCE_S + 10 * self.work.tortured.peaceful_s
        before = truths.steps_logged(self.plan)
        left = make.quiet(struck_at + patience - time.time())
        more = truths.steps_logged(self.plan) - before
        if stops and more > STEPS_OF_STOPPING:
            left.append(f"{more} steps were trained by who was told to stop")
        ended_s = time.time() - struck_at
        false = truths.what_is_false(self.plan, self.work.peaceful, self.work.look)
        status = make.process.returncode
        if status == 0 and not all(map(truths.is_done, self.plan.runs)):
            false.append("make's exit status is 0, and not all is done")
        lost = self._lost()
        kill = Kill(
            trial=self.number,
            place=place,
            signal=signal.Signals(number).name,
            target=target,
            ended_s=round(ended_s, 2),
            wrong=[*left, *false, *lost],
        )
        with self.work.lock:
            tortured = self.work.tortured
            tortured.kills.append(kill)
            tortured.left += [f"{what}: {each}" for each in left]
            tortured.false += [f"{what}: {each}" for each in false]
            tortured.lost += [f"{what}: {each}" for each in lost]
        self.is_clean &= not kill.wrong

    def _lost(self) -> list[str]:
        """Runs whose newest whole checkpoint is older than it was."""
        before, self.steps = self.steps, truths.newest_steps(self.plan)
        return [
            f"{run}: had a checkpoint of step {before[run]}, and has one of {step}"
            for run, step in self.steps.items()
            if step < before[run]
        ]

    def _left_in_peace(self, make: Make, share: float) -> None:
        """Let a make end that nobody strikes, and look whether all is as it should be."""
        status = make.wait()
        if share > 0.5:
            self.work.make_s = make.seconds() / share
        lost = [f"{run.name}: is not done" for run in self.plan.runs if not truths.is_done(run)] + self._lost()
        false = truths.what_is_false(self.plan, self.work.peaceful, self.work.look)
        if (status == 0) != all(map(truths.is_done, self.plan.runs)):
            false.append(f"make's exit status is {status}")
        differ = truths.what_differs(self.plan, self.work.peaceful)
        what = f"trial {self.number}, at the end ({self.folder})"
        with self.work.lock:
            self.work.tortured.lost += [f"{what}: {each}" for each in lost]
            self.work.tortured.false += [f"{what}: {each}" for each in false]
            self.work.tortured.differ += [f"{what}: {each}" for each in differ]
        self.is_clean &= not (lost or false or differ)
