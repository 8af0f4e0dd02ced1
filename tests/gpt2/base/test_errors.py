"""How a command ends."""

from __future__ import annotations

import errno
import os
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from gpt2.base.errors import MESSAGE, UserError, run_command
from gpt2.base.files import ROOT, write_atomic, write_json
from gpt2.run.checkpoint import save_checkpoint
from gpt2.run.record import Metrics


def fill() -> None:
    with open("/dev/full", "w") as file:
        file.write("too much")


def forbid() -> None:
    raise PermissionError(errno.EACCES, "Permission denied", "results/mine")


def ask_for_the_impossible() -> None:
    raise UserError("CONFIG_R=0: must be from 1 to 63")


@pytest.mark.parametrize(
    ("main", "message"),
    [
        pytest.param(
            fill,
            "an output: No space left on device",
            marks=pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full"),
        ),
        (forbid, "results/mine: Permission denied"),
        (ask_for_the_impossible, "CONFIG_R=0: must be from 1 to 63"),
    ],
)
def test_what_the_user_can_mend_is_one_line(main: object, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        run_command(main)  # type: ignore[arg-type]
    assert ended.value.code == 2
    assert capsys.readouterr().err == f"error: {message}\n"


def test_a_mistake_of_the_code_keeps_its_traceback() -> None:
    with pytest.raises(FileNotFoundError):
        run_command(lambda: Path("/nowhere/at/all").read_text())  # type: ignore[arg-type, return-value]


MISTAKES = {errno.ENOENT, errno.EBADF, errno.ECHILD, errno.ESRCH}
"""Of the code."""

CLOSED = {errno.EPIPE, errno.ESHUTDOWN}
"""A pipe that nobody reads any more is no error at all."""


def raising(error: BaseException) -> Callable[[], None]:
    def main() -> None:
        raise error

    return main


@pytest.mark.parametrize("number", sorted({*errno.errorcode} - MISTAKES - CLOSED), ids=errno.errorcode.get)
@pytest.mark.parametrize("path", ["results/x", None])
def test_whatever_the_system_refuses_is_one_line(
    number: int, path: str | None, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        run_command(raising(OSError(number, os.strerror(number), path)))
    assert ended.value.code == 2
    assert capsys.readouterr().err == f"error: {path or 'an output'}: {os.strerror(number)}\n"


@pytest.mark.parametrize("number", sorted(MISTAKES), ids=errno.errorcode.get)
def test_what_only_a_mistake_of_the_code_brings_about_keeps_its_traceback(number: int) -> None:
    with pytest.raises(OSError, match=os.strerror(number)):
        run_command(raising(OSError(number, os.strerror(number), "x")))


def allocate() -> None:
    torch.empty(1 << 62, dtype=torch.uint8)


@pytest.mark.parametrize(
    "main", [raising(MemoryError()), raising(torch.OutOfMemoryError("CUDA out of memory. Tried 9 GiB\nmore")), allocate]
)
def test_no_memory_is_one_line(main: Callable[[], None], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        run_command(main)
    assert ended.value.code == 2
    printed = capsys.readouterr().err
    assert printed.startswith("error: out of memory: ") and printed.count("\n") == 1


def test_a_message_is_one_line_that_can_be_shown_whatever_is_in_it(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        run_command(raising(UserError("X=\x1b[2J\n\u202e" + "v" * 100_000 + ": must be short")))
    printed = capsys.readouterr().err
    assert printed.startswith("error: X=\\x1b[2J\\n\\u202evv") and printed.endswith("v: must be short\n")
    assert len(printed) < MESSAGE + 100


# A full disk, made by a limit on the length of files: where the limit is met, the system answers as it does there.


def checkpoint(path: Path) -> None:
    save_checkpoint(path.parent, 1, {"weights": torch.zeros(100_000)})


def metrics(path: Path) -> None:
    file = Metrics(path)
    for step in range(1000):
        file.write("train", step, loss=1.0)


@pytest.mark.parametrize(
    ("write", "name"),
    [
        (lambda path: write_json(path, ["x" * 100] * 1000), "file"),
        (lambda path: write_atomic(path, lambda file: torch.save(torch.zeros(100_000), file)), "file"),
        (checkpoint, "step-00000001.unchecked"),
        (metrics, "file"),
    ],
    ids=["json", "torch", "checkpoint", "metrics"],
)
def test_a_full_disk_is_named_with_the_file_and_leaves_no_half(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], write: Callable[[Path], None], name: str
) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, before[1]))
    try:
        with pytest.raises(SystemExit):
            run_command(lambda: write(tmp_path / "file"))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert capsys.readouterr().err == f"error: {tmp_path / name}: File too large\n"
    assert [path.name for path in tmp_path.iterdir()] == (["file"] if write is metrics else [])


def test_a_directory_that_is_missing_is_no_mistake_of_the_code(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=f"there is no directory {tmp_path / 'none'}$"):
        write_json(tmp_path / "none" / "file", {})


# What is left of stdout.

PRINT = (
    "import sys; from gpt2.base.errors import run_command; run_command(lambda: print('\u0394 loss \u2013 \U0001f44d'))"
)


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8", "cp1252"])
def test_a_character_that_the_locale_lacks_is_no_error(encoding: str) -> None:
    environment = {**os.environ, "PYTHONIOENCODING": encoding, "PYTHONUTF8": "0"}
    done = subprocess.run([sys.executable, "-c", PRINT], cwd=ROOT, env=environment, capture_output=True)
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.decode(encoding).startswith("\\u0394 loss" if encoding != "utf-8" else "\u0394 loss")


@pytest.mark.parametrize(("to", "code", "said"), [(">&-", 0, b""), (">/dev/full", 2, b"error: an output: No space")])
def test_a_stdout_that_is_closed_or_full(to: str, code: int, said: bytes) -> None:
    done = subprocess.run(["sh", "-c", f'"$0" -c "$1" {to}', sys.executable, PRINT], cwd=ROOT, capture_output=True)
    assert done.returncode == code
    assert done.stderr.startswith(said) and done.stderr.count(b"\n") == bool(said)
