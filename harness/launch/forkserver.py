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
    while line := _read_line():
        request = json.loads(line)
        pid = os.fork()
        if pid == 0:
            answers.close()
            return _become_trainer(**request)
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


def _read_line() -> bytes:
    """The next line of stdin, or nothing at its end."""
    line = b""
    while not line.endswith(b"\n") and (byte := os.read(0, 1)):
        line += byte
    return line


def _become_trainer(arguments: Sequence[str], log: str, directory: str, environment: dict[str, str]) -> None:
    """Go on as `python gpt2/train_ra_mla.py ARGUMENTS` would."""
    os.setsid()
    os.environ.clear()
    os.environ.update(environment)
    with open(log, "ab") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    os.chdir(directory)

    import torch

    from gpt2 import train_ra_mla
    from gpt2.base.errors import run_command
    from gpt2.machine import source

    # Edited since it was imported: a run's record names the code as it lies there, so that is what has to run.
    edited = source.source_hash() != source.IMPORTED
    # Or something that was imported has looked for GPUs in a way that keeps forked processes from using them.
    if edited or torch.cuda._is_in_bad_fork():
        os.execv(sys.executable, [sys.executable, "-u", str(TRAINER), *arguments])
    sys.argv = [str(TRAINER), *arguments]
    run_command(train_ra_mla.main)


if __name__ == "__main__":
    main()
