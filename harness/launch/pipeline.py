"""Training the runs of a plan in slots: while one trains, the next gets ready, and takes the device when it is free.

On a processor it does not: it would take the cores that the other trains on (docs/log.md has what that cost).
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from gpt2.run.lock import HeldElsewhere, RunLock
from gpt2.run.record import AnotherRun
from harness.configure.plan import PlannedRun
from harness.launch import signals
from harness.launch.launchers import POLL_S, Slot
from harness.launch.running import Running
from harness.launch.terminal import LiveView

CORES_PER_COMPILATION = 4
"""Of torch.compile, which has one thread that traces and several that generate code."""


class Pipeline:
    """Trains `runs`, in their order as far as it is for this to say.

    identities: of each run's directory. `given`: settings of a command line, for the record. `ended` is called with a
    run's outcome. Without `keep_going` nothing is begun after a failure, and what trains is stopped.
    """

    def __init__(
        self,
        runs: Sequence[PlannedRun],
        slots: Sequence[Slot],
        view: LiveView,
        *,
        identities: Mapping[Path, dict[str, Any]],
        given: Sequence[str] = (),
        keep_going: bool = True,
        ended: Callable[[], object] = lambda: None,
    ) -> None:
        self.failed = 0
        self.trained: list[Running] = []
        """What this has trained, whatever became of it."""
        self.done: list[PlannedRun] = []
        """What of it has ended well."""
        self.trains_since: float | None = None
        """By time.monotonic(): when the first run took its device."""
        self._waiting = list(runs)
        self._elsewhere: list[PlannedRun] = []
        self._active: list[Running] = []
        self._alone: set[str] = set()
        """Names of runs that did not fit beside others."""
        self._begun: set[str] = set()
        """Shapes of which a run has been started."""
        self._slots, self._view, self._identities, self._given = slots, view, identities, given
        self._keep_going, self._ended = keep_going, ended

    def run(self) -> bool:
        """Train them all. Returns whether that was not interrupted."""
        stopping = ""
        with signals.collected() as came:
            while self._active or ((self._waiting or self._elsewhere) and not stopping):
                if came and stopping != "Ctrl-C":
                    self._view.say("stopping at the next step, with a checkpoint; Ctrl-C again to kill")
                    self._signal(signal.SIGINT)
                    stopping = "Ctrl-C"
                if len(came) > 1:
                    self._signal(signal.SIGKILL)
                if self.failed and not self._keep_going and not stopping:
                    left = len(self._waiting) + len(self._elsewhere)
                    self._view.say(f"stopping, KEEP_GOING=n: {len(self._active)} stopped, {left} not begun")
                    self._signal(signal.SIGINT)
                    stopping = "failure"
                if not stopping:
                    self._start_what_can_be()
                for running in list(self._active):
                    self._attend(running, interrupted=bool(stopping))
                if self._active:
                    time.sleep(POLL_S)
                elif not self._waiting and self._elsewhere and not stopping:
                    _wait_for_one_of(self._elsewhere, until=lambda: bool(came))
                    self._waiting, self._elsewhere = self._elsewhere, []
        return stopping != "Ctrl-C"

    def _start_what_can_be(self) -> None:
        while self._waiting and (slot := self._free_slot(self._waiting[0])):
            self._start(self._waiting.pop(0), slot)

    def _free_slot(self, run: PlannedRun) -> Slot | None:
        """Where a run may get ready now; None where it has to wait."""
        is_alone = run.name in self._alone
        may = [
            slot
            for slot in self._slots
            if not (others := self._on_device(slot)) or not (is_alone or any(r.run.name in self._alone for r in others))
        ]
        if not may:
            return None

        def getting_ready(slot: Slot) -> int:
            return sum(r.slot is slot and not r.is_training for r in self._active)

        def on(slot: Slot) -> int:
            return sum(r.slot is slot for r in self._active)

        slot = min(may, key=lambda slot: (getting_ready(slot), on(slot)))
        if slot.is_processor:
            return None if on(slot) else slot
        if not getting_ready(slot):
            return slot
        # What is compiled for the first time takes longest, and mostly one thread: side by side.
        compiles = run.config.train.compile != "none" and run.shape not in self._begun
        room = (os.cpu_count() or 1) // CORES_PER_COMPILATION
        return slot if compiles and sum(map(getting_ready, self._slots)) < room and not self._alone else None

    def _on_device(self, slot: Slot) -> list[Running]:
        """What is on a slot's device, whether it trains or gets ready."""
        return [running for running in self._active if running.slot.device == slot.device]

    def _start(self, run: PlannedRun, slot: Slot) -> None:
        try:
            running = Running(run, self._identities[run.path], slot, self._given)
        except HeldElsewhere as error:
            self._view.elsewhere(run.name, str(error))
            self._elsewhere.append(run)
            return
        except AnotherRun as error:
            self._view.refused(run.name, str(error))
            self.failed += 1
            return
        if running.is_done_already:
            self._view.skipped(run.name)
            running.release()
            return
        self._begun.add(run.shape)
        self._view.started(run.name, slot.name)
        self.trained.append(running)
        self._active.append(running)
        together = self._on_device(slot)
        for one in together if len(together) > 1 else []:
            one.was_beside_others = True

    def _attend(self, running: Running, *, interrupted: bool) -> None:
        """Pass on what a run says, and see whether it has ended."""
        has_ended = running.has_ended
        for line in running.news():
            self._view.update(running.run.name, line)
        if running.is_training and self.trains_since is None:
            self.trains_since = time.monotonic()
        if not has_ended:
            return
        self._active.remove(running)
        running.release()
        name = running.run.name
        status, reason = running.outcome(interrupted=interrupted)
        if status == "failed" and "out of memory" in reason and running.was_beside_others and name not in self._alone:
            self._view.say(f"{name}: not enough memory beside another run: again, alone on a device ({reason})")
            self._alone.add(name)
            self._waiting.insert(0, running.run)
            return
        if status == "done":
            self.done.append(running.run)
        self._view.ended(name, status, reason)
        self.failed += status == "failed"
        self._ended()

    def _signal(self, sig: int) -> None:
        for running in self._active:
            running.send_signal(sig)


def _wait_for_one_of(runs: Sequence[PlannedRun], until: Callable[[], bool]) -> None:
    """Wait until one of the runs that other processes train is let go, or `until`."""
    while all(RunLock.is_held(run.path) for run in runs) and not until():
        time.sleep(POLL_S)
