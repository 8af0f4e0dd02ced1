"""Groups of the optimizer, and the schedule's ends."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gpt2.config import GPTConfig, OptimizerConfig
from gpt2.model import GPT
from gpt2.optimizer import learning_rate, make_optimizer, set_lr

SMALL = dict(n_layer=1, n_head=2, n_embd=16, block_size=8, vocab_size=32)


def groups(model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, set[str]]:
    names = {id(p): name for name, p in model.named_parameters()}
    return {group["name"]: {names[id(p)] for p in group["params"]} for group in optimizer.param_groups}


def test_matrices_decay_vectors_do_not_and_gates_have_their_own_rate() -> None:
    model = GPT(GPTConfig(**SMALL, attention="ra_v5", ra_v5_d_bias=True), seed=0)
    optimizer = make_optimizer(model, OptimizerConfig(weight_decay=0.3, gate_lr_mult=7.0), "cpu")
    by_name = {group["name"]: group for group in optimizer.param_groups}
    members = groups(model, optimizer)
    attn = "transformer.h.0.attn."
    assert members["gates"] == {attn + "w_std", attn + "w_rec", attn + "d_bias"}
    assert members["matrices"] == {
        "transformer.wte.weight",
        "transformer.wpe.weight",
        attn + "c_attn.weight",
        attn + "c_proj.weight",
        "transformer.h.0.mlp.c_fc.weight",
        "transformer.h.0.mlp.c_proj.weight",
    }
    assert set().union(*members.values()) == {name for name, _ in model.named_parameters()}
    assert {name: group["weight_decay"] for name, group in by_name.items()} == {
        "matrices": 0.3,
        "vectors": 0.0,
        "gates": 0.0,
    }
    set_lr(optimizer, 0.01)
    assert by_name["matrices"]["lr"] == by_name["vectors"]["lr"] == 0.01
    assert by_name["gates"]["lr"] == pytest.approx(0.07)


def test_gates_that_are_not_learned_are_not_optimized() -> None:
    model = GPT(GPTConfig(**SMALL, attention="ra_v5", ra_v5_learn_w_rec=False), seed=0)
    assert groups(model, make_optimizer(model, OptimizerConfig(), "cpu"))["gates"] == {"transformer.h.0.attn.w_std"}


def test_a_step_with_found_inf_changes_nothing() -> None:
    # The trainer relies on it for every precision: a gradient that is not finite must not reach the weights.
    model = GPT(GPTConfig(**SMALL), seed=0)
    optimizer = make_optimizer(model, OptimizerConfig(), "cpu")
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    for p in model.parameters():
        p.grad = torch.full_like(p, float("nan"))
    optimizer.found_inf = torch.ones(())  # type: ignore[attr-defined]
    optimizer.step()
    for name, p in model.named_parameters():
        assert torch.equal(p, before[name]), name


@given(
    max_iters=st.integers(1, 300),
    warmup=st.integers(0, 400),
    min_share=st.floats(0, 1),
)
def test_schedule_stays_within_its_bounds_and_ends_at_min_lr(max_iters: int, warmup: int, min_share: float) -> None:
    config = OptimizerConfig(learning_rate=1e-3, min_lr=1e-3 * min_share, warmup_iters=warmup)
    rates = [learning_rate(step, max_iters, config) for step in range(max_iters)]
    assert all(0 < rate <= 1e-3 or rate == config.min_lr for rate in rates)
    if warmup < max_iters:
        assert rates[-1] == pytest.approx(config.min_lr, abs=1e-18)
    up, down = rates[:warmup], rates[warmup:]
    assert up == sorted(up)
    assert all(a >= b - 1e-15 for a, b in itertools.pairwise(down))


def test_schedule_reaches_the_peak_after_the_warm_up() -> None:
    config = OptimizerConfig(learning_rate=1.0, min_lr=0.1, warmup_iters=4)
    assert [round(learning_rate(step, 7, config), 6) for step in range(7)] == [0.2, 0.4, 0.6, 0.8, 1.0, 0.55, 0.1]


def test_without_decay_the_peak_is_kept() -> None:
    config = OptimizerConfig(learning_rate=1.0, min_lr=0.1, warmup_iters=1, decay_lr=False)
    assert [learning_rate(step, 4, config) for step in range(1, 4)] == [1.0, 1.0, 1.0]
