"""What is asked of the device and of the process before training."""

from __future__ import annotations

import platform
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from gpt2.base.files import ROOT
from gpt2.machine.device import DTYPES, autocast_dtype, power_w, slow_precision

FAULTS_PER_STEP = """
import itertools, resource, statistics, sys
from pathlib import Path
import torch
from harness.measure import training
from harness.measure.timing import Stopwatch
from scripts.benchmark_training import SMALL

load, folder, cpu = training.Load(**SMALL, dtype="float32"), Path(sys.argv[1]), torch.device("cpu")
training._write_tokens(load, folder)
batches = training._batches(load, cpu, folder)
trainer = training.OurTrainer(load, training.OURS["baseline"], cpu, folder, Stopwatch(cpu))

def page_faults():
    for batch in batches:
        trainer.step(batch)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

counts = [page_faults() for _ in range(15)][4:]
print(statistics.median((after - before) / len(batches) for before, after in itertools.pairwise(counts)))
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc alone can be asked to keep freed memory")
def test_training_on_a_cpu_keeps_its_memory(tmp_path: Path) -> None:
    command = [sys.executable, "-c", FAULTS_PER_STEP, str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    # Pages that come from the system fault when they are first used: without keep_freed_memory, thousands a step. The
    # median, after some steps, since freed memory falls to pieces, and the heap grows by a few MB now and then, ever
    # more seldom.
    assert float(done.stdout) < 10


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


@pytest.mark.parametrize("bfloat16", [False, True])
@pytest.mark.parametrize("float16", [False, True])
def test_a_precision_is_slow_on_a_cpu_without_instructions_for_it(
    monkeypatch: pytest.MonkeyPatch, bfloat16: bool, float16: bool
) -> None:
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: bfloat16)
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_fp16_supported", lambda: float16)
    said = {dtype: slow_precision(torch.device("cpu"), dtype) for dtype in DTYPES}
    assert [dtype for dtype, why in said.items() if why is None] == [
        dtype for dtype, fast in {"float32": True, "bfloat16": bfloat16, "float16": float16}.items() if fast
    ]
    for dtype, why in said.items():
        assert why is None or (f"DTYPE_{dtype.upper()}=y" in why and "DTYPE_FLOAT32=y" in why and "\n" not in why)
    assert {slow_precision(torch.device("cuda"), dtype) for dtype in DTYPES} == {None}


def test_power_is_nvmls_or_none(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> int:
        raise ModuleNotFoundError("pynvml")

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert power_w() is None
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "power_draw", lambda: 612_345)
    assert power_w() == 612.345
    monkeypatch.setattr(torch.cuda, "power_draw", refuse)
    assert power_w() is None
