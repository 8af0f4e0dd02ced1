"""The loader is timed as the trainer uses it, on what was asked for. Not how fast it is."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from gpt2.base.errors import UserError
from gpt2.base.files import ROOT, read_json
from gpt2.config import DataConfig
from gpt2.data.dataset import Dataset, open_dataset
from gpt2.data.token_files import write_random_tokens
from harness.measure import data
from harness.measure.data import benchmark_batches
from scripts import benchmark_data as script

CPU = torch.device("cpu")
SMALL = ["--tokens", "2000", "--batch-size", "2", "--block-size", "16", "--device", "cpu", "--repeats", "2"]


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    write_random_tokens(tmp_path, vocab_size=50257, n_tokens=2000)
    return open_dataset(DataConfig(dataset="bin", bin_dir=str(tmp_path), vocab_size=50257, data_dir=str(tmp_path)))


def test_random_tokens_are_what_the_trainer_reads(dataset: Dataset) -> None:
    assert dataset.train_tokens == 2000
    tokens = dataset.train.read(0, 2000)
    assert tokens.max() < 50257 and len(np.unique(tokens)) > 1900


def test_rates_follow_from_the_time_of_a_step(dataset: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, Any] = {}
    loader = data.batches

    def batches(*args: Any, **options: Any) -> Any:
        asked.update(options)
        return loader(*args, **options)

    monkeypatch.setattr(data, "batches", batches)
    monkeypatch.setattr(data, "_MS", 20.0)
    supply = benchmark_batches(dataset, CPU, batch_size=2, block_size=16, accumulation=3, repeats=4)
    assert (asked["batch_size"], asked["block_size"], asked["accumulation"]) == (2, 16, 3)
    assert supply.step.n == 4
    assert supply.batches_per_s == pytest.approx(3 * 1000 / supply.step.median)
    assert supply.tokens_per_s == pytest.approx(2 * 16 * supply.batches_per_s)


def test_the_command_writes_what_it_measured(tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    command = [sys.executable, "-m", "scripts.benchmark_data", *SMALL, "--needed", "1000", "--json", str(out)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "2,000 random tokens" in done.stdout and "/ 1,000" in done.stdout
    record = read_json(out)
    assert (record["batch_size"], record["block_size"], record["accumulation"]) == (2, 16, 1)
    assert record["hardware"]["device"] == "cpu"
    assert record["ratio_to_needed"] == pytest.approx(record["supply"]["tokens_per_s"] / 1000)


def test_a_data_set_is_read_where_it_lies_and_nothing_is_written_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_random_tokens(tmp_path, vocab_size=100, n_tokens=500)
    before = sorted(tmp_path.iterdir())
    monkeypatch.setattr(data, "_MS", 20.0)
    monkeypatch.setattr(sys, "argv", ["x", *SMALL, "--data", str(tmp_path)])
    script.main()
    assert f"500 tokens of {tmp_path}" in capsys.readouterr().out
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--batch-size", "0"], "--batch-size: 0: must be at least 1"),
        (["--repeats", "1"], "--repeats: 1: must be at least 2"),
        (["--vocab-size", "70000"], "from 1 to 65536"),
        (["--tokens", "5"], "5 training tokens do not fill one sequence of BLOCK_SIZE=16"),
        (["--data", "/there/is/none"], "holds no train.bin"),
    ],
)
def test_mistakes_are_named(flags: list[str], message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["x", *SMALL, *flags])
    with pytest.raises(UserError, match=message):
        script.main()


@pytest.mark.gpu
def test_on_a_gpu_the_rate_needed_is_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "out.json"
    monkeypatch.setattr(sys, "argv", ["x", *SMALL, "--device", "cuda", "--json", str(out)])
    script.main()
    assert read_json(out)["needed_tokens_per_s"] == 600_000
