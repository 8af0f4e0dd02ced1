"""GPT-2's arithmetic: what a token costs, which gates there are, how long a sequence may be."""

from __future__ import annotations

import pytest
import torch

from gpt2.config import GPTConfig
from gpt2.model import GPT

SMALL = {"n_layer": 3, "n_head": 2, "n_embd": 8, "block_size": 16, "vocab_size": 32}


def test_flops_are_six_per_multiplied_parameter_and_twelve_per_score() -> None:
    model = GPT(GPTConfig(**SMALL, bias=False), seed=0)
    multiplied = 32 * 8 + 3 * (12 * 8 * 8 + 2 * 8) + 8  # head, blocks with their norms, last norm
    assert model.num_params() == multiplied + 16 * 8
    assert model.flops_per_token() == 6 * multiplied + 12 * 3 * 8 * 16


def test_gates_are_stacked_over_layers_and_the_bias_per_position_is_left_out() -> None:
    gates = GPT(GPTConfig(**SMALL, attention="ra_v5", ra_v5_R=2, ra_v5_d_bias=True), seed=0).gates()
    assert {name: gate.shape for name, gate in gates.items()} == {"w_std": (3, 2), "w_rec": (3, 2)}
    assert GPT(GPTConfig(**SMALL), seed=0).gates() == {}


def test_a_sequence_longer_than_the_positions_is_refused() -> None:
    model = GPT(GPTConfig(**SMALL), seed=0)
    assert model(torch.zeros(1, 16, dtype=torch.long))[0].shape == (1, 16, 32)
    with pytest.raises(ValueError, match="a sequence of 17 tokens is longer than block_size=16"):
        model(torch.zeros(1, 17, dtype=torch.long))


def test_targets_of_minus_one_are_ignored() -> None:
    model = GPT(GPTConfig(**SMALL), seed=0)
    idx = torch.arange(16).view(1, 16)
    targets = idx.clone()
    targets[0, 8:] = -1
    _, loss = model(idx, targets)
    _, of_the_rest = model(idx[:, :8], idx[:, :8])
    assert loss is not None
    torch.testing.assert_close(loss, of_the_rest)


def test_making_a_model_leaves_other_modules_their_initial_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(config: GPTConfig) -> None:
        raise RuntimeError("no such attention")

    GPT(GPTConfig(**SMALL), seed=0)
    monkeypatch.setattr("gpt2.model.build_attention", fail)
    with pytest.raises(RuntimeError, match="no such attention"):
        GPT(GPTConfig(**SMALL), seed=0)
    assert torch.nn.Linear(4, 4).weight.unique().numel() == 16
    assert torch.nn.Embedding(4, 4).weight.unique().numel() == 16
