"""What docs/results.md says of a run's records is what the code writes and reads."""

from __future__ import annotations

import ast
import re
from typing import get_args

from gpt2.base.files import ROOT
from gpt2.run.records import NONFINITE, Event


def texts_in_code() -> set[str]:
    """All text that stands in gpt2/ but for the list of events itself."""
    files = set((ROOT / "gpt2").rglob("*.py")) - {ROOT / "gpt2/run/records.py"}
    nodes = (node for path in files for node in ast.walk(ast.parse(path.read_text())))
    return {node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)}


def test_the_table_of_events_has_those_that_are_written() -> None:
    """That no other is written, mypy sees to: whatever writes one takes an `Event`."""
    (row,) = re.findall(
        r"^\| `event` \| `step`, `event` \((.*?)\)", (ROOT / "docs/results.md").read_text(), re.MULTILINE
    )
    events = get_args(Event)
    assert re.findall(r"`(\w+)`", row) == list(events)
    assert set(events) <= texts_in_code()
    assert set(NONFINITE) & set(events) == {"nonfinite"}
