"""What is printed into a pipe is whole lines, and what takes long tells how far it is."""

from __future__ import annotations

import io
from collections.abc import Callable
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.table import Table

from gpt2.base.progress import part, reported
from gpt2.base.terminal import console, progress_bar


@pytest.mark.parametrize("columns", ["20", "80", ""])
@pytest.mark.parametrize("width", [10, 200, 3000])
def test_no_line_is_wrapped_in_a_pipe(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], columns: str, width: int
) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    table = Table("a column", "another", title="title", box=None)
    table.add_row("x" * width, "y " * width)
    console().print(table)
    console().print("a sentence " * width)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 4
    assert "x" * width in lines[2] and ("y " * width).strip() in lines[2]
    assert lines[3].strip() == ("a sentence " * width).strip()


def test_on_a_terminal_lines_are_as_wide_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "40")
    assert console().width == 40


@given(st.lists(st.floats(0, 1)), st.booleans())
def test_in_a_pipe_progress_is_a_line_for_each_tenth(shares: list[float], stderr: bool) -> None:
    with pytest.MonkeyPatch.context() as patch:
        out = io.StringIO()
        patch.setattr("sys.stderr" if stderr else "sys.stdout", out)
        with progress_bar("work", stderr=stderr) as report:
            for share in shares:
                report(share, "a line")
    lines = out.getvalue().splitlines()
    assert len(lines) <= 11
    assert all(line.startswith("work: ") and line.endswith("%, a line") for line in lines)
    percent = [int(line.removeprefix("work: ").partition("%")[0]) for line in lines]
    assert all(a < b for a, b in pairwise(percent)) and bool(lines) == bool(shares)


def test_what_is_reported_comes_through_and_parts_add_up() -> None:
    said: list[tuple[float, str]] = []

    def report(share: float, line: str) -> None:
        said.append((share, line))

    upper: Callable[[str], str] = str.upper
    assert list(reported("ab", 2, part(report, 0.5, 1.0), upper)) == ["a", "b"]
    assert said == [(0.75, "A"), (1.0, "B")]
