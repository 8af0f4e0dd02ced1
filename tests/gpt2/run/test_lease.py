"""Of two hosts whose locks do not know of each other one trains; what is stale is taken over, and told."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import pytest

from gpt2.base.files import ROOT
from gpt2.run import lease
from gpt2.run.directory import hold
from gpt2.run.lease import STALE_S, read_lease
from gpt2.run.lock import HeldElsewhere, RunLock

THEIRS = {"host": "node7", "boot": "another kernel", "pid": 17, "job": "12_3", "took_over": None}


def sign(directory: Path, *, age_s: float, **changes: object) -> None:
    path = directory / ".lease"
    path.write_text(json.dumps(THEIRS | changes))
    then = time.time() - age_s
    os.utime(path, (then, then))


def test_another_hosts_fresh_lease_is_respected(tmp_path: Path) -> None:
    (tmp_path / ".lock").touch()
    sign(tmp_path, age_s=STALE_S - 20)
    before = (tmp_path / ".lease").read_text()
    with pytest.raises(HeldElsewhere, match=rf"{tmp_path}: is being trained by process 17 on node7 \(job 12_3\)$"):
        RunLock(tmp_path)
    assert RunLock.is_held(tmp_path)
    assert (tmp_path / ".lease").read_text() == before


def test_a_stale_one_is_taken_over_and_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "SETTLE_S", 0.01)
    (tmp_path / ".lock").touch()
    sign(tmp_path, age_s=500)
    assert not RunLock.is_held(tmp_path)
    with hold(tmp_path) as lock:
        assert lock.took_over == "taken over from process 17 on node7 (job 12_3), not heard of for 500 s"
        with hold(tmp_path, os.dup(lock.fd)) as shared:  # the trainer's, which is to record it
            assert shared.took_over == lock.took_over
    with hold(tmp_path) as lock:
        assert lock.took_over is None


def test_of_two_that_take_a_stale_one_over_at_once_one_has_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sign(tmp_path, age_s=500)
    monkeypatch.setattr(time, "sleep", lambda _: sign(tmp_path, age_s=0, host="node8"))
    with pytest.raises(HeldElsewhere, match="another host has just taken it over"):
        RunLock(tmp_path)


def test_on_the_same_host_the_lock_alone_decides_at_once(tmp_path: Path) -> None:
    with hold(tmp_path):
        kept = (tmp_path / ".lease").read_text()
    assert not (tmp_path / ".lease").exists()
    (tmp_path / ".lease").write_text(kept)  # as a process leaves it that was killed
    with hold(tmp_path) as lock:
        assert lock.took_over is None
        with pytest.raises(HeldElsewhere, match=f"by process {os.getpid()}$"):
            RunLock(tmp_path)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"host": "a"}', "17"])
def test_what_says_nothing_is_in_nobodys_way(tmp_path: Path, text: str) -> None:
    (tmp_path / ".lease").write_text(text)
    with hold(tmp_path):
        assert read_lease(tmp_path) is not None


def test_a_lease_is_renewed_while_its_holder_trains(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "RENEW_S", 0.01)
    with hold(tmp_path) as lock:
        lock.keep()
        os.utime(tmp_path / ".lease", (0, 0))
        end = time.monotonic() + 10
        while (tmp_path / ".lease").stat().st_mtime == 0:
            assert time.monotonic() < end
            time.sleep(0.01)
    assert not any(thread.name == "lease" and not thread.daemon for thread in threading.enumerate())


# A process of a host of its own, as far as it can tell, where hosts know nothing of each other's locks.
HOST = textwrap.dedent("""
    import fcntl, sys, time
    from pathlib import Path
    from gpt2.run import lease
    from gpt2.run.directory import hold
    fcntl.flock = lambda *_: None
    lease._boot = lambda: sys.argv[2]
    lease.STALE_S, lease.RENEW_S, lease.SETTLE_S = 1.0, 0.1, 0.3
    with hold(Path(sys.argv[1])) as lock:
        lock.keep()
        print(lock.took_over, flush=True)
        input()
""")


def host(directory: Path, name: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", HOST, str(directory), name]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen(command, text=True, cwd=ROOT, **pipes)  # type: ignore[call-overload, no-any-return]


def test_two_hosts_without_common_locks_never_train_at_once(tmp_path: Path) -> None:
    first = host(tmp_path, "a")
    assert first.stdout is not None and first.stdout.readline() == "None\n"
    time.sleep(1.3)  # longer than a lease lasts that is not renewed
    refused = host(tmp_path, "b").communicate(timeout=60)[1]
    assert "HeldElsewhere" in refused and f"is being trained by process {first.pid} on " in refused
    # Its host stands still: another takes over, and the first ends as soon as it goes on.
    first.send_signal(signal.SIGSTOP)
    time.sleep(1.3)
    second = host(tmp_path, "b")
    assert second.stdout is not None
    assert f"taken over from process {first.pid} on " in second.stdout.readline()
    first.send_signal(signal.SIGCONT)
    assert first.wait(timeout=60) == 1
    printed = first.stdout.read()
    assert f"process {second.pid} on " in printed and "has taken it over; this process ends" in printed
    second.communicate("\n", timeout=60)
    assert not (tmp_path / ".lease").exists()
