"""What is asked of the device and of the process before training."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest
import torch

from gpt2.device import autocast_dtype
from gpt2.dotconfig import ROOT

FAULTS = """
import resource, torch
from gpt2.device import keep_freed_memory
if {keep}:
    keep_freed_memory()
def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(3):  # what is there once stays
    torch.ones(6 * 2**20)
before = faults()
for _ in range(20):
    torch.ones(6 * 2**20)
print((faults() - before) // 20)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc alone gives freed memory back like this")
def test_freed_memory_stays_with_the_process() -> None:
    def faults_per_tensor(keep: bool) -> int:
        command = [sys.executable, "-c", FAULTS.format(keep=keep)]
        return int(subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout)

    # 24 MB are 6144 pages, each of which faults when it is new, fewer where pages are huge.
    assert faults_per_tensor(True) < 5 < faults_per_tensor(False)


def test_autocasts_precision_is_that_of_a_product() -> None:
    x = torch.ones(2, 2)
    assert autocast_dtype(x) is None
    for dtype in (torch.bfloat16, torch.float16):
        with torch.autocast("cpu", dtype):
            assert autocast_dtype(x) == (x @ x).dtype == dtype
            assert autocast_dtype(x.double()) is None
            assert (x.double() @ x.double()).dtype == torch.float64
    with torch.autocast("cpu", enabled=False):
        assert autocast_dtype(x) is None
