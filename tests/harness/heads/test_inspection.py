"""What is measured of heads, against cases computed by hand; the page; and the command, on models of every variant."""

from __future__ import annotations

import csv
import dataclasses
import json
import math
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from gpt2.base.errors import UserError
from gpt2.config import GPTConfig
from gpt2.model import GPT
from gpt2.run.checkpoint import save_checkpoint
from harness.heads import inspection, measures
from harness.heads.inspection import first_runs, head_rows, inspect_run, inspection_directory, write_inspection
from harness.heads.page import FLOOR, MAX_TOKENS, decode_scores, encode_scores, page_tokens, render_page
from scripts import inspect_attention
from tests.harness.synthetic_runs import write_run

VARIANTS: dict[str, dict[str, Any]] = {
    "baseline": {},
    "ra_v5": {"ra_v5_gate_init": 0.3},
    "ra_v5-direct": {"ra_v5_fold": "direct", "ra_v5_gate_init": 0.7},
    "ra_v5-matrix": {"ra_v5_fold": "matrix", "ra_v5_gate_init": 0.3},
    "ra_v5-d_bias-layer1": {"ra_v5_d_bias": True, "ra_v5_gate_init": 0.3, "attention_layers": "1"},
    "ra_v5-d_bias": {"ra_v5_d_bias": True, "ra_v5_gate_init": 0.3},
    "mla": {"mla_kv_latent_dim": 24},
    "ra_mla": {"mla_kv_latent_dim": 24, "ra_v5_gate_init": 0.3},
    "rope": {"attention_options": {"base": 100}},
    "value_residual": {"attention_options": {"mix": "0.5"}},
    "gqa": {"attention_options": {"kv_heads": 1}},
}
TEXT = "To be, or not to be, that is the question."
HOSTILE = "</script><img src=x onerror=alert(1)> {{ 7 * 7 }} & 'quotes' \"too\"\t\x00"

seeds = st.integers(0, 2**32)
lengths = st.integers(3, 20)


def small_config(variant: str = "baseline", **options: Any) -> GPTConfig:
    shape = {"n_layer": 2, "n_head": 3, "n_embd": 48, "block_size": 32, "vocab_size": 256, "ra_v5_compile": False}
    return GPTConfig(attention=variant.split("-")[0], **shape | VARIANTS[variant] | options)


def small_model(variant: str = "baseline", **options: Any) -> GPT:
    """A model whose weights are large enough for its attention to be far from uniform."""
    model = GPT(small_config(variant, **options), seed=1).eval()
    with torch.no_grad():
        for layer in layers(model):
            layer.c_attn.weight *= 20
            if getattr(layer, "d_bias", None) is not None:
                layer.d_bias.copy_(normal(3, 32))
    return model


def layers(model: GPT) -> list[Any]:
    transformer: Any = model.transformer
    return [block.attn for block in transformer.h]


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def tokens(n: int = 32) -> Tensor:
    return torch.randint(256, (n,), generator=torch.Generator().manual_seed(0))


def save_model(directory: Path, model: GPT) -> Path:
    config = dataclasses.asdict(model.config)
    return save_checkpoint(directory, 1, {"model_config": config, "model": model.state_dict()})


# Measures


@given(seed=seeds, T=lengths)
def test_reciprocity_is_1_of_symmetric_and_minus_1_of_antisymmetric_scores(seed: int, T: int) -> None:
    S = normal(2, T, T, seed=seed)
    for measure in (measures.reciprocity, lambda s: measures.reciprocity(measures.double_centred(s))):
        if T > 3 or measure is measures.reciprocity:  # of 3 tokens, what is left after centring may be constant
            torch.testing.assert_close(measure(S + S.mT), torch.ones(2, dtype=S.dtype))
            torch.testing.assert_close(measure(S - S.mT), -torch.ones(2, dtype=S.dtype))


def test_reciprocity_is_pearsons_correlation_below_the_diagonal() -> None:
    S = normal(6, 6)
    pairs = [(i, j) for i in range(6) for j in range(i)]
    expected = np.corrcoef([S[i, j] for i, j in pairs], [S[j, i] for i, j in pairs])[0, 1]
    assert measures.reciprocity(S).item() == pytest.approx(expected, abs=1e-14)


def test_reciprocity_of_what_does_not_vary_is_undefined() -> None:
    constant = torch.full((5, 5), 0.1, dtype=torch.float64)
    assert measures.reciprocity(constant).isnan()
    assert measures.reciprocity(measures.double_centred(constant)).isnan()
    assert measures.variance_share(constant, constant).isnan()


@given(seed=seeds, T=lengths)
def test_what_softmax_does_not_see_changes_no_centred_measure(seed: int, T: int) -> None:
    S, shift = normal(T, T, seed=seed), 10 * normal(T, 1, seed=seed + 1)
    torch.testing.assert_close(measures.causal_softmax(S + shift), measures.causal_softmax(S))
    torch.testing.assert_close(measures.double_centred(S + shift), measures.double_centred(S), atol=1e-12, rtol=0)
    torch.testing.assert_close(measures.variance_share(S + shift, S), torch.tensor(1.0, dtype=S.dtype))


@given(seed=seeds, T=lengths)
def test_shares_of_variance_add_up(seed: int, T: int) -> None:
    parts = normal(3, T, T, seed=seed)
    shares = [measures.variance_share(part, parts.sum(dim=0)) for part in parts]
    assert sum(shares).item() == pytest.approx(1, abs=1e-9)  # type: ignore[union-attr]


def test_share_of_variance_by_hand() -> None:
    # Only query 1 sees keys that differ: 3 and -1 of S, of which the part is 2 and 0.
    S = torch.tensor([[9.0, 0.0], [3.0, -1.0]]).double()
    part = torch.tensor([[4.0, 5.0], [2.0, 0.0]]).double()
    assert measures.variance_share(part, S).item() == pytest.approx(0.5, abs=1e-15)


@pytest.mark.parametrize("T", [2, 3, 7, 64])
def test_uniform_attention(T: int) -> None:
    A = measures.causal_softmax(torch.full((T, T), 0.3, dtype=torch.float64))
    torch.testing.assert_close(A.sum(dim=-1), torch.ones(T, dtype=A.dtype))
    expected = sum(math.log(i + 1) for i in range(T)) / T
    assert measures.entropy(A).item() == pytest.approx(expected, abs=1e-12)
    assert measures.relative_entropy(A).item() == pytest.approx(1, abs=1e-12)


def test_attention_to_one_key_has_no_entropy() -> None:
    A = torch.eye(5, dtype=torch.float64)
    assert measures.entropy(A).item() == 0
    assert measures.relative_entropy(A).item() == 0


@given(T=st.integers(1, 300))
def test_bins_hold_every_distance_once(T: int) -> None:
    assert [d for a, b in measures.distance_bins(T) for d in range(a, b + 1)] == list(range(T))


@given(T=st.integers(2, 40), data=st.data())
def test_attention_at_one_distance_lies_in_its_bin(T: int, data: st.DataObject) -> None:
    distance = data.draw(st.integers(0, T - 1))
    keys = [max(0, i - distance) for i in range(T)]  # the first queries have nothing so far back
    A = nn.functional.one_hot(torch.tensor(keys), T).double()
    expected = [sum(a <= i - key <= b for i, key in enumerate(keys)) / T for a, b in measures.distance_bins(T)]
    torch.testing.assert_close(measures.distance_profile(A), torch.tensor(expected).double())


@given(seed=seeds, T=lengths)
def test_the_shares_of_distances_add_up(seed: int, T: int) -> None:
    A = measures.causal_softmax(3 * normal(2, T, T, seed=seed))
    torch.testing.assert_close(measures.distance_profile(A).sum(dim=-1), torch.ones(2, dtype=A.dtype))


# Of models


@pytest.mark.parametrize("variant", VARIANTS)
def test_what_is_captured_is_what_the_model_computes(variant: str) -> None:
    model = small_model(variant)
    outputs: list[Tensor] = []
    for layer in layers(model):
        layer.c_proj.register_forward_pre_hook(lambda _, args: outputs.append(args[0][0]))
    calls = measures.attention_calls(model, tokens())
    assert len(calls) == len(outputs) == 2
    for call, output in zip(calls, outputs, strict=True):
        mixed = measures.causal_softmax(call.scores()) @ call.v.double()
        expected = mixed[..., : model.config.head_dim].transpose(0, 1).flatten(1)
        torch.testing.assert_close(output.double(), expected, atol=2e-5, rtol=0)


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_variant_can_be_observed(variant: str) -> None:
    model = small_model(variant)
    observed = measures.observe(model, tokens(), keep=10)
    columns = {measure.name: measure.values for measure in observed.measures}
    always = ["entropy", "relative_entropy", "reciprocity", "centred_reciprocity"]
    size = "w_rec_rms" if "matrix" in variant else "w_rec"
    gated = ["w_std", size] if variant.startswith("ra") else []
    assert list(columns) == gated + always + ["low_share"] * bool(gated) + ["bias_share"] * ("d_bias" in variant)
    is_first = "layer1" not in variant
    assert [name for name, values in columns.items() if not np.isfinite(values[0]).all()] == (
        [] if is_first else [name for name in columns if name not in always]
    )
    assert all(values.shape == (2, 3) and np.isfinite(values[1]).all() for values in columns.values())
    assert observed.scores.shape == (2, 3, 10, 10)
    assert observed.distance_profile.shape == (2, 3, len(observed.bins))
    np.testing.assert_allclose(observed.distance_profile.sum(axis=-1), 1, atol=1e-12)
    if gated:
        np.testing.assert_array_equal(columns[size], model.gates()[size].numpy())
    assert (observed.d_bias is None) == ("d_bias" not in variant)


def test_a_half_swapped_low_slot_alone_is_fully_reciprocal() -> None:
    model = small_model("ra_v5", ra_v5_gate_init=0.5)
    D, R = model.config.head_dim, model.config.ra_v5_R
    with torch.no_grad():
        for layer in layers(model):
            layer.c_attn.weight[: model.config.n_embd].view(3, D, -1)[:, : D - R] = 0
    columns = {m.name: m.values for m in measures.observe(model, tokens()).measures}
    for name in ("reciprocity", "centred_reciprocity", "low_share"):
        np.testing.assert_allclose(columns[name], 1, atol=1e-5)


def test_a_silent_low_slot_has_no_share() -> None:
    model = small_model("ra_v5", ra_v5_gate_init=0.0)
    D, R = model.config.head_dim, model.config.ra_v5_R
    with torch.no_grad():
        for layer in layers(model):
            layer.c_attn.weight[: model.config.n_embd].view(3, D, -1)[:, D - R :] = 0
    columns = {m.name: m.values for m in measures.observe(model, tokens()).measures}
    np.testing.assert_array_equal(columns["low_share"], 0)


def test_the_bias_is_shown_centred_and_its_share_is_its_own() -> None:
    model = small_model("ra_v5-d_bias")
    with torch.no_grad():
        for layer in layers(model):
            layer.d_bias += 5
            layer.c_attn.weight.zero_()  # nothing else is left of the scores
    observed = measures.observe(model, tokens(20))
    assert observed.d_bias is not None
    d = normal(3, 32)[:, :20].float().double()
    expected = (d - d.mean(dim=-1, keepdim=True)).expand(2, -1, -1)
    np.testing.assert_allclose(observed.d_bias, expected, atol=1e-6)
    columns = {m.name: m.values for m in observed.measures}
    np.testing.assert_allclose(columns["bias_share"], 1, atol=1e-12)
    np.testing.assert_allclose(columns["low_share"], 0, atol=1e-12)


def test_a_variant_that_attends_otherwise_is_refused_by_name() -> None:
    model = small_model()
    layers(model)[0].forward = lambda x: x
    with pytest.raises(UserError, match=r"ATTENTION_BASELINE: 1 causal calls .* in 2 layers"):
        measures.attention_calls(model, tokens())


# The page


class Page(HTMLParser):
    """The elements of a page with their attributes, and the text of its scripts."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attributes)))
        if tag == "script":
            self.scripts.append("")

    def handle_data(self, data: str) -> None:
        if self.elements and self.elements[-1][0] == "script":
            self.scripts[-1] += data


def page_of(variant: str, text: str = TEXT[:32], name: str = "some/run") -> Page:
    model = small_model(variant)
    observed = measures.observe(model, tokens(len(text)))
    return Page(render_page(name, model.config, "a text", list(text), observed))


@pytest.mark.parametrize("variant", ["baseline", "ra_v5-d_bias"])
def test_the_page_needs_no_network_and_its_data_is_json(variant: str) -> None:
    page = page_of(variant)
    assert not [tag for tag, attributes in page.elements if {"src", "href", "srcset", "data"} & set(attributes)]
    assert ("meta", "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'") in [
        (tag, attributes.get("content")) for tag, attributes in page.elements
    ]
    data = json.loads(page.scripts[0])
    assert data["tokens"] == list(TEXT[:32])
    assert (data["bias"] is None) == (variant == "baseline")


def test_hostile_text_stays_text() -> None:
    page = page_of("baseline", HOSTILE[:32], name=HOSTILE)
    assert len(page.scripts) == 2  # the data and the code
    assert not [tag for tag, _ in page.elements if tag == "img"]
    assert json.loads(page.scripts[0])["tokens"] == list(HOSTILE[:32])


@settings(max_examples=50)
@given(seed=seeds, n=st.integers(2, 20), spread=st.sampled_from([0.0, 0.01, 1.0, 30.0]))
def test_encoded_scores_give_the_models_attention(seed: int, n: int, spread: float) -> None:
    scores = spread * normal(2, n, n, seed=seed).numpy()
    levels, ranges = encode_scores(scores)
    decoded = decode_scores(levels, ranges)
    low, high = ranges[..., :1], ranges[..., 1:]
    step = (high - low) / 255
    assert (np.abs(decoded - np.maximum(scores, low)) <= step / 2 + 1e-9).all()
    A, shown = (measures.causal_softmax(torch.from_numpy(s)).numpy() for s in (scores, decoded))
    assert (np.abs(shown - A) <= A * np.expm1(step) + n * math.exp(-FLOOR) + 1e-12).all()


@pytest.mark.parametrize(
    ("n_layer", "n_head", "T", "expected"),
    [(4, 4, 1024, MAX_TOKENS), (12, 12, 1024, MAX_TOKENS), (36, 20, 1024, 64), (12, 12, 40, 40)],
)
def test_the_page_shows_what_it_has_room_for(n_layer: int, n_head: int, T: int, expected: int) -> None:
    assert page_tokens(n_layer, n_head, T) == expected


# The command


def test_a_checkpoint_is_inspected_on_a_text(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint = save_model(tmp_path / "converted", small_model("ra_v5-d_bias"))
    text = tmp_path / "text.txt"
    text.write_text(TEXT)
    monkeypatch.setattr(sys, "argv", ["inspect_attention", str(checkpoint), "--text", str(text)])
    inspect_attention.main()
    out = inspection_directory(checkpoint)
    assert out == tmp_path / "converted" / "inspection"
    written = [f"{name}.{ending}" for name in ("heads", "distances", "d-bias") for ending in ("png", "svg")]
    assert {path.name for path in out.iterdir()} == {"heads.html", "heads.csv", "heads.json", *written}
    printed = capsys.readouterr().out
    assert "highest w_rec" in printed and "highest reciprocity" in printed

    numbers = json.loads((out / "heads.json").read_text())
    assert numbers["tokens"] == list(TEXT.encode()[:32])
    with (out / "heads.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["layer"], row["head"]) for row in rows] == [(str(i), str(h)) for i in range(2) for h in range(3)]
    for row in rows:
        assert float(row["reciprocity"]) == numbers["measures"]["reciprocity"][int(row["layer"])][int(row["head"])]


def test_a_run_is_inspected_on_its_first_validation_window(tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    text = np.frombuffer((TEXT * 3).encode(), dtype=np.uint8)
    text.astype("<u2").tofile(data / "val.bin")
    text[::-1].astype("<u2").tofile(data / "train.bin")
    run = tmp_path / "mine" / "baseline" / "seed-1"
    save_model(run / "checkpoints", small_model())
    symbols = ["DATASET_BIN=y", f'DATASET_BIN_DIR="{data}"', f'DATA_DIR="{tmp_path}"', "TOKENIZER_BYTE=y"]
    (run / "config").write_text("".join(f"CONFIG_{symbol}\n" for symbol in [*symbols, "VOCAB_SIZE=256"]))
    found = inspect_run(run)
    assert found.name == "mine/baseline/seed-1"
    assert "".join(found.text.labels) == TEXT[:32]
    assert inspection_directory(run) == run / "inspection"
    assert inspection_directory(run / "checkpoints" / "step-00000001.pt") == run / "inspection"


def test_without_a_run_the_first_finished_one_of_each_arm_is_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inspection, "configured_experiment", lambda: tmp_path)
    write_run(tmp_path, "baseline", 1, status="failed")
    with pytest.raises(UserError, match="no run is finished"):
        first_runs()
    write_run(tmp_path, "baseline", 2)
    write_run(tmp_path, "baseline", 3)
    write_run(tmp_path, "ra-v5-eager", 1)
    assert first_runs() == [tmp_path / "baseline" / "seed-2", tmp_path / "ra-v5-eager" / "seed-1"]


def test_undefined_numbers_are_empty_in_files(tmp_path: Path) -> None:
    model = small_model()
    with torch.no_grad():
        for layer in layers(model):
            layer.c_attn.weight.zero_()  # every score is 0
    (tmp_path / "text").write_text(TEXT)
    found = inspect_run(save_model(tmp_path, model), tmp_path / "text")
    assert head_rows(found.heads)[0]["reciprocity"] is None
    write_inspection(found, tmp_path / "out")
    assert json.loads((tmp_path / "out" / "heads.json").read_text())["measures"]["reciprocity"] == [[None] * 3] * 2


def test_what_cannot_be_inspected_is_said_in_a_line(tmp_path: Path) -> None:
    checkpoint = save_model(tmp_path, small_model())
    text = tmp_path / "text"
    with pytest.raises(UserError, match=r"is in no run's directory.*--text FILE"):
        inspect_run(checkpoint)
    with pytest.raises(UserError, match=r"--text .*: No such file"):
        inspect_run(checkpoint, text)
    text.write_bytes(b"caf\xe9")
    with pytest.raises(UserError, match="not UTF-8: byte 0xe9 at 3"):
        inspect_run(checkpoint, text)
    text.write_text("ab")
    with pytest.raises(UserError, match="2 tokens; heads are measured on 3 at least"):
        inspect_run(checkpoint, text)
    other = save_model(tmp_path / "other", GPT(small_config(vocab_size=300), seed=1))
    text.write_text(TEXT)
    with pytest.raises(UserError, match="vocabulary of 300 tokens"):
        inspect_run(other, text)


def test_an_arm_that_cannot_be_inspected_is_said_and_does_not_keep_the_others_from_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    window = {"attention": "sliding_window", "attention_options": {"size": 4}}
    models = {"windowed": GPT(dataclasses.replace(small_config(), **window), seed=1), "plain": small_model()}
    paths = [save_model(tmp_path / name, model) for name, model in models.items()]
    (tmp_path / "text").write_text(TEXT)
    monkeypatch.setattr(inspect_attention, "first_runs", lambda: paths)
    monkeypatch.setattr("sys.argv", ["inspect_attention", "--text", str(tmp_path / "text")])
    inspect_attention.main()
    assert f"{paths[0]}: not inspected: ATTENTION_SLIDING_WINDOW: 0 causal calls" in capsys.readouterr().out
    assert (tmp_path / "plain" / "inspection" / "heads.csv").is_file()
    assert not (tmp_path / "windowed" / "inspection").exists()
    monkeypatch.setattr("sys.argv", ["inspect_attention", str(paths[0]), "--text", str(tmp_path / "text")])
    with pytest.raises(UserError, match="ATTENTION_SLIDING_WINDOW"):
        inspect_attention.main()
