"""The process that runs are forked off: it imports once what a run needs, and forks a trainer whenever it is told.

harness/launch/launchers.py starts it, and writes requests to its stdin: a line of JSON each, with a `name`, the
trainer's `arguments`, its `log`, the `directory` that it works in, and its `environment`. It answers with a line of
JSON when it has forked a trainer, {"name", "pid"}, and one when that has ended, {"name", "exitcode"}. A trainer keeps
this stdin, and so notices when whoever writes to it is gone.

Nothing of harness/ is imported here: runs depend on gpt2/ alone, also while the rest is edited.
"""

from __future__ import annotations

import importlib
import json
import os
import select
import signal
import socket
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
TRAINER = ROOT / "gpt2" / "train_ra_mla.py"


def main() -> None:
    sys.path[0] = str(ROOT)
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    with open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), 1)  # what an import prints is no answer
    _import()
    names: dict[int, str] = {}
    with _wakes_at_ends_of_children() as ends:
        while True:
            ready, _, _ = select.select([0, ends], [], [])
            if ends in ready:
                os.read(ends, 1000)
                for pid, exitcode in _ended():
                    print(json.dumps({"name": names.pop(pid), "exitcode": exitcode}), file=answers)
            if 0 not in ready:
                continue
            line, lock = _read_request()
            if not line:
                return
            request = json.loads(line)
            name = request.pop("name")
            pid = os.fork()
            if pid == 0:
                break
            names[pid] = name
            os.close(lock)
            print(json.dumps({"name": name, "pid": pid}), file=answers)
    answers.close()
    _become_trainer(lock=lock, **request)


def _import() -> None:
    # Older versions of torch start helpers of the compiler where it is imported. They are the runs' to start.
    os.environ["TORCH_WARM_POOL"] = "0"
    # Others ask there whether there is a GPU. torch then does without the driver, which no forked process can use.
    os.environ["PYTORCH_NVML_BASED_CUDA_CHECK"] = "1"

    for name in ("torch._dynamo", "torch._inductor.compile_fx", "gpt2.train_ra_mla"):
        importlib.import_module(name)


@contextmanager
def _wakes_at_ends_of_children() -> Iterator[int]:
    """The end of a pipe that there is something to read from when a child has ended. Of this process alone."""
    read, write = os.pipe()
    os.set_blocking(write, False)
    signal.set_wakeup_fd(write)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    try:
        yield read
    finally:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        signal.set_wakeup_fd(-1)
        os.close(read)
        os.close(write)


def _ended() -> Iterator[tuple[int, int]]:
    """Pid and exit code of the children that have ended since the last call."""
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if pid == 0:
            return
        yield pid, os.waitstatus_to_exitcode(status)


def _read_request() -> tuple[bytes, int]:
    """The next line of stdin, nothing at its end, and the lock that comes with it.

    Not a byte more than the line: a trainer shares what is left.
    """
    line, lock = b"", -1
    with socket.socket(fileno=os.dup(0)) as stdin:
        while not line.endswith(b"\n"):
            byte, fds, _, _ = socket.recv_fds(stdin, 1, 1)
            if not byte:
                break
            line += byte
            lock = fds[0] if fds else lock
    return line, lock


def _become_trainer(arguments: Sequence[str], log: str, directory: str, environment: dict[str, str], lock: int) -> None:
    """Go on as `python gpt2/train_ra_mla.py ARGUMENTS` would."""
    os.setsid()
    os.environ.clear()
    os.environ.update(environment)
    with open(log, "ab") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    os.chdir(directory)
    arguments = [*arguments, "--lock-fd", str(lock)]

    import torch

    from gpt2 import train_ra_mla
    from gpt2.base.errors import run_command
    from gpt2.machine import source

    if threads := environment.get("OMP_NUM_THREADS"):  # which is read where torch is imported
        torch.set_num_threads(int(threads))
    # Edited since it was imported: a run's record names the code as it lies there, so that is what has to run.
    edited = source.source_hash() != source.IMPORTED
    # Or something that was imported has looked for GPUs in a way that keeps forked processes from using them.
    if edited or torch.cuda._is_in_bad_fork():
        os.set_inheritable(lock, True)
        os.execv(sys.executable, [sys.executable, "-u", str(TRAINER), *arguments])
    sys.argv = [str(TRAINER), *arguments]
    run_command(train_ra_mla.main)


if __name__ == "__main__":
    main()
