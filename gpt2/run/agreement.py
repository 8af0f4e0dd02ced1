"""Stops that the ranks of a run agree on, and ranks that have died.

A thread of each rank talks to the others through the store by which they met, which costs the training nothing: no look
at the device, and no call at any step. Every rank asks `Stop.requested` at the same places in the same order; once one
wants to stop, each lets nobody past its next look, says how many it has had, and all stop at the look after the one
that came furthest.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import time
import traceback
from datetime import timedelta
from pathlib import Path
from typing import NoReturn

from torch.distributed import PrefixStore, TCPStore

from gpt2.base.errors import UserError, one_line
from gpt2.machine.ranks import Ranks
from gpt2.run.processes import FAILED, INTERRUPTED, NOT_AS_ASKED, write_failure
from gpt2.run.stop import Stop

POLL_S = 0.2
ANSWER_S = 10.0
"""In which every rank says how far it is, which its thread can whatever it computes."""
SILENT_POLLS = 100
"""Of the neighbour, after which it counts as dead. Of polls and not seconds: a suspended machine does not poll."""


class RankError(Exception):
    """Why this rank cannot go on, in one line; what the others do meanwhile is not known."""


class MeetingPlace(PrefixStore):
    """What all ranks of the run in `out`, and whoever started them here, write to and read.

    A connection of its own: a thread that waits for an answer keeps others of the same connection waiting.
    """

    def __init__(self, out: Path) -> None:
        store = TCPStore(
            os.environ["MASTER_ADDR"],
            int(os.environ["MASTER_PORT"]),
            is_master=False,
            wait_for_workers=False,
            timeout=timedelta(seconds=60),
        )
        super().__init__(f"run/{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", store)
        self.rank = int(os.environ["RANK"])
        self._out = out
        self._store = store

    def fail(self, error: BaseException) -> NoReturn:
        """End this rank before the others, and say why.

        Whoever started the ranks tells the user, as gpt2/run/processes.py does. Where that was torchrun, this does.
        """
        known = isinstance(error, UserError | RankError | KeyboardInterrupt)
        words = one_line(error) if known else f"{type(error).__name__}: {one_line(error)}"
        with contextlib.suppress(RuntimeError):  # who keeps it may be the one who is gone
            self.set(f"words/{self.rank}", f"{self.add('deaths', 1)} {words}")  # which was the first
        if not known:
            traceback.print_exception(error)
        elif "TORCHELASTIC_RUN_ID" in os.environ:
            print(f"error: rank {self.rank}: {words}", file=sys.stderr)
        if isinstance(error, RankError) and self.rank == 0:
            with contextlib.suppress(OSError, UserError):
                write_failure(self._out, words)
        statuses = {UserError: NOT_AS_ASKED, KeyboardInterrupt: INTERRUPTED}
        self.end(next((status for kind, status in statuses.items() if isinstance(error, kind)), FAILED))

    def end(self, status: int) -> NoReturn:
        """End this process at once: an orderly end waits for threads of torch's, and they for other ranks."""
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


class AgreedStop(Stop):
    """A stop of all ranks at the same look, where one has a `wish` to. A rank whose others are dead ends at once."""

    def __init__(self, ranks: Ranks, place: MeetingPlace, *, wish: Stop) -> None:
        self._ranks = ranks
        self._store = place
        self._wish = wish
        self._turn = threading.Condition()
        self._looks = 0
        self._reason: str | None = None
        self._agreed: int | None = None
        """Looks that are passed by; None as long as that is not agreed."""
        self._left = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="agreement", daemon=True)
        self._store.set(f"beat/{ranks.rank}", "0")
        ranks.gather(None)  # all have set it
        self._thread.start()

    def defer(self) -> None:
        self._wish.defer()

    @property
    def requested(self) -> str | None:
        with self._turn:
            self._looks += 1
            while self._reason is not None and self._agreed is None:
                self._turn.wait()
            return self._reason if self._agreed is not None and self._looks > self._agreed else None

    def leave(self) -> None:
        """The run has ended for all ranks. To be called when all have got there."""
        self._store.set(f"left/{self._ranks.rank}", "")
        self._left.set()
        self._thread.join()

    def _watch(self) -> None:
        beats, last, silent = 0, b"", 0
        neighbour = (self._ranks.rank + 1) % self._ranks.world_size
        while not self._left.wait(POLL_S):
            try:
                beats += 1
                self._store.set(f"beat/{self._ranks.rank}", str(beats))
                beat = self._store.get(f"beat/{neighbour}")
                silent = 0 if beat != last or self._store.check([f"left/{neighbour}"]) else silent + 1
                last = beat
                if self._reason is None:
                    self._agree()
            except RuntimeError as error:  # DistStoreError and its kin
                if not self._left.is_set():
                    self._end(f"whoever started the ranks is gone: {str(error).splitlines()[0]}")
                return
            if silent > SILENT_POLLS:
                self._end(f"rank {neighbour} has not been heard of for {SILENT_POLLS * POLL_S:.0f} s")

    def _end(self, line: str) -> None:
        self._store.fail(RankError(line))

    def _agree(self) -> None:
        """See whether anybody wants to stop, and then at which look."""
        wish = self._wish.requested
        if wish:
            self._store.compare_set("stop", "", wish)
        if not self._store.check(["stop"]):
            return
        with self._turn:
            self._reason, looks = self._store.get("stop").decode(), self._looks
        self._store.set(f"looks/{self._ranks.rank}", str(looks))
        answers = [f"looks/{rank}" for rank in range(self._ranks.world_size)]
        until = time.monotonic() + ANSWER_S
        while not self._store.check(answers):
            if self._left.is_set():
                return
            if time.monotonic() > until:
                silent = [rank for rank, answer in enumerate(answers) if not self._store.check([answer])]
                self._end(f"rank {silent[0]} does not answer")
                return
            time.sleep(POLL_S / 10)
        with self._turn:
            self._agreed = max(int(self._store.get(answer)) for answer in answers)
            self._turn.notify_all()
