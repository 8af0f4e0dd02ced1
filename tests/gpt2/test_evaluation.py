"""What the trainer evaluates: the same validation tokens whatever the batch size, and the bytes of exactly those."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest

from gpt2.assignments import Assignment
from gpt2.dotconfig import resolve
from gpt2.run.load import recorded_tokenizer
from gpt2.run.run import Run
from gpt2.run.stop import Stop
from gpt2.symbols import run_config
from gpt2.train_ra_mla import train
from tests.tiny import SETTINGS

T = 32


@pytest.fixture(scope="module")
def changing(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Byte tokens whose bytes per token change along the text: documents become shorter and shorter."""
    folder = tmp_path_factory.mktemp("changing")
    random = np.random.default_rng(1)
    for split, n in {"train": 1000, "val": 340}.items():
        tokens = random.integers(97, 123, size=n).astype(np.uint16)
        tokens[n // 2 :: 3] = 0
        tokens.tofile(folder / f"{split}.bin")
    return folder


def trained(folder: Path, data: Path, **symbols: str) -> None:
    """A run of two steps of four sequences on ready token files."""
    settings = {s: v for s, v in SETTINGS.items() if s != "DATASET_TEXT"} | {
        "DATASET_BIN": "y",
        "DATASET_BIN_DIR": str(data),
        "DATA_DIR": str(data),
        "TOKENIZER_BYTE": "y",
        "MAX_ITERS": "2",
    }
    resolved = resolve([Assignment(symbol, value, "test") for symbol, value in (settings | symbols).items()])
    folder.mkdir()
    train(Run(run_config(resolved.symbols), folder), Stop())


def evaluations(folder: Path, data: Path, **symbols: str) -> list[dict[str, float]]:
    """The `eval` lines of such a run."""
    trained(folder, data, **symbols)
    lines = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    return [line for line in lines if line["kind"] == "eval"]


@pytest.mark.parametrize("eval_tokens", ["64", "200", "0", "100000"])
def test_batch_size_against_accumulation_changes_no_evaluation(
    tmp_path: Path, changing: Path, eval_tokens: str
) -> None:
    found = [
        evaluations(
            tmp_path / str(size),
            changing,
            BATCH_SIZE=str(size),
            GRADIENT_ACCUMULATION_STEPS=str(4 // size),
            EVAL_TOKENS=eval_tokens,
            FUSED_LOSS=fused,
        )
        for size, fused in ((1, "n"), (2, "y"), (4, "n"))
    ]
    assert [line["step"] for line in found[0]] == [0, 2]
    for other in found[1:]:
        for ours, theirs in zip(found[0], other, strict=True):
            assert ours["val_loss"] == pytest.approx(theirs["val_loss"], rel=1e-6)
            assert ours["val_bpb"] == pytest.approx(theirs["val_bpb"], rel=1e-6)

    val = np.fromfile(changing / "val.bin", dtype="<u2")
    if eval_tokens in ("64", "200"):
        n = -(-int(eval_tokens) // T)
        windows = [i * 11 // n for i in range(n)]  # of ten whole windows, and one of 19 targets
        targets = np.concatenate([val[w * T + 1 : (w + 1) * T + 1] for w in windows])
    else:
        targets = val[1:]
    for line in found[0]:
        expected = line["val_loss"] * len(targets) / (math.log(2) * np.count_nonzero(targets))
        assert line["val_bpb"] == pytest.approx(expected, rel=1e-12)
    provenance = json.loads((tmp_path / "1" / "provenance.json").read_text())["data"]
    assert provenance["eval_targets"] == len(targets)
    assert provenance["eval_bytes"] == np.count_nonzero(targets)


def test_what_validation_shares_with_training_is_recorded_once(tmp_path: Path) -> None:
    tokens = np.random.default_rng(1).integers(97, 123, size=2000).astype(np.uint16)
    tokens.tofile(tmp_path / "train.bin")
    tokens[500:900].tofile(tmp_path / "val.bin")
    run = tmp_path / "run"
    trained(run, tmp_path)
    assert json.loads((run / "provenance.json").read_text())["data"]["val_in_train"] == 1.0
    (line,) = [e for e in json.loads((run / "summary.json").read_text())["events"] if "in training too" in e]
    assert "100% of the validation text is in training too" in line


def test_bits_per_byte_and_a_tokenizer_are_not_stated_of_ids_of_another_vocabulary(tmp_path: Path) -> None:
    random = np.random.default_rng(1)
    for split in ("train", "val"):
        random.integers(0, 10, size=2000).astype(np.uint16).tofile(tmp_path / f"{split}.bin")
    run = tmp_path / "run"
    (line, _) = evaluations(run, tmp_path)
    assert line["val_bpb"] is None
    assert json.loads((run / "summary.json").read_text())["val_bpb"] is None
    assert recorded_tokenizer(run) is None
