"""gpt2/assignments.py: a file is lines of settings, or is refused in one line."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpt2.assignments import parse_assignments, read_assignments
from gpt2.base.errors import UserError


@given(st.text())
def test_a_file_is_parsed_or_refused_in_one_line(text: str) -> None:
    try:
        parse_assignments(text, "f")
    except UserError as error:
        assert str(error).startswith("f:")
        assert "\n" not in str(error)


def test_a_comment_and_a_commented_setting_set_nothing() -> None:
    assert parse_assignments("# CONFIG_MAX_ITERS=5\n#\n\n   \n# is not set: why\n", "f") == []


def test_files_that_cannot_be_read(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"^none: cannot be read: No such file or directory$"):
        read_assignments(Path("none"))
    with pytest.raises(UserError, match=r"is a directory; only regular files are read$"):
        read_assignments(tmp_path)
    Path("latin").write_bytes(b'# fine\nCONFIG_MODEL_NAME="caf\xe9"\n')
    with pytest.raises(UserError, match=r"^latin:2: not UTF-8: byte 0xe9$"):
        read_assignments(Path("latin"))
