"""Experiments of different tests are no neighbours."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture
def tmp_path(tmp_path: Path) -> Path:
    """A directory that lies in one of its own: what is asked in experiments beside one, the report of that says."""
    path = tmp_path / "alone"
    path.mkdir()
    return path
