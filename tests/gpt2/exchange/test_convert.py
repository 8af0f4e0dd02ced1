"""Conversion changes clothes, not outputs: against `transformers` where it is installed, and by algebra where not."""

from __future__ import annotations

import copy
import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from gpt2.assignments import parse_assignments
from gpt2.attention.baseline import CausalSelfAttention
from gpt2.attention.ra_ultimate_v5 import FOLDS, UltimateRAv5, convert_qkv_to_ra_v5
from gpt2.base.errors import UserError
from gpt2.base.files import ROOT
from gpt2.dotconfig import resolve
from gpt2.exchange.convert import read_model, run_settings, to_baseline, to_mla, to_ra_mla, to_ra_v5, write_model
from gpt2.exchange.hf import read_hf, write_hf
from gpt2.model import GPT
from gpt2.run.checkpoint import read_checkpoint, save_checkpoint
from gpt2.run.load import load_model, load_weights
from gpt2.symbols import run_config
from scripts import convert_checkpoint_to_ra_v5 as command
from tests.gpt2.variants import small_model

CLOSE = 4e-5
"""Of logits of order 10 in float32, where rounding alone moves the baseline's by 2e-5 (promised: 1e-4)."""

STORED = 1e-5
"""Of the same in float64: all that is left is that converted weights are rounded to float32."""

EXACT = 1e-12
"""Of the same in float64 where weights are the same numbers."""


@torch.no_grad()
def logits(model: GPT, idx: Tensor | None = None) -> Tensor:
    return model.eval()(tokens(model.config.vocab_size) if idx is None else idx)[0]


def logits64(model: GPT) -> Tensor:
    return logits(copy.deepcopy(model).double())


def tokens(vocab_size: int) -> Tensor:
    return torch.randint(vocab_size, (2, 32), generator=torch.Generator().manual_seed(3))


def difference(a: Tensor, b: Tensor) -> float:
    assert a.shape == b.shape
    assert a.abs().max() > 1, "logits must be worth comparing"
    return (a - b).abs().max().item()


def convert(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> None:
    monkeypatch.setattr(sys, "argv", ["convert", *map(str, arguments)])
    command.main()


def transformers_model(**settings: Any) -> Any:
    """A stock GPT-2 with weights, biases and norms away from where they start."""
    transformers = pytest.importorskip("transformers")
    sizes = {"vocab_size": 64, "n_positions": 32, "n_embd": 32, "n_layer": 2, "n_head": 4}
    model = transformers.GPT2LMHeadModel(transformers.GPT2Config(**sizes | settings)).eval()
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.4 * torch.randn(p.shape, generator=generator))
    return model


@torch.no_grad()
def transformers_logits(directory: Path, idx: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    transformers = pytest.importorskip("transformers")
    model, report = transformers.GPT2LMHeadModel.from_pretrained(directory, output_loading_info=True)
    assert not any(report.values()), report
    out: Tensor = model.eval().to(dtype)(idx).logits
    return out


# The rows of one layer


@given(
    H=st.integers(1, 4),
    D=st.integers(2, 8),
    bias=st.booleans(),
    low=st.sampled_from(["least", "most"]),
    rank=st.integers(0, 8),
    seed=st.integers(0, 1000),
    data=st.data(),
)
def test_the_low_slot_carries_the_least_or_most_energy_and_scores_stay(
    H: int, D: int, bias: bool, low: str, rank: int, seed: int, data: st.DataObject
) -> None:
    R = data.draw(st.integers(1, D - 1))
    C = H * D
    rows = torch.randn(3 * C, C + bias, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    q, k, v = rows.unflatten(0, (3, H, D))
    k[:, rank:] = 0  # heads that do not use all of their dimensions
    converted = convert_qkv_to_ra_v5(rows, R, n_head=H, low=low)
    assert converted.shape == rows.shape and converted.dtype == rows.dtype
    new_q, new_k, new_v = converted.unflatten(0, (3, H, D))
    scores = q.mT @ k
    assert torch.equal(v, new_v)
    torch.testing.assert_close(new_q.mT @ new_k, scores, rtol=0, atol=1e-12)

    s = torch.linalg.svdvals(scores)[:, :D]
    best = (s[:, D - R :] if low == "least" else s[:, :R]).square().sum(1)
    energy = (new_q[:, D - R :].mT @ new_k[:, D - R :]).square().sum((1, 2))
    torch.testing.assert_close(energy, best, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(new_q.norm(dim=2), new_k.norm(dim=2), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("low", ["keep", "least", "most"])
@pytest.mark.parametrize("fold", FOLDS)
@pytest.mark.parametrize("bias", [True, False])
def test_converted_rows_in_c_attn_give_the_output_of_the_baseline(low: str, fold: str, bias: bool) -> None:
    torch.manual_seed(1)
    baseline = CausalSelfAttention(32, 4, bias=bias).eval()
    layer = UltimateRAv5(32, 4, 16, R=3, bias=bias, fold=fold).eval()
    layer.load_state_dict(baseline.state_dict(), strict=False)
    x = torch.randn(2, 16, 32)
    with torch.no_grad():
        expected = baseline(x)
        assert torch.equal(layer(x), expected)
        rows = baseline.c_attn.weight
        if bias:
            rows = torch.cat([rows, baseline.c_attn.bias[:, None]], dim=1)
        rows = convert_qkv_to_ra_v5(rows, 3, n_head=4, low=low)
        layer.c_attn.weight.copy_(rows[:, :32])
        if bias:
            layer.c_attn.bias.copy_(rows[:, 32])
        assert difference(20 * layer(x), 20 * expected) < 20 * 2e-7


def test_the_seeds_call_keeps_rows_as_they_are() -> None:
    rows = torch.randn(96, 32)
    converted = convert_qkv_to_ra_v5(rows, R=8)
    assert torch.equal(converted, rows)
    assert converted.data_ptr() != rows.data_ptr()


@pytest.mark.parametrize(
    ("shape", "options", "reason"),
    [
        ((96, 31), {}, r"\(96, 31\)"),
        ((95, 32), {}, r"\(95, 32\)"),
        ((96,), {}, r"\(96,\)"),
        ((0, 0), {}, r"\(0, 0\)"),
        ((96, 32), {"low": "most"}, "n_head"),
        ((96, 32), {"low": "highest", "n_head": 4}, "highest"),
        ((96, 32), {"n_head": 5}, "n_head=5"),
        ((96, 32), {"n_head": 4, "R": 8}, "R=8 must be from 1 to 7"),
        ((96, 32), {"R": 0}, "R=0"),
    ],
)
def test_rows_that_cannot_be_converted(shape: tuple[int, ...], options: dict[str, Any], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        convert_qkv_to_ra_v5(torch.zeros(shape), **options)


# Whole models of ours


@pytest.mark.parametrize("fold", FOLDS)
@pytest.mark.parametrize("low", ["keep", "least", "most"])
@pytest.mark.parametrize("bias", [True, False])
def test_baseline_to_ra_v5_and_back(fold: str, low: str, bias: bool) -> None:
    baseline = small_model("baseline", bias=bias)
    ra_v5 = to_ra_v5(baseline, R=3, fold=fold, low=low)
    assert ra_v5.config == dataclasses.replace(
        baseline.config, attention="ra_v5", ra_v5_R=3, ra_v5_fold=fold, ra_v5_gate_init=None
    )
    assert difference(logits64(ra_v5), logits64(baseline)) < STORED
    back = to_baseline(ra_v5)
    assert back.config.attention == "baseline"
    assert torch.equal(logits(back), logits(ra_v5))
    if low == "keep":
        assert all(torch.equal(p, back.state_dict()[name]) for name, p in baseline.state_dict().items())


@pytest.mark.parametrize("R", [1, 3, 7])
def test_a_baseline_becomes_mla_and_ra_mla(R: int) -> None:
    baseline = small_model("baseline")
    mla, ra_mla = to_mla(baseline), to_ra_mla(baseline, R=R)
    assert mla.config.mla_kv_latent_dim == baseline.config.n_embd
    assert difference(logits64(mla), logits64(baseline)) < STORED
    assert difference(logits64(ra_mla), logits64(baseline)) < STORED


def test_the_constant_of_a_converted_latent_survives_half_precision() -> None:
    baseline = small_model("baseline")
    for dtype in (torch.bfloat16, torch.float16):
        with torch.autocast("cpu", dtype):
            rounded = [logits(model).float() for model in (baseline, to_mla(baseline))]
        error = [(out - logits(baseline)).square().mean().sqrt() for out in rounded]
        assert 0 < error[1] < 2 * error[0]


def test_mla_becomes_ra_mla_without_a_change() -> None:
    mla = small_model("mla")
    assert torch.equal(logits(to_ra_mla(mla, R=5)), logits(mla))


@pytest.mark.parametrize(
    ("model", "conversion", "reason"),
    [
        ("ra_v5-lerp", to_ra_v5, "converted already"),
        ("ra_v5-lerp", to_ra_mla, "fold it"),
        ("ra_mla", to_ra_mla, "only a baseline"),
        ("mla", to_ra_v5, "ATTENTION_MLA=y: only a baseline"),
        ("mla", to_baseline, "ATTENTION_MLA=y: is no GPT-2"),
        ("ra_mla", to_baseline, "ATTENTION_RA_MLA=y: is no GPT-2"),
        ("ra_v5-lerp-d_bias", to_baseline, "RA_V5_D_BIAS=y"),
    ],
)
def test_conversions_that_cannot_be_exact(model: str, conversion: Any, reason: str) -> None:
    with pytest.raises(UserError, match=reason):
        conversion(small_model(model))


def test_a_model_without_biases_cannot_become_mla() -> None:
    with pytest.raises(UserError, match="BIAS=n"):
        to_mla(small_model("baseline", bias=False))


# Hugging Face


@pytest.mark.parametrize("activation", ["gelu_new", "gelu"])
@pytest.mark.parametrize("target", ["baseline", "ra_v5", "ra_v5 --fold direct --low most", "mla", "ra_mla --R 2"])
def test_from_hugging_face(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, activation: str, target: str) -> None:
    theirs = transformers_model(activation_function=activation)
    theirs.save_pretrained(tmp_path / "hf")
    convert(monkeypatch, tmp_path / "hf", tmp_path / "ours.pt", "--to", *target.split())
    ours = load_model(tmp_path / "ours.pt")
    assert ours.config.attention == target.split()[0]
    assert ours.config.gelu_tanh == (activation == "gelu_new")
    with torch.no_grad():
        assert difference(logits(ours), theirs(tokens(64)).logits) < CLOSE
        limit = EXACT if target == "baseline" else STORED
        assert difference(logits64(ours), theirs.double()(tokens(64)).logits) < limit


@pytest.mark.parametrize("variant", ["baseline", *(f"ra_v5-{fold}" for fold in FOLDS)])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("gelu_tanh", [True, False])
def test_to_hugging_face(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variant: str, bias: bool, gelu_tanh: bool
) -> None:
    ours = small_model(variant, bias=bias, gelu_tanh=gelu_tanh)
    write_model(ours, tmp_path / "ours.pt")
    convert(monkeypatch, tmp_path / "ours.pt", tmp_path / "hf", "--to", "hf")
    assert difference(transformers_logits(tmp_path / "hf", tokens(64)), logits(ours)) < CLOSE
    folded = to_baseline(ours)
    assert difference(transformers_logits(tmp_path / "hf", tokens(64), torch.float64), logits64(folded)) < EXACT
    # And read again, which needs no `transformers`.
    assert torch.equal(logits(read_hf(tmp_path / "hf")), logits(folded))


def test_there_and_back_is_the_same_to_the_bit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    theirs = transformers_model()
    theirs.save_pretrained(tmp_path / "hf")
    convert(monkeypatch, tmp_path / "hf", tmp_path / "ours.pt", "--R", 5)
    convert(monkeypatch, tmp_path / "ours.pt", tmp_path / "back", "--to", "hf")
    again = type(theirs).from_pretrained(tmp_path / "back").state_dict()
    assert all(torch.equal(weight, again[name]) for name, weight in theirs.state_dict().items())


def test_weights_in_half_precision_several_files_or_a_pickle_are_the_same_weights(tmp_path: Path) -> None:
    theirs = transformers_model().bfloat16()
    theirs.save_pretrained(tmp_path / "one")
    theirs.save_pretrained(tmp_path / "several", max_shard_size="20KB")
    assert len(list((tmp_path / "several").glob("*.safetensors"))) > 1
    # As in the first releases: no prefix, the causal mask beside the weights.
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "config.json").write_bytes((tmp_path / "one" / "config.json").read_bytes())
    old = {name.removeprefix("transformer."): weight for name, weight in theirs.transformer.state_dict().items()}
    old |= {"h.0.attn.bias": torch.ones(1, 1, 32, 32).tril(), "h.0.attn.masked_bias": torch.tensor(-1e4)}
    torch.save(old, tmp_path / "old" / "pytorch_model.bin")
    one, several, pickled = (read_hf(tmp_path / name).state_dict() for name in ("one", "several", "old"))
    for name, weight in one.items():
        assert weight.dtype == torch.float32
        assert torch.equal(weight, several[name]) and torch.equal(weight, pickled[name])


@pytest.mark.parametrize(("size", "options", "kept", "token"), [
    (50304, {}, 50257, 50256),
    (50257, {}, 50257, 50256),
    (64, {}, 64, None),
    (64, {"--vocab-size": 50}, 50, None),
])  # fmt: skip
def test_padding_of_the_vocabulary_is_cut(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int, options: dict[str, int], kept: int, token: int | None
) -> None:
    ours = small_model("ra_v5-lerp", vocab_size=size, n_layer=1)
    write_model(ours, tmp_path / "ours.pt")
    convert(monkeypatch, tmp_path / "ours.pt", tmp_path / "hf", "--to=hf", *(f"{k}={v}" for k, v in options.items()))
    config = json.loads((tmp_path / "hf" / "config.json").read_text())
    assert (config["vocab_size"], config["eos_token_id"], config["bos_token_id"]) == (kept, token, token)
    idx = tokens(kept)
    assert difference(transformers_logits(tmp_path / "hf", idx), logits(ours, idx)[..., :kept]) < CLOSE


def test_a_half_written_directory_is_not_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    safetensors_torch = pytest.importorskip("safetensors.torch")

    def full_disk(*_: object, **__: object) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr(safetensors_torch, "save_file", full_disk)
    with pytest.raises(OSError, match="No space"):
        write_hf(small_model("baseline"), tmp_path / "hf", vocab_size=64)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"model_type": "llama"}, "model_type is 'llama'"),
        ({"n_head": None}, "n_head is None"),
        ({"n_head": 5}, "N_EMBD=32: must be a multiple"),
        ({"n_layer": 3}, r"lacks transformer\.h\.2"),
        ({"n_positions": 16}, r"wpe\.weight is \(32, 32\) there and \(16, 32\)"),
        ({"layer_norm_epsilon": 1e-6}, "layer_norm_epsilon is 1e-06"),
        ({"scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inverse_layer_idx is True"),
        ({"activation_function": "relu"}, "activation_function is 'relu'"),
        ({"n_inner": 100}, "n_inner is 100"),
    ],
)
def test_hugging_face_models_that_are_not_our_gpt2(tmp_path: Path, change: dict[str, Any], reason: str) -> None:
    write_hf(small_model("baseline"), tmp_path / "hf", vocab_size=64)
    config = tmp_path / "hf" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | change))
    with pytest.raises(UserError, match=reason):
        read_hf(tmp_path / "hf")


def test_damaged_hugging_face_directories(tmp_path: Path) -> None:
    hf = tmp_path / "hf"
    write_hf(small_model("baseline"), hf, vocab_size=64)
    weights = (hf / "model.safetensors").read_bytes()
    (hf / "model.safetensors").write_bytes(weights[: len(weights) // 2])
    with pytest.raises(UserError, match=r"model\.safetensors: cannot be read as safetensors"):
        read_hf(hf)
    (hf / "model.safetensors").unlink()
    with pytest.raises(UserError, match="holds no weights"):
        read_hf(hf)
    (hf / "config.json").write_text("{")
    with pytest.raises(UserError, match=r"config\.json: is not JSON"):
        read_hf(hf)


def test_a_head_of_its_own_is_refused(tmp_path: Path) -> None:
    theirs = transformers_model(tie_word_embeddings=False)
    theirs.save_pretrained(tmp_path / "hf")
    with pytest.raises(UserError, match="tie_word_embeddings is False"):
        read_hf(tmp_path / "hf")
    config = tmp_path / "hf" / "config.json"
    config.write_text(config.read_text().replace('"tie_word_embeddings": false', '"tie_word_embeddings": true'))
    with pytest.raises(UserError, match=r"lm_head\.weight is not the token embedding"):
        read_hf(tmp_path / "hf")


def test_the_hub_out_of_reach(tmp_path: Path) -> None:
    pytest.importorskip("huggingface_hub")
    # In the checkout, where `gpt2` is a directory too.
    result = subprocess.run(
        [sys.executable, "-m", "scripts.convert_checkpoint_to_ra_v5", "gpt2", tmp_path / "out.pt"],
        cwd=ROOT,
        env={"PATH": os.environ["PATH"], "HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 2
    assert result.stderr.startswith("error: gpt2: not here, and not to be had from the Hugging Face hub: ")
    assert result.stderr.count("\n") == 1


# nanoGPT's checkpoints and ours


def nanogpt_checkpoint(model: GPT) -> dict[str, Any]:
    """What nanoGPT's train.py saves of a compiled model, where torch has no SDPA."""
    c = model.config
    names = ("n_layer", "n_head", "n_embd", "block_size", "bias", "vocab_size", "dropout")
    weights = {f"_orig_mod.{name}": weight for name, weight in model.state_dict().items()}
    for i in range(c.n_layer):
        weights[f"_orig_mod.transformer.h.{i}.attn.bias"] = torch.ones(1, 1, c.block_size, c.block_size).tril()
    optimizer = torch.optim.AdamW(model.parameters()).state_dict()
    return {
        "model": weights,
        "optimizer": optimizer,
        "model_args": {name: getattr(c, name) for name in names},
        "iter_num": 600000,
        "best_val_loss": torch.tensor(2.9),
        "config": {"out_dir": "out", "compile": True, "learning_rate": 6e-4},
    }


@pytest.mark.parametrize("bias", [True, False])
def test_from_nanogpt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bias: bool) -> None:
    model = small_model("baseline", bias=bias, gelu_tanh=False)
    torch.save(nanogpt_checkpoint(model), tmp_path / "ckpt.pt")
    convert(monkeypatch, tmp_path / "ckpt.pt", tmp_path / "out.pt")
    assert torch.equal(logits(load_model(tmp_path / "out.pt")), logits(model))


def test_from_a_runs_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for step, attention in [(10, "mla"), (20, "baseline")]:
        model = small_model(attention)
        content = {"step": step, "model_config": dataclasses.asdict(model.config), "model": model.state_dict()}
        save_checkpoint(tmp_path / "run" / "checkpoints", step, content)
    convert(monkeypatch, tmp_path / "run", tmp_path / "out.pt", "--R", 6)
    converted = load_model(tmp_path / "out.pt")
    assert converted.config.ra_v5_R == 6
    assert torch.equal(logits(converted), logits(model))
    assert read_checkpoint(tmp_path / "out.pt")["converted_from"] == str(tmp_path / "run")


class Anything:
    """Not plain data."""


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (Anything(), "something other than plain tensors"),
        ([1, 2], "holds a list"),
        ({"weights": {}}, 'no entry "model_config"'),
        ({"model_args": {"n_layer": 1}}, 'no entry "model"'),
        ({"model_args": 7, "model": {}}, 'no entry "model_config"'),
        ({"model_args": {"depth": 1}, "model": {}}, "unexpected keyword argument 'depth'"),
        ({"model_args": {"n_layer": 1, "n_embd": 30}, "model": {}}, "N_EMBD=30: must be a multiple"),
        ({"model_args": {"n_layer": 1, "n_embd": 24}, "model": {}}, r"lacks lm_head\.weight"),
    ],
)
def test_files_that_hold_no_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: object, reason: str
) -> None:
    torch.save(content, tmp_path / "in.pt")
    with pytest.raises(UserError, match=reason) as error:
        convert(monkeypatch, tmp_path / "in.pt", tmp_path / "out.pt")
    assert str(tmp_path / "in.pt") in str(error.value) and "\n" not in str(error.value)
    assert not (tmp_path / "out.pt").exists()


@pytest.mark.parametrize("change", ["shape", "missing", "number", "untied"])
def test_weights_that_are_not_the_models(tmp_path: Path, change: str) -> None:
    content = nanogpt_checkpoint(small_model("baseline"))
    name, weights = "_orig_mod.transformer.h.0.attn.c_attn.weight", content["model"]
    if change == "shape":
        weights[name] = weights[name].t()
    elif change == "missing":
        del weights[name]
    elif change == "number":
        weights[name] = 1.5
    else:
        weights["_orig_mod.lm_head.weight"] = 1 + weights["_orig_mod.lm_head.weight"]
    torch.save(content, tmp_path / "in.pt")
    reason = {
        "shape": r"c_attn\.weight is \(32, 96\) there and \(96, 32\) in the model",
        "missing": r"the checkpoint lacks transformer\.h\.0\.attn\.c_attn\.weight",
        "number": r"c_attn\.weight is a float, not a tensor",
        "untied": r"lm_head\.weight is not the token embedding",
    }
    with pytest.raises(UserError, match=reason[change]):
        read_model(str(tmp_path / "in.pt"))


def test_a_truncated_checkpoint(tmp_path: Path) -> None:
    write_model(small_model("baseline"), tmp_path / "in.pt")
    data = (tmp_path / "in.pt").read_bytes()
    for size in (0, 100, len(data) // 2, len(data) - 10):
        (tmp_path / "in.pt").write_bytes(data[:size])
        with pytest.raises(UserError, match=r"in\.pt: cannot be read as a checkpoint"):
            read_model(str(tmp_path / "in.pt"))


# The command


@pytest.mark.parametrize("target", ["ra_v5", "ra_v5 --fold direct", "ra_v5 --fold matrix", "ra_mla", "baseline"])
@pytest.mark.parametrize("vocab_size", [64, 100])
def test_a_run_starts_from_what_is_printed(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    target: str,
    vocab_size: int,
) -> None:
    model = small_model("baseline", vocab_size=vocab_size, gelu_tanh=True)
    torch.save(nanogpt_checkpoint(model) | {"model_args": dataclasses.asdict(model.config)}, tmp_path / "ckpt.pt")
    out = tmp_path / 'a "quoted" \\ name.pt'
    convert(monkeypatch, tmp_path / "ckpt.pt", out, "--to", *target.split())
    printed = [line for line in capsys.readouterr().out.splitlines() if "CONFIG_" in line]
    assert printed == run_settings(load_model(out), out)
    data = f'CONFIG_DATASET_BIN=y\nCONFIG_DATASET_BIN_DIR="data"\nCONFIG_VOCAB_SIZE={vocab_size}'
    config = run_config(resolve(parse_assignments("\n".join([*printed, data]), "printed")).symbols)
    started = GPT(config.model, seed=7)
    load_weights(started, read_checkpoint(Path(config.train.init_from)), origin="INIT_FROM")
    assert difference(logits(started), logits(model)) < CLOSE


def test_out_is_never_overwritten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_model(small_model("baseline"), tmp_path / "in.pt")
    (tmp_path / "out").mkdir()
    for out in ("in.pt", "out"):
        with pytest.raises(UserError, match=f"{out}: exists"):
            convert(monkeypatch, tmp_path / "in.pt", tmp_path / out, "--to", "hf")
    with pytest.raises(UserError, match="no directory"):
        convert(monkeypatch, tmp_path / "in.pt", tmp_path / "nowhere" / "out.pt")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.pt", "out"]


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ("--R 8", "RA_V5_R=8: must be from 1 to 7"),
        ("--R 0", "RA_V5_R=0"),
        ("--to hf --R 4", "--R=4: --to hf has no such option"),
        ("--to ra_mla --low most", "--low=most: --to ra_mla has no such option"),
        ("--to hf --vocab-size 65", "--vocab-size=65: must be from 1 to 64"),
    ],
)
def test_options_that_do_not_fit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: str, reason: str) -> None:
    write_model(small_model("baseline"), tmp_path / "in.pt")
    with pytest.raises(UserError, match=reason):
        convert(monkeypatch, tmp_path / "in.pt", tmp_path / "out.pt", *options.split())
    assert not (tmp_path / "out.pt").exists()


def test_neither_file_nor_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match=r"missing/ckpt\.pt: no such file"):
        read_model("missing/ckpt.pt")
    with pytest.raises(UserError, match=r"holds neither config\.json"):
        read_model(str(tmp_path))


def test_settings_of_makes_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_model(small_model("baseline"), Path("a model $(x).pt"))
    monkeypatch.setenv("MAKEFLAGS", r"s -- OUT=out.pt IN=a\ model\ $$(x).pt R=7 FOLD=direct V=1 LOW=least")
    convert(monkeypatch)
    config = load_model(Path("out.pt")).config
    assert (config.ra_v5_R, config.ra_v5_fold) == (7, "direct")
    for flags, reason in [("-- IN=a", "say what and where to"), ("-- IN=a OUT=b MAX_ITERS=5", "MAX_ITERS")]:
        monkeypatch.setenv("MAKEFLAGS", flags)
        with pytest.raises(UserError, match=reason):
            convert(monkeypatch)
