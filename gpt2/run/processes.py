"""Starting the ranks of a run on this machine, and what becomes of the run when one of them dies.

They get torchrun's environment, and torchrun itself can start them (docs/howto-ranks.md). It does not do so here, for
two reasons. It closes the lock that a run's directory is held by, which the ranks have to share: else those of a
launcher that was killed write on while another trainer begins. And it waits half a minute for ranks that hang because
another has died.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path

from torch.distributed import PrefixStore, Store, TCPStore

from gpt2.base.errors import UserError
from gpt2.base.files import read_json, write_json
from gpt2.run.stop import Stop

POLL_S = 0.05
GRACE_S = 1.0
"""In which a rank that fails by itself can say why, when another has."""

FAILED, NOT_AS_ASKED, INTERRUPTED = 1, 2, 130
"""Exit statuses."""

Process = subprocess.Popen[bytes]


def train_in_ranks(program: Path, arguments: Sequence[str], world_size: int, out: Path, lock: int, stop: Stop) -> int:
    """Have `world_size` ranks train the run in `out`, each a process of `program` with `arguments`.

    Returns rank 0's exit status or, where a rank has died, 1, and says so in the summary. UserError where what is asked
    for cannot be had. `lock`: of `out`, to be shared with rank 0.
    """
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False, timeout=timedelta(seconds=60))
    command = [sys.executable, "-u", str(program), *arguments, "--stop-with-parent"]
    ranks = [
        subprocess.Popen(
            [*command, "--lock-fd", str(lock)] if rank == 0 else command,
            pass_fds=[lock] if rank == 0 else [],
            stdin=subprocess.PIPE,  # by whose end they notice that of this process
            env=_environment(rank, world_size, store.port),
            start_new_session=True,  # Ctrl-C reaches this process alone, which passes it on
        )
        for rank in range(world_size)
    ]
    place = PrefixStore("run/0", store)
    try:
        stop.defer()
        if not _wait(ranks, place, stop):
            return ranks[0].returncode
        deadline = time.monotonic() + GRACE_S
        while time.monotonic() < deadline and any(process.poll() is None for process in ranks):
            time.sleep(POLL_S)
        dead = _dead(ranks, place)
    finally:
        for process in ranks:
            process.kill()
            process.wait()
    return _of_the_dead(dead, ranks, place, out, stop)


def _environment(rank: int, world_size: int, port: int) -> dict[str, str]:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    defaults = {"OMP_NUM_THREADS": str(max(1, cores // world_size))}
    if sys.platform == "linux":
        defaults["GLOO_SOCKET_IFNAME"] = "lo"  # all of them are here, whatever this machine's name stands for
    return {
        **defaults,
        **os.environ,
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(world_size),
        "LOCAL_WORLD_SIZE": str(world_size),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "TORCHELASTIC_USE_AGENT_STORE": "True",  # this process keeps it, so that it survives any rank
        "TORCHELASTIC_RESTART_COUNT": "0",
    }


def _wait(ranks: Sequence[Process], place: Store, stop: Stop) -> bool:
    """Wait until all ranks have ended, or one without the others; whether one has. Passes on what stops them."""
    told = False
    while True:
        if stop.requested and not told:
            told = True
            for process in ranks:
                if name := stop.signal:
                    process.send_signal(name)
                else:
                    assert process.stdin is not None
                    process.stdin.close()
        have_ended = all(process.poll() is not None for process in ranks)
        if _dead(ranks, place):
            return True
        if have_ended:
            return False
        time.sleep(POLL_S)


def _dead(ranks: Sequence[Process], place: Store) -> list[int]:
    """The ranks that have ended before the run has."""
    ended = [rank for rank, process in enumerate(ranks) if process.poll() is not None]
    return [rank for rank in ended if not place.check([f"left/{rank}"])]


def _of_the_dead(dead: Sequence[int], ranks: Sequence[Process], place: Store, out: Path, stop: Stop) -> int:
    """What comes of a run whose ranks `dead` have ended before the others."""
    words = {rank: place.get(f"words/{rank}").decode() for rank in dead if place.check([f"words/{rank}"])}

    def order(rank: int) -> tuple[bool, int]:
        # One that was killed, or that says nothing, is why others failed, and not the other way round.
        return rank in words, int(words[rank].split()[0]) if rank in words else rank

    first = min(dead, key=order)
    status, said = ranks[first].returncode, words.get(first, "").partition(" ")[2]
    if status == NOT_AS_ASKED:
        raise UserError(said or f"rank {first} does not say what is wrong")
    if status == INTERRUPTED and stop.requested:
        raise KeyboardInterrupt
    how = f"was killed by {signal.Signals(-status).name}" if status < 0 else f"ended with exit status {status}"
    reason = f"rank {first} of {len(ranks)} {f'failed: {said}' if said else how}"
    print(reason, flush=True)
    write_failure(out, reason)
    return FAILED


def write_failure(out: Path, reason: str) -> None:
    """Have the summary say why a run has ended that could not write one itself. Its checkpoints are what they were."""
    path = out / "summary.json"
    known = read_json(path) if path.exists() else {"events": []}
    write_json(path, known | {"status": "failed", "error": reason})
