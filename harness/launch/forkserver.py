"""The process that runs are forked off: it imports once what a run needs, and forks a trainer whenever it is told.

harness/launch/launchers.py starts it, and writes requests to its stdin: a line of JSON each, with the trainer's
`arguments`, its `log`, the `directory` that it works in, and its `environment`. It answers with the pid and, when that
has ended, the exit code, a line each, one trainer at a time. A trainer keeps this stdin, and so notices when whoever
writes to it is gone.

Nothing of harness/ is imported here: runs depend on gpt2/ alone, also while the rest is edited.
"""

from __future__ import annotations

import importlib
import json
import os
import socket
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
TRAINER = ROOT / "gpt2" / "train_ra_mla.py"


def main() -> None:
    sys.path[0] = str(ROOT)
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    with open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), 1)  # what an import prints is no answer
    _import()
    # Not a byte more than the line: a trainer shares what is left.
    while True:
        line, lock = _read_request()
        if not line:
            break
        pid = os.fork()
        if pid == 0:
            answers.close()
            return _become_trainer(lock=lock, **json.loads(line))
        os.close(lock)
        print(pid, file=answers)
        _, status = os.waitpid(pid, 0)
        print(os.waitstatus_to_exitcode(status), file=answers)


def _import() -> None:
    # Older versions of torch start helpers of the compiler where it is imported. They are the runs' to start.
    os.environ["TORCH_WARM_POOL"] = "0"
    # Others ask there whether there is a GPU. torch then does without the driver, which no forked process can use.
    os.environ["PYTORCH_NVML_BASED_CUDA_CHECK"] = "1"

    for name in ("torch._dynamo", "torch._inductor.compile_fx", "gpt2.train_ra_mla"):
        importlib.import_module(name)


def _read_request() -> tuple[bytes, int]:
    """The next line of stdin, nothing at its end, and the lock that comes with it."""
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
