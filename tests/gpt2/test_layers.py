"""Arms in some of the layers: the text that names them; and there is the arm itself, and elsewhere the baseline."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gpt2.assignments import parse_assignments
from gpt2.attention.baseline import CausalSelfAttention
from gpt2.base.settings import SettingError
from gpt2.config import GPTConfig, OptimizerConfig
from gpt2.dotconfig import resolve
from gpt2.exchange.convert import run_settings, to_baseline
from gpt2.layers import layers_text, parse_layers
from gpt2.model import GPT
from gpt2.optimizer import make_optimizer
from gpt2.run.load import load_weights
from gpt2.symbols import run_config
from tests.gpt2.variants import VARIANTS, small_config, small_model

ARMS = [variant for variant in VARIANTS if variant != "baseline"]


def placed(variant: str, layers: str = "0+2") -> GPT:
    return small_model(variant, n_layer=3, attention_layers=layers)


def tokens(T: int = 20) -> torch.Tensor:
    return torch.randint(64, (2, T), generator=torch.Generator().manual_seed(3))


@given(st.sets(st.integers(0, 999), min_size=1))
def test_layers_are_read_as_they_are_written(layers: set[int]) -> None:
    text = layers_text(layers)
    assert parse_layers(text, 1000) == tuple(sorted(layers))
    assert layers_text(parse_layers("+".join(map(str, layers)), 1000)) == text


@pytest.mark.parametrize("text", ["6", "0-6", "2-1", "0+0", "0-2+2", "a", " 0", "0+", "+", "-1", "0,1", "99999", "٣"])
def test_what_is_no_layers_of_the_model_is_refused_in_one_line(text: str) -> None:
    for attention in ("ra_v5", "baseline"):
        with pytest.raises(SettingError) as error:
            GPTConfig(n_layer=6, attention=attention, attention_layers=text)
        assert str(error.value).startswith(f'ATTENTION_LAYERS="{text}": is not layers from 0 to 5')
        assert "\n" not in str(error.value)


@torch.no_grad()
@pytest.mark.parametrize("variant", ARMS)
def test_a_layer_is_the_arms_or_the_baselines(variant: str) -> None:
    ours = placed(variant).eval()
    expected = small_model(variant, n_layer=3, attention_layers="").eval()
    middle = small_model("baseline", n_layer=3).eval().blocks[1]
    middle.load_state_dict(ours.blocks[1].state_dict())
    expected.transformer.h[1] = middle
    for i in (0, 2):
        expected.blocks[i].load_state_dict(ours.blocks[i].state_dict())
    expected.load_state_dict(ours.state_dict())
    assert [type(attn) is CausalSelfAttention for attn in ours.attention] == [False, True, False]
    assert torch.equal(ours(tokens())[0], expected(tokens())[0])
    caches = ours.new_caches()
    steps = [ours(part, caches=caches)[0] for part in tokens().split(7, dim=1)]
    torch.testing.assert_close(torch.cat(steps, dim=1), ours(tokens())[0], rtol=0, atol=2e-5)


def test_the_first_layer_that_has_an_arm_hands_on_to_the_next_that_has_it() -> None:
    model = placed("value_residual", "1-2")
    handed_on = []
    for attention in model.attention[1:]:
        attention.register_forward_hook(lambda _, args, out: handed_on.append(out[1]))
    model(tokens())
    assert handed_on[0] is handed_on[1]


@pytest.mark.parametrize("variant", ["ra_v5-lerp", "ra_v5-matrix", "qk_norm"])
def test_gates_are_of_the_layers_that_have_them(variant: str) -> None:
    model = placed(variant, "0+2")
    for name, gate in model.gates().items():
        assert gate.shape == (3, 4)
        assert gate.isnan().any(-1).tolist() == gate.isnan().all(-1).tolist() == [False, True, False]
        rows = model.gate_records()[name]
        assert rows == [gate[0].tolist(), [None] * 4, gate[2].tolist()]
    groups = {group["name"]: group["params"] for group in make_optimizer(model, OptimizerConfig(), "cpu").param_groups}
    assert len(groups["gates"]) == 2 * len(model.gates()), "one of each of the two layers"


def test_a_window_is_counted_where_it_is() -> None:
    whole = small_model("baseline", n_layer=3).flops_per_token()
    assert whole - placed("sliding_window", "1").flops_per_token() == 12 * 32 * (32 - 14)  # width, positions unseen


@pytest.mark.parametrize("variant", ["ra_v5-lerp", "ra_v5-matrix"])
def test_a_model_that_has_ra_v5_in_some_layers_folds_to_the_baseline(variant: str) -> None:
    ours = placed(variant).eval()
    folded = to_baseline(ours)
    assert folded.config == small_config("baseline", n_layer=3, **fold_settings(ours))
    torch.testing.assert_close(folded(tokens())[0], ours(tokens())[0], rtol=0, atol=1e-5)


def test_a_run_that_goes_on_from_such_a_model_has_its_layers() -> None:
    model = placed("ra_v5-matrix", "1-2")
    data = 'CONFIG_DATASET_BIN=y\nCONFIG_DATASET_BIN_DIR="data"\nCONFIG_VOCAB_SIZE=64'
    lines = "\n".join([*run_settings(model, Path("model.pt")), data])
    config = run_config(resolve(parse_assignments(lines, "printed")).symbols).model
    assert (config.attention_layers, config.ra_v5_fold) == ("1-2", "matrix")
    baseline = {"model": small_model("baseline", n_layer=3).state_dict()}
    load_weights(GPT(config, seed=1), baseline, origin="a baseline", new_gates=True)


def fold_settings(model: GPT) -> dict[str, object]:
    return {"ra_v5_fold": model.config.ra_v5_fold}
