from __future__ import annotations

import pytest

from harness.configure.kconfig import note


@pytest.fixture(autouse=True)
def said_anew() -> None:
    """What another test was told is told again."""
    note.cache_clear()
