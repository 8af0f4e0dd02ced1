"""What `make` says of runs, as far as it can know it."""

from __future__ import annotations

import io
import re

import pytest
from rich.console import Console

from harness.launch.terminal import LiveView

SAID = {
    "done": ("done no loss yet", ", TIME"),
    "failed": ("FAILED ", "after TIME: it broke"),
    "interrupted": ("interrupted ", "after TIME; `make continue` goes on"),
}


@pytest.mark.parametrize("terminal", [False, True])
@pytest.mark.parametrize("status", list(SAID))
@pytest.mark.parametrize("began", [False, True])
def test_a_run_that_was_never_seen_to_begin_has_taken_no_time(status: str, began: bool, terminal: bool) -> None:
    out = io.StringIO()
    view = LiveView([("a/seed-1", 12)], Console(file=out, force_terminal=terminal, color_system=None, width=200))
    view.note("a/seed-1", "submitted", "job 12_0")
    if began:
        view.started("a/seed-1")
    view.ended("a/seed-1", status, "it broke" if status == "failed" else "")
    last = re.sub(r"\b\d+:\d\d:\d\d\b", "TIME", out.getvalue().splitlines()[-1])
    what, took = SAID[status]
    without = {"done": "", "failed": "it broke", "interrupted": "`make continue` goes on"}[status]
    assert last == f"[1/1] a/seed-1: {what}{took if began else without}"
