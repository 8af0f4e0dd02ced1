"""More sets to evaluate on: a loss for each, of exactly its tokens, recorded with its hash; or one line that says why
not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from gpt2.base.errors import UserError
from gpt2.config import DataConfig
from gpt2.data.evaluation import open_eval_datasets
from gpt2.run.load import load_model
from gpt2.run.record import check_identity
from gpt2.run.run import Run
from gpt2.run.stop import Stop
from gpt2.symbols import run_config
from gpt2.train_ra_mla import train
from tests.gpt2.run.test_resume import Looked, counting, result
from tests.tiny import tiny

T = 32


def tokens(folder: Path, seed: int, n: int = 700, below: int = 128) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    np.random.default_rng(seed).integers(97, below, size=n).astype("<u2").tofile(folder / "val.bin")
    return folder


@pytest.fixture
def sets(tmp_path: Path) -> str:
    return f"books={tokens(tmp_path / 'books', 1)};code={tokens(tmp_path / 'co de', 2, below=100)}"


def run(folder: Path, out: Path, stop: Stop | None = None, **symbols: str) -> str:
    out.mkdir(exist_ok=True)
    return train(Run(run_config(tiny(folder, **symbols).symbols), out), stop or Stop())


def read(out: Path, name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((out / name).read_text())
    return found


@pytest.mark.parametrize("name", [None, "books", "code"])
def test_where_a_loss_stops_being_finite_is_looked_for_in_its_own_set(
    tmp_path: Path, sets: str, name: str | None
) -> None:
    """One token alone makes the output infinite, and it is in one set alone."""
    out = tmp_path / "run"
    out.mkdir()
    run = Run(run_config(tiny(tmp_path, EVAL_DATASETS=sets).symbols), out)
    of = run.parts.eval_set if name is None else run.parts.eval_sets[name]
    (x, _), *_ = of.batches
    x[0, 0] = token = run.parts.model.config.vocab_size - 1  # of the padding
    embed = run.parts.model.transformer.wte
    embed.register_forward_hook(lambda _, idx, out: out.masked_fill((idx[0] == token).unsqueeze(-1), torch.inf))
    assert train(run, Stop()) == "failed"
    what = "loss" if name is None else f"loss on {name}"
    where = f"evaluation at step 0: {what} nan; first not finite: the output of transformer.wte; "
    assert read(out, "summary.json")["error"].startswith(where)


@pytest.mark.parametrize("eval_tokens", ["0", "96"])
def test_each_set_has_a_loss_of_its_own_tokens(tmp_path: Path, sets: str, eval_tokens: str) -> None:
    out = tmp_path / "run"
    assert run(tmp_path, out, EVAL_DATASETS=sets, EVAL_TOKENS=eval_tokens, MAX_ITERS="3", EVAL_INTERVAL="2") == "done"
    lines = [line for line in counting(out) if line["kind"] == "eval"]
    assert [(line["step"], [*line["val_losses"]]) for line in lines] == [(s, ["books", "code"]) for s in (0, 2, 3)]
    summary, provenance = read(out, "summary.json"), read(out, "provenance.json")
    assert summary["val_losses"] == lines[-1]["val_losses"]
    model = load_model(out)
    for name, folder in {"books": "books", "code": "co de"}.items():
        val = torch.from_numpy(np.fromfile(tmp_path / folder / "val.bin", dtype="<u2").astype(np.int64))
        windows = [val[at : at + T + 1] for at in range(0, len(val) - 1, T)]
        if eval_tokens == "96":
            windows = [windows[i * len(windows) // 3] for i in range(3)]
        with torch.no_grad():
            losses = [(model(w[None, :-1], w[None, 1:])[1].item(), len(w) - 1) for w in windows]
        n = sum(count for _, count in losses)
        expected = sum(loss * count for loss, count in losses) / n
        assert summary["val_losses"][name] == pytest.approx(expected, rel=1e-5)
        recorded = provenance["data"]["eval_datasets"][name]
        assert (recorded["val_tokens"], recorded["eval_targets"]) == (700, n)
        assert f"{name}={recorded['hash']}" in provenance["identity"]["EVAL_DATASETS"].split(";")


def test_they_change_no_training_and_nothing_of_runs_without_them(tmp_path: Path, sets: str) -> None:
    for out, symbols in {"with": {"EVAL_DATASETS": sets}, "without": {}}.items():
        run(tmp_path, tmp_path / out, MAX_ITERS="3", **symbols)
    ours, theirs = (read(tmp_path / out, "summary.json") for out in ("with", "without"))
    assert (ours["val_loss"], ours["train_loss"]) == (theirs["val_loss"], theirs["train_loss"])
    assert "val_losses" not in theirs
    ours, theirs = (read(tmp_path / out, "provenance.json") for out in ("with", "without"))
    assert ours["identity"].keys() ^ theirs["identity"].keys() == {"EVAL_DATASETS"}
    assert "eval_datasets" not in theirs["data"]


def test_a_run_that_was_stopped_says_the_same(tmp_path: Path, sets: str) -> None:
    symbols = {"EVAL_DATASETS": sets, "EMA_DECAY": "0.9", "EVAL_INTERVAL": "3", "CHECKPOINT_INTERVAL": "2"}
    run(tmp_path, tmp_path / "peaceful", **symbols)
    for looks in (5, 21, 30, 26):
        run(tmp_path, tmp_path / "parts", Looked(looks), **symbols)
    run(tmp_path, tmp_path / "parts", **symbols)
    assert counting(tmp_path / "parts") == counting(tmp_path / "peaceful")
    assert result(tmp_path / "parts") == result(tmp_path / "peaceful")


def test_other_tokens_are_another_run_and_other_places_are_not(tmp_path: Path, sets: str) -> None:
    run(tmp_path, tmp_path / "run", EVAL_DATASETS=sets, MAX_ITERS="2")
    identity = read(tmp_path / "run", "provenance.json")["identity"]
    moved = f"code={tokens(tmp_path / 'elsewhere', 2, below=100)};books={tmp_path / 'books'}"
    config = run_config(tiny(tmp_path, EVAL_DATASETS=moved, MAX_ITERS="2").symbols)
    Run(config, tmp_path / "run")
    tokens(tmp_path / "books", 3)
    with pytest.raises(UserError, match="holds another run: CONFIG_EVAL_DATASETS is 'books="):
        Run(config, tmp_path / "run")
    assert check_identity(tmp_path / "run", identity)


def damage(folder: Path, how: str) -> None:
    if how == "no directory":
        folder.joinpath("val.bin").unlink()
        folder.rmdir()
    elif how == "no tokens":
        folder.joinpath("val.bin").rename(folder / "train.bin")
    elif how == "half a token":
        folder.joinpath("val.bin").write_bytes(b"abc")
    elif how == "another vocabulary":
        np.array([5, 256, 7] * 50, dtype="<u2").tofile(folder / "val.bin")
    elif how == "another tokenizer":
        folder.joinpath("meta.json").write_text('{"recipe": {"tokenizer": "gpt2"}}')
    elif how == "too short":
        tokens(folder, 1, n=T)


WRONG = {
    "no directory": r"holds no val\.bin: No such file or directory",
    "no tokens": r"holds no val\.bin, and no shards",
    "half a token": r"val\.bin: ",
    "another vocabulary": r"val\.bin: holds token 256, but VOCAB_SIZE=256 \(TOKENIZER_BYTE\)",
    "another tokenizer": r"meta\.json: its tokens are of the tokenizer gpt2, and the run's TOKENIZER_BYTE",
    "too short": r"32 validation tokens do not fill one sequence of BLOCK_SIZE=32",
}


@pytest.mark.parametrize("how", WRONG)
def test_what_is_wrong_with_a_set_is_one_line(tmp_path: Path, sets: str, how: str) -> None:
    damage(tmp_path / "books", how)
    out = tmp_path / "run"
    with pytest.raises(UserError, match=rf"^EVAL_DATASETS: books={tmp_path / 'books'}: .*{WRONG[how]}") as caught:
        run(tmp_path, out, EVAL_DATASETS=sets)
    assert "\n" not in str(caught.value)
    assert not list(out.iterdir())


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("data/books", r"is NAME=PATH;NAME=PATH"),
        ("a/b=data", r"is NAME=PATH;NAME=PATH"),
        ("=data", r"is NAME=PATH;NAME=PATH"),
        ("books=", r"name a path"),
        ("books=a;books=b", "names books twice"),
        ("books=~/a", '"~" stands for nothing here'),
    ],
)
def test_how_sets_are_named(text: str, reason: str) -> None:
    with pytest.raises(UserError, match=f"EVAL_DATASETS=.*{reason}"):
        DataConfig(eval_datasets=text)


def test_none_are_asked_for_by_nothing() -> None:
    assert not open_eval_datasets(DataConfig())
    assert DataConfig(eval_datasets=" books = a b ; ").eval_paths == {"books": "a b"}
