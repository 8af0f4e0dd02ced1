"""Fixtures of tests that start processes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.harness.launch.checkout import Checkout, processes, wait_for


@pytest.fixture
def checkout(tmp_path: Path) -> Iterator[Checkout]:
    checkout = Checkout(tmp_path)
    yield checkout
    wait_for(lambda: not processes(checkout), "processes are left")
