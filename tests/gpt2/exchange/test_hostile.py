"""Model files that claim what they do not hold: refused in one line, before anything of the claimed size is made."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gpt2.base.errors import UserError
from gpt2.config import GPTConfig
from gpt2.exchange.convert import read_model, write_model
from gpt2.exchange.hf import read_hf, write_hf
from gpt2.model import GPT
from gpt2.run.checkpoint import load_newest, read_checkpoint, save_checkpoint
from gpt2.run.load import load_model, load_weights, model_of, unwrapped
from scripts import sample
from tests.gpt2.variants import VARIANTS, small_model

QKV = "transformer.h.0.attn.c_attn.weight"
ILL_TYPED: list[Any] = [
    None,
    True,
    1.5,
    float("nan"),
    1e9,
    -1,
    0,
    10**9,
    2**31,
    2**70,
    10**400,
    "12",
    "../../evil",
    "nonsense",
    [],
    [12],
    {},
]


def content(variant: str = "baseline") -> dict[str, Any]:
    model = small_model(variant)
    return {"model_config": dataclasses.asdict(model.config), "model": dict(model.state_dict())}


def refused(state: dict[str, Any]) -> str:
    with pytest.raises(UserError) as error:
        model_of(state, origin="x.pt")
    message = str(error.value)
    assert message.startswith("x.pt: ") and message.isprintable() and len(message) < 400
    return message


# Ours and nanoGPT's

SIZES = ("block_size", "vocab_size", "n_layer", "n_head", "n_embd")
GATE_INIT = (None, 1.5, 1e9, -1, 0, 10**9, 2**31, 2**70)
FIELDS: list[tuple[str, str, tuple[Any, ...]]] = [
    *((name, "baseline", ()) for name in SIZES),
    ("dropout", "baseline", (0,)),
    ("bias", "baseline", (True,)),
    ("gelu_tanh", "baseline", (True,)),
    ("attention", "baseline", ()),
    ("attention_layers", "baseline", ()),
    ("attention_options", "baseline", ({},)),
    ("ra_v5_R", "ra_v5-lerp", ()),
    ("ra_v5_fold", "ra_v5-lerp", ()),
    ("ra_v5_gate_init", "ra_v5-lerp", GATE_INIT),
    ("ra_v5_gate_init", "ra_mla", GATE_INIT),
    ("ra_v5_learn_w_rec", "ra_v5-lerp", (True,)),
    ("ra_v5_d_bias", "ra_v5-lerp", ()),
    ("mla_kv_latent_dim", "mla", ()),
    # What a model has no use for is read all the same, by who sums up what it is.
    ("ra_v5_R", "baseline", (10**9,)),
    ("ra_v5_fold", "baseline", ()),
    ("ra_v5_fold", "qk_norm", ()),
    ("ra_v5_gate_init", "baseline", GATE_INIT),
    ("mla_kv_latent_dim", "baseline", (10**9,)),
]
"""A field, a model, and those of ILL_TYPED that it may have there."""

ENDLESS = 10**5000
"""More digits than Python writes out."""


@pytest.mark.parametrize(("field", "variant", "right"), FIELDS)
def test_a_setting_that_no_model_has(field: str, variant: str, right: tuple[Any, ...]) -> None:
    for value in [*ILL_TYPED, ENDLESS, [ENDLESS]]:
        if not any(value == r and type(value) is type(r) for r in right):
            state = content(variant)
            state["model_config"][field] = value
            refused(state)


OPTIONS = [
    (variant, name, type(value))
    for variant, settings in VARIANTS.items()
    for name, value in settings.get("attention_options", {}).items()
]


@pytest.mark.parametrize(("variant", "option", "kind"), OPTIONS)
def test_an_option_that_no_variant_has(variant: str, option: str, kind: type) -> None:
    symbol = f"{VARIANTS[variant]['attention']}_{option}".upper()
    state = content(variant)
    state["model_config"]["attention_options"] = {}
    assert f"{symbol}=None: must be " in refused(state)
    for value in [*ILL_TYPED, ENDLESS]:
        state["model_config"]["attention_options"] = {option: value}
        if type(value) is not kind or value in ("nonsense", -1, 2**70, 10**400, ENDLESS):
            refused(state)


@pytest.mark.parametrize(
    "name", ["", ".", "..", "../../evil", "os", "os.path", "shared", "__init__", "a b", "x" * 100_000, "\x1b[2J"]
)
def test_attention_that_is_no_variant(name: str) -> None:
    state = content()
    state["model_config"]["attention"] = name
    assert "ATTENTION_" in refused(state)


@pytest.mark.parametrize("variant", ["baseline", "ra_v5-lerp", "mla", "ra_mla"])
@given(st.sampled_from(SIZES), st.integers(1, 2**31 - 1))
def test_sizes_are_those_of_the_tensors(variant: str, name: str, value: int) -> None:
    state = content(variant)
    if value != state["model_config"][name]:
        state["model_config"][name] = value
        if name != "n_head" or 32 % value:  # a baseline's weights are the same for any number of heads
            refused(state)


def expanded(shape: tuple[int, ...]) -> torch.Tensor:
    return torch.zeros(()).expand(shape)


WEIGHTS: dict[str, Any] = {
    "a list": [[1.0]],
    "a number": 1.5,
    "null": None,
    "whole numbers": torch.ones(96, 32, dtype=torch.long),
    "booleans": torch.ones(96, 32, dtype=torch.bool),
    "complex": torch.ones(96, 32, dtype=torch.complex64),
    "sparse": torch.ones(96, 32).to_sparse(),
    "without numbers": torch.empty(96, 32, device="meta"),
    "one number for all": expanded((96, 32)),
    "another shape": torch.ones(32, 96),
    "NaN": torch.full((96, 32), float("nan")),
    "infinity": torch.full((96, 32), float("inf")),
    "one NaN": torch.ones(96, 32).index_fill(0, torch.tensor([95]), float("nan")),
    "too much for float32": torch.full((96, 32), 1e300, dtype=torch.float64),
}


@pytest.mark.parametrize("what", WEIGHTS)
def test_a_weight_that_is_none(what: str) -> None:
    state = content()
    state["model"][QKV] = WEIGHTS[what]
    assert QKV in refused(state)
    with pytest.raises(UserError, match=r"^INIT_FROM: .*c_attn\.weight"):
        load_weights(small_model("baseline"), state, origin="INIT_FROM")


@pytest.mark.parametrize("weights", [None, [], {}, {1: torch.ones(1)}, {("a",): 1}, {"\x1b": 1}, {"x" * 100_000: 1}])
def test_weights_that_are_none(weights: Any) -> None:
    refused(content() | {"model": weights})


def test_a_vast_model_of_one_number_is_not_built() -> None:
    n = 1 << 20
    sizes = {"n_layer": 1, "n_head": 1, "n_embd": n, "vocab_size": n, "block_size": n, "bias": False}
    names = {f"transformer.h.0.{name}.weight" for name in ("ln_1", "attn.c_attn", "attn.c_proj", "ln_2", "mlp.c_fc")}
    weights = dict.fromkeys(names, expanded((1,))) | {
        f"{name}.weight": expanded((n, n)) for name in ("transformer.wte", "transformer.wpe", "lm_head")
    }
    assert "fewer numbers" in refused({"model_config": sizes, "model": weights})


@given(st.lists(st.sampled_from(["module", "_orig_mod", "_fsdp_wrapped_module"]), max_size=4), st.integers(0, 2))
def test_wrappers_in_any_order_and_place(wrappers: list[str], place: int) -> None:
    state = content()

    def wrapped(name: str) -> str:
        parts = name.split(".")
        return ".".join([*parts[:place], *wrappers, *parts[place:]])

    plain, state["model"] = state["model"], {wrapped(name): weight for name, weight in state["model"].items()}
    loaded = model_of(state, origin="x").state_dict()
    assert all(torch.equal(weight, loaded[name]) for name, weight in plain.items())


def test_a_weight_that_is_there_twice() -> None:
    with pytest.raises(UserError, match=r"^x: a\.b is there twice, once as module\.a\.b$"):
        unwrapped({"a.b": 1, "module.a.b": 2}, origin="x")


# Hugging Face's


@pytest.fixture(scope="module")
def stock(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("safetensors")
    path = tmp_path_factory.mktemp("stock") / "hf"
    write_hf(small_model("baseline"), path, vocab_size=64)
    return path


def changed(stock: Path, folder: Path, change: dict[str, Any]) -> Path:
    shutil.copytree(stock, folder / "hf")
    config = json.loads((stock / "config.json").read_text())
    (folder / "hf" / "config.json").write_text(json.dumps(config | change))
    return folder / "hf"


@pytest.mark.parametrize(
    "key",
    ["model_type", "n_positions", "vocab_size", "n_layer", "n_head", "n_embd", "layer_norm_epsilon", "n_inner",
     "activation_function", "scale_attn_weights", "tie_word_embeddings"],
)  # fmt: skip
def test_a_config_that_no_model_has(stock: Path, tmp_path: Path, key: str) -> None:
    right = {"n_inner": (None,), "scale_attn_weights": (True,), "tie_word_embeddings": (True,)}
    for i, value in enumerate(ILL_TYPED):
        if not any(value is r for r in right.get(key, ())):
            (tmp_path / str(i)).mkdir()
            with pytest.raises(UserError) as error:
                read_hf(changed(stock, tmp_path / str(i), {key: value}))
            assert str(tmp_path) in str(error.value) and str(error.value).isprintable() and len(str(error.value)) < 500


OUTSIDE = ["../evil", "/etc/passwd", "a/b", "..", ".", "", "\0", "a\nb", 7, None, ["model.safetensors"], {}]


@pytest.mark.parametrize("kind", ["safetensors", "bin"])
@pytest.mark.parametrize("name", OUTSIDE)
def test_an_index_names_files_beside_it(stock: Path, tmp_path: Path, kind: str, name: Any) -> None:
    hf = changed(stock, tmp_path, {})
    (hf / "model.safetensors").rename(tmp_path / "evil")
    index = {"safetensors": "model.safetensors.index.json", "bin": "pytorch_model.bin.index.json"}[kind]
    (hf / index).write_text(json.dumps({"weight_map": {"wte.weight": name}}))
    with pytest.raises(UserError, match=r"index\.json: weight_map names .*must be the name of a file beside it"):
        read_hf(hf)


@pytest.mark.parametrize("index", ["[]", "{}", '{"weight_map": []}', '{"weight_map": {}}', "{", "\xff"])
def test_an_index_that_is_none(stock: Path, tmp_path: Path, index: str) -> None:
    hf = changed(stock, tmp_path, {})
    (hf / "model.safetensors").unlink()
    (hf / "model.safetensors.index.json").write_text(index, encoding="latin-1")
    with pytest.raises(UserError, match=r"index\.json: "):
        read_hf(hf)


@pytest.mark.parametrize("kind", ["safetensors", "bin"])
def test_weights_in_several_files_and_wrappers(stock: Path, tmp_path: Path, kind: str) -> None:
    save_file = pytest.importorskip("safetensors.torch").save_file
    hf = changed(stock, tmp_path, {})
    tensors = {f"module._orig_mod.{name}": t for name, t in read_tensors(hf / "model.safetensors").items()}
    (hf / "model.safetensors").unlink()
    stem, ending = {"safetensors": ("model", "safetensors"), "bin": ("pytorch_model", "bin")}[kind]
    files = [f"{stem}-0000{i}-of-00003.{ending}" for i in (1, 2, 3)]
    parts = [dict(list(tensors.items())[i::3]) for i in range(3)]
    for name, part in zip(files, parts, strict=True):
        save_file(part, hf / name) if kind == "safetensors" else torch.save(part, hf / name)
    weight_map = {name: file for file, part in zip(files, parts, strict=True) for name in part}
    (hf / f"{stem}.{ending}.index.json").write_text(json.dumps({"weight_map": weight_map}))
    ours, theirs = read_hf(hf).state_dict(), read_hf(stock).state_dict()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    # A file that is missing, and a weight in two of them.
    shutil.copy(hf / files[0], hf / files[1])
    with pytest.raises(UserError, match=r"is in another file of .*index"):
        read_hf(hf)
    (hf / files[1]).unlink()
    with pytest.raises(UserError, match=f"{files[1]}"):
        read_hf(hf)


def read_tensors(path: Path) -> dict[str, torch.Tensor]:
    tensors: dict[str, torch.Tensor] = pytest.importorskip("safetensors.torch").load_file(path)
    return tensors


@pytest.mark.parametrize("head", ["equal", "unequal", "missing"])
def test_an_output_that_is_not_tied_by_name_may_be_so_by_its_numbers(stock: Path, tmp_path: Path, head: str) -> None:
    save_file = pytest.importorskip("safetensors.torch").save_file
    hf = changed(stock, tmp_path, {"tie_word_embeddings": False})
    tensors = read_tensors(hf / "model.safetensors")
    embedding = tensors["transformer.wte.weight"]
    if head != "missing":
        tensors["lm_head.weight"] = embedding.clone() if head == "equal" else embedding + 1
    save_file(tensors, hf / "model.safetensors")
    if head == "equal":
        assert torch.equal(read_hf(hf).lm_head.weight, embedding)
    else:
        with pytest.raises(UserError, match=r"config\.json: tie_word_embeddings is False, and lm_head\.weight is not"):
            read_hf(hf)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
@pytest.mark.parametrize("what", ["pipe", "directory", "link"])
def test_what_stands_in_a_files_place(stock: Path, tmp_path: Path, name: str, what: str) -> None:
    path = changed(stock, tmp_path, {}) / name
    path.unlink()
    make: dict[str, Callable[[Path], object]] = {
        "pipe": os.mkfifo,
        "directory": lambda path: path.mkdir(),
        "link": lambda path: path.symlink_to("/dev/zero"),
    }
    make[what](path)
    with pytest.raises(UserError, match=name):
        read_hf(path.parent)


# Files


@pytest.mark.parametrize("what", ["pipe", "device", "directory", "empty", "zeros", "text", "zip", "pickle", "missing"])
def test_files_that_are_no_checkpoints(tmp_path: Path, what: str) -> None:
    path = tmp_path / "x.pt"
    if what == "pipe":
        os.mkfifo(path)
    elif what == "device":
        path.symlink_to("/dev/zero")
    elif what == "directory":
        path.mkdir()
    elif what != "missing":
        data = {"empty": b"", "zeros": bytes(9999), "text": b"hello", "zip": b"PK\x05\x06" + bytes(18), "pickle": b"N."}
        path.write_bytes(data[what])
    for read in (read_checkpoint, load_model, lambda path: read_model(str(path))):
        with pytest.raises(UserError) as error:
            read(path)
        assert str(path) in str(error.value) and str(error.value).isprintable()


@pytest.mark.parametrize(
    "damage",
    [b"", b"\xff\xfe\x00", b"0" * 64, bytes(10_000_000), b" \n", "directory", "pipe", "a directory for the checkpoint"],
    ids=lambda damage: str(damage)[:12],
)
def test_checksums_that_are_none(tmp_path: Path, damage: bytes | str) -> None:
    save_checkpoint(tmp_path, 1, {"step": 1})
    path = save_checkpoint(tmp_path, 2, {"step": 2})
    checksum = path.with_name(f"{path.name}.sha256")
    if isinstance(damage, bytes):
        checksum.write_bytes(damage)
    elif damage in ("directory", "pipe"):
        checksum.unlink()
        checksum.mkdir() if damage == "directory" else os.mkfifo(checksum)
    else:
        path.unlink()
        path.mkdir()
    loaded = load_newest(tmp_path)
    assert loaded is not None
    assert loaded.state["step"] == 1 and loaded.damaged == (path,)


# What is asked of a sample


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "model.pt"
    sizes = {"n_layer": 1, "n_head": 2, "n_embd": 8, "vocab_size": 320, "block_size": 16}
    write_model(GPT(GPTConfig(**sizes), seed=1), path)  # type: ignore[arg-type]
    return path


def run_sample(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> None:
    monkeypatch.setattr(sys, "argv", ["sample", *map(str, arguments), "--tokenizer=byte", "--device=cpu"])
    sample.main()


@pytest.mark.parametrize(
    "option",
    ["--temperature=nan", "--temperature=inf", "--temperature=-inf", "--temperature=-1", "--temperature=-1e-9",
     "--top-k=0", "--top-k=-1", f"--seed={2**64}", f"--seed={-(2**63) - 1}", "--seed=1" + "0" * 400, "--tokens=-1",
     "--prompt=\udcff"],
)  # fmt: skip
def test_a_sample_that_cannot_be_drawn(model: Path, monkeypatch: pytest.MonkeyPatch, option: str) -> None:
    with pytest.raises(UserError, match=f"^{option.partition('=')[0]} "):
        run_sample(monkeypatch, model, option)


@pytest.mark.parametrize(
    "options",
    [["--temperature=5e-324"], ["--temperature=1e-30", "--top-k=3"], ["--temperature=1e300"], [f"--seed={2**64 - 1}"],
     ["--seed=-1"], ["--top-k=1000000000000"], ["--tokens=0", "--stats"], ["--prompt=\x00\x1b[2J\u202e"]],
)  # fmt: skip
def test_a_sample_at_the_ends_of_what_is_possible(
    model: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], options: list[str]
) -> None:
    run_sample(monkeypatch, model, "--tokens=40", *options)
    printed = capsys.readouterr().out.rstrip("\n")
    assert all(c.isprintable() or c in "\n\t" for c in printed)


def test_a_model_whose_output_is_not_finite_is_one_line(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = read_checkpoint(model)
    state["model"]["transformer.wpe.weight"].fill_(3e38)
    torch.save(state, tmp_path / "model.pt")
    for temperature in (0, 1):
        with pytest.raises(UserError, match="not finite"):
            run_sample(monkeypatch, tmp_path / "model.pt", f"--temperature={temperature}")


@pytest.mark.parametrize("name", ["evil", "../x", "", 7, ["byte"]])
def test_a_tokenizer_that_is_none(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: Any) -> None:
    from tests.harness.synthetic_runs import write_run

    run = write_run(tmp_path, "baseline", 1)
    (run / "checkpoints").mkdir()
    shutil.copy(model, run / "checkpoints" / "x.pt")
    provenance = json.loads((run / "provenance.json").read_text())
    provenance["data"]["tokenizer"] = name
    (run / "provenance.json").write_text(json.dumps(provenance))
    monkeypatch.setattr(sys, "argv", ["sample", str(run / "checkpoints" / "x.pt")])
    with pytest.raises(UserError, match=r"provenance\.json: .*tokenizer"):
        sample.main()
