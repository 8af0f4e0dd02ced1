"""How a command ends."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from gpt2.base.errors import UserError, run_command


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
