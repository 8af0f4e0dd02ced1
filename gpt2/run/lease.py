"""Who holds a run's directory, for those who cannot see its lock: processes of another host.

On some shared file systems a lock holds on one host only. So whoever has it also claims `.lease`, a file that says who
that is, and renews it while it trains. Another host respects it while it is fresh. On the holder's own host the lock
alone decides, at once, and what the file says is written over.
"""

from __future__ import annotations

import json
import math
import os
import socket
import tempfile
import threading
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from gpt2.base.errors import UserError
from gpt2.base.text import shown

RENEW_S = 10.0
STALE_S = 120.0
"""Not renewed for so long, its holder is taken to be gone with its host."""

SETTLE_S = 2.0
"""After which, of two hosts that have taken a stale lease over at once, both see whose it is."""


class HeldElsewhere(UserError):
    """Another process trains in the directory."""


@dataclass(frozen=True, kw_only=True)
class Lease:
    """What is in the file."""

    host: str
    """Its name, for people."""

    boot: str
    """What tells kernels apart, and so who shares a lock: another one after each start of a host."""

    pid: int
    job: str | None
    """Slurm's, where it is in one."""

    took_over: str | None
    """Whose it was before, where that one never gave it back."""

    @property
    def is_of_this_host(self) -> bool:
        """Whether the lock itself says all there is to know."""
        return self.boot == _boot()

    def describe(self) -> str:
        """Its holder, in a few words."""
        where = "" if self.is_of_this_host else f" on {self.host}"
        return f"process {self.pid}{where}" + (f" (job {self.job})" if self.job else "")


def claim(directory: Path, *, is_shared: bool) -> Lease:
    """Have the lease be this process's, which holds the lock, and perhaps shares it with the one that has the lease.

    Raises HeldElsewhere while another host's is fresh.
    """
    before = read_lease(directory)
    took_over = before.took_over if before is not None and is_shared else None
    if before is None or before.is_of_this_host:
        ours = _of_this_process(took_over)
        if not _write(directory, ours, exclusive=before is None):
            raise HeldElsewhere(f"{directory}: another host has just begun to train there")
        return ours
    age = _age_s(directory)
    if age < STALE_S:
        raise HeldElsewhere(f"{directory}: is being trained by {before.describe()}")
    ours = _of_this_process(f"taken over from {before.describe()}, not heard of for {age:.0f} s")
    _write(directory, ours, exclusive=False)
    time.sleep(SETTLE_S)
    now = read_lease(directory)
    if now != ours:
        raise HeldElsewhere(f"{directory}: another host has just taken it over")
    return ours


def give_back(directory: Path) -> None:
    """Let other hosts know at once. One who shares the lock, and has signed the lease since, keeps it."""
    lease = read_lease(directory)
    if lease and lease.is_of_this_host and (lease.pid == os.getpid() or not _is_alive(lease.pid)):
        (directory / ".lease").unlink(missing_ok=True)


def keep(directory: Path, done: threading.Event) -> None:
    """Renew the lease of this process in the background until `done`; end the process where another host has taken it.

    That happens only to one that was stopped, or cut off, for longer than STALE_S.
    """

    def renew() -> None:
        while not done.wait(RENEW_S):
            lease = read_lease(directory)
            if lease is not None and not lease.is_of_this_host:
                print(f"{directory}: {lease.describe()} has taken it over; this process ends", flush=True)
                os._exit(1)
            try:
                os.utime(directory / ".lease")
            except FileNotFoundError:  # removed by hand
                _write(directory, _of_this_process(None), exclusive=True)
            except OSError:  # the server does not answer: perhaps the next time
                continue

    threading.Thread(target=renew, name="lease", daemon=True).start()


def holder_elsewhere(directory: Path) -> Lease | None:
    """The lease of another host, if there is one and it is fresh."""
    lease = read_lease(directory)
    if lease is None or lease.is_of_this_host or _age_s(directory) >= STALE_S:
        return None
    return lease


def read_lease(directory: Path) -> Lease | None:
    """What the file says; None where there is none, or nothing that could be believed."""
    try:
        value = json.loads((directory / ".lease").read_text())
        return Lease(
            host=shown(value["host"]),
            boot=str(value["boot"]),
            pid=int(value["pid"]),
            job=None if value["job"] is None else shown(value["job"]),
            took_over=None if value["took_over"] is None else shown(value["took_over"], 400),
        )
    except (OSError, ValueError, TypeError, KeyError):
        return None


def _write(directory: Path, lease: Lease, *, exclusive: bool) -> bool:
    """Write the file. Returns whether that was possible: `exclusive` it is not where there is one."""
    path = directory / ".lease"
    temporary = path.with_name(f".lease.{os.getpid()}.tmp")
    temporary.write_text(json.dumps(asdict(lease)))
    try:
        if exclusive and read_lease(directory) is None:
            path.unlink(missing_ok=True)  # nothing that could be believed
            _link(temporary, path)
        else:
            temporary.replace(path)
    except FileExistsError:
        return False
    finally:
        temporary.unlink(missing_ok=True)
    return True


def _link(temporary: Path, path: Path) -> None:
    """Name a file if nobody has that name. FileExistsError."""
    try:
        os.link(temporary, path)
    except FileExistsError:
        raise
    except OSError:  # no links on this file system; two hosts that begin at the same moment are then not told apart
        temporary.replace(path)


def _age_s(directory: Path) -> float:
    """How long ago the lease was signed or renewed, by the file system's clock, whatever the hosts' say."""
    try:
        renewed = (directory / ".lease").stat().st_mtime
    except FileNotFoundError:  # it has just been given back
        return math.inf
    try:
        with tempfile.TemporaryFile(prefix=".time-", dir=directory) as now:
            now.write(b".")
            now.flush()
            return os.fstat(now.fileno()).st_mtime - renewed
    except OSError:  # whoever may not write there has this host's clock only
        return time.time() - renewed


def _of_this_process(took_over: str | None) -> Lease:
    array, task = os.environ.get("SLURM_ARRAY_JOB_ID"), os.environ.get("SLURM_ARRAY_TASK_ID")
    job = f"{array}_{task}" if array and task else os.environ.get("SLURM_JOB_ID")
    return Lease(host=socket.gethostname(), boot=_boot(), pid=os.getpid(), job=job, took_over=took_over)


def _boot() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:  # no Linux
        return socket.gethostname()


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
