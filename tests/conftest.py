"""What all tests share: an environment without traces of whoever runs them, and no GPU tests without a GPU."""

from __future__ import annotations

import os
import signal

# Tests run many small models, often in processes beside each other: threads would only wait for one another.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
from hypothesis import settings

# How long an example takes is the machine's business, and the first one may import for all.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")

# What a shell starts in the background ignores Ctrl-C, and so would all that tests start and send one.
signal.signal(signal.SIGINT, signal.default_int_handler)

# `make test V=1` must not reach the makes and commands that tests run.
for name in list(os.environ):
    if name in ("MAKEFLAGS", "MFLAGS", "MAKELEVEL", "PYTHON", "CONFIG_", "srctree") or name.startswith("KCONFIG_"):
        del os.environ[name]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    needing_gpu = [item for item in items if item.get_closest_marker("gpu")]
    if not needing_gpu:
        return
    import torch

    if not torch.cuda.is_available():
        for item in needing_gpu:
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))
