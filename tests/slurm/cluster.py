"""A Slurm of one machine: munged, slurmctld and slurmd of slurm-wlm, on loopback, in a directory that goes afterwards.

    python -m tests.slurm.cluster make LAUNCHER_SLURM=y SLURM_PARTITION=low

Needs Debian's slurm-wlm and munge, and root, which may start processes as anybody. Processes are not put into cgroups,
which are the machine's own, but killed by their group (proctrack/pgid), and nothing is accounted for (no sacct).
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch")
_PATH = f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin"

_CONF = """\
ClusterName=loopback
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller_port}
SlurmdPort={node_port}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge/socket,cred_expire=5
CredType=cred/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
SlurmdDebug=verbose
ProctrackType=proctrack/pgid
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerType=sched/backfill
SchedulerParameters=sched_interval=1,bf_interval=1,batch_sched_delay=1,sched_min_interval=100000
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
JobRequeue=1
ReturnToService=2
SlurmctldTimeout=30
SlurmdTimeout=15
KillWait=10
MinJobAge={min_job_age}
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SlurmdParameters=config_overrides
MaxArraySize={max_array_size}
MaxJobCount={max_job_count}
NodeName={node} NodeHostname={host} NodeAddr=127.0.0.1 CPUs={cpus} State=UNKNOWN
PartitionName=low Nodes={node} Default=YES PriorityTier=1 State=UP MaxTime=INFINITE
PartitionName=high Nodes={node} PriorityTier=10 State=UP MaxTime=INFINITE
"""


def why_not() -> str | None:
    """Why there can be no cluster on this machine; None if there can."""
    if missing := [name for name in PROGRAMS if shutil.which(name, path=_PATH) is None]:
        return f"no {', '.join(missing)} here: apt-get install slurm-wlm munge"
    return None if os.geteuid() == 0 else "only root can start a Slurm"


class Cluster:
    """A running one: a node, and partitions `low` and `high`, whose jobs push those of `low` back into the queue."""

    node = "n1"

    def __init__(self, folder: Path, *, cpus: int, max_array_size: int, max_job_count: int, min_job_age: int) -> None:
        self.folder = folder
        self.environment = os.environ | {"SLURM_CONF": str(folder / "slurm.conf"), "PATH": _PATH}
        self._daemons: dict[str, subprocess.Popen[bytes]] = {}
        for name in ("state", "spool"):
            (folder / name).mkdir()
        controller_port, node_port = _free_ports(2)
        text = _CONF.format(
            host=socket.gethostname().split(".")[0],
            node=self.node,
            folder=folder,
            controller_port=controller_port,
            node_port=node_port,
            cpus=cpus,
            max_array_size=max_array_size,
            max_job_count=max_job_count,
            min_job_age=min_job_age,
        )
        (folder / "slurm.conf").write_text(text)

    def start(self) -> None:
        """Start everything, and wait until jobs would run."""
        key = self.folder / "munge.key"
        key.write_bytes(os.urandom(128))
        key.chmod(0o400)
        shutil.chown(key, "munge", "munge")
        munge = self.folder / "munge"
        munge.mkdir()
        shutil.chown(munge, "munge", "munge")
        places = [f"--{name}={munge / name}" for name in ("socket", "pid-file", "log-file", "seed-file")]
        self._start("munged", "--foreground", f"--key-file={key}", *places, user="munge")
        _until(lambda: (munge / "socket").exists(), "munged")
        self._start("slurmctld", "-D")
        self.start_node()

    def start_node(self) -> None:
        """Start the node's slurmd, and wait until jobs would run there."""
        self._start("slurmd", "-D", "-N", self.node)
        _until(lambda: self("sinfo", "-h", "-o", "%T", "-p", "low", check=False).strip() in ("idle", "mixed"), "a node")

    def kill_node(self) -> None:
        """What happens to a node that loses its power: slurmd and all that it runs are gone, at once."""
        jobs = _marked(f"SLURM_CONF={self.folder}/slurm.conf", "SLURM_JOB_ID=")
        parents = _parents()
        # Each step of a job has a slurmstepd, which is no child of slurmd's. One that outlived its node would tell
        # of its step's end, and the next slurmd would not start "a second copy" of the job beside it.
        steps = {parents[pid] for pid in jobs if _is_slurmstepd(parents.get(pid, 0))}
        children = _descendants(self._daemons["slurmd"].pid, parents)
        self._daemons.pop("slurmd").kill()
        for pid in (*steps, *children, *jobs):
            _kill(pid)

    def stop(self) -> None:
        """Stop everything that it runs and ran."""
        if "slurmctld" in self._daemons:
            subprocess.run(["scancel", "--full", "-u", "root"], env=self.environment, capture_output=True)
        if "slurmd" in self._daemons:
            self.kill_node()
        for daemon in reversed(list(self._daemons.values())):
            daemon.send_signal(signal.SIGTERM)
            try:
                daemon.wait(timeout=10)
            except subprocess.TimeoutExpired:
                daemon.kill()
                daemon.wait()

    def __call__(self, *command: str, check: bool = True) -> str:
        """What one of Slurm's commands prints."""
        done = subprocess.run(command, env=self.environment, capture_output=True, text=True, timeout=60)
        if check and done.returncode:
            raise RuntimeError(f"{' '.join(command)}: {done.stderr}")
        return done.stdout

    def _start(self, program: str, *arguments: str, user: str | None = None) -> None:
        path = shutil.which(program, path=_PATH)
        assert path is not None
        with (self.folder / f"{program}.out").open("ab") as out:
            self._daemons[program] = subprocess.Popen(
                [path, *arguments],
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                user=user,
                group=user,
                extra_groups=[] if user else None,
            )


@contextmanager
def cluster(
    *, cpus: int = 4, max_array_size: int = 1001, max_job_count: int = 10000, min_job_age: int = 300
) -> Iterator[Cluster]:
    """A cluster while it is needed."""
    folder = Path(tempfile.mkdtemp(prefix="slurm-"))
    folder.chmod(0o755)  # munged is another user
    it = Cluster(folder, cpus=cpus, max_array_size=max_array_size, max_job_count=max_job_count, min_job_age=min_job_age)
    try:
        it.start()
        yield it
    finally:
        it.stop()
        shutil.rmtree(folder)


def _free_ports(n: int) -> list[int]:
    sockets = [socket.socket() for _ in range(n)]
    for it in sockets:
        it.bind(("127.0.0.1", 0))
    ports = [it.getsockname()[1] for it in sockets]
    for it in sockets:
        it.close()
    return ports


def _until(condition: Callable[[], bool], what: str, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError(f"waited {seconds:.0f} s in vain for {what}")
        time.sleep(0.1)


def _marked(*marks: str) -> set[int]:
    """Processes whose environment has all of these in it."""
    found = set()
    for path in Path("/proc").glob("[0-9]*/environ"):
        try:
            text = path.read_bytes()
        except OSError:
            continue
        if all(mark.encode() in text for mark in marks):
            found.add(int(path.parent.name))
    return found


def _parents() -> dict[int, int]:
    """The parent of each process."""
    parents: dict[int, int] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            parents[int(path.parent.name)] = int(path.read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
    return parents


def _descendants(pid: int, parents: dict[int, int]) -> set[int]:
    found = {pid}
    while more := {child for child, parent in parents.items() if parent in found} - found:
        found |= more
    return found - {pid}


def _is_slurmstepd(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/comm").read_text() == "slurmstepd\n"
    except OSError:
        return False


def _kill(pid: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def main() -> None:
    if reason := why_not():
        sys.exit(reason)
    with cluster() as it:
        sys.exit(subprocess.run(sys.argv[1:], env=it.environment).returncode)


if __name__ == "__main__":
    main()
