"""The loss by chunks is the loss: value, gradients, precisions, ignored targets; and it does not hold all logits."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

import gpt2.loss
from gpt2.config import GPTConfig
from gpt2.loss import cross_entropy, linear_cross_entropy
from gpt2.model import GPT

C, V = 8, 11


def inputs(n: int, dtype: torch.dtype = torch.float64, device: str = "cpu") -> tuple[Tensor, Tensor, Tensor]:
    """x [n, C], weight [V, C], targets [n] of which some are ignored."""
    generator = torch.Generator().manual_seed(n)
    x, weight = (torch.randn(k, C, dtype=torch.float64, generator=generator).to(device, dtype) for k in (n, V))
    targets = torch.randint(-1, V, (n,), generator=generator)
    targets[0] = 0
    return x.requires_grad_(), weight.requires_grad_(), targets.to(device)


@given(n=st.integers(1, 12), chunk=st.integers(1, 13))
def test_chunks_of_any_size_give_the_same_loss_and_gradients(n: int, chunk: int) -> None:
    x, weight, targets = inputs(n)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gpt2.loss, "CHUNK_TOKENS", chunk)
        loss = linear_cross_entropy(x, weight, targets)
    expected = F.cross_entropy(x @ weight.T, targets, ignore_index=-1)
    torch.testing.assert_close(loss, expected, rtol=1e-14, atol=1e-14)
    # Not of the loss itself but of something it is part of: the factor comes from outside.
    ours = torch.autograd.grad(3 * loss, (x, weight))
    theirs = torch.autograd.grad(3 * expected, (x, weight))
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-15)


def test_leading_dimensions_are_tokens() -> None:
    x, weight, targets = inputs(12)
    folded = linear_cross_entropy(x.view(3, 4, C), weight, targets.view(3, 4))
    assert torch.equal(folded, linear_cross_entropy(x, weight, targets))


def test_without_gradients_none_are_made(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def spy(logits: Tensor, targets: Tensor, *, with_gradient: bool) -> tuple[Tensor, Tensor | None]:
        asked.append(with_gradient)
        return cross_entropy(logits, targets, with_gradient=with_gradient)

    monkeypatch.setattr(gpt2.loss, "cross_entropy", spy)
    x, weight, targets = inputs(5)
    with_gradient = linear_cross_entropy(x, weight, targets)
    with torch.no_grad():
        without = linear_cross_entropy(x, weight, targets)
    assert asked == [True, False]
    assert torch.equal(with_gradient, without)
    assert not without.requires_grad


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_rounds_products_alone(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpt2.loss, "CHUNK_TOKENS", 64)
    x, weight, targets = inputs(256, torch.float32)
    scale = 65536.0  # as gradient scaling has it: 1/256 of it is far above float16's range for small gradients
    with torch.autocast("cpu", dtype):
        loss = linear_cross_entropy(x, weight, targets)
    d_x, d_weight = (g / scale for g in torch.autograd.grad(loss * scale, (x, weight)))
    expected = F.cross_entropy(x @ weight.T, targets, ignore_index=-1)
    e_x, e_weight = torch.autograd.grad(expected, (x, weight))
    assert loss.dtype == d_weight.dtype == torch.float32
    eps = torch.finfo(dtype).eps
    torch.testing.assert_close(loss, expected, rtol=2 * eps, atol=0)
    for ours, theirs in ((d_x, e_x), (d_weight, e_weight)):
        assert ((ours - theirs).norm() / theirs.norm()).item() < 2 * eps


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_sum_over_many_tokens_does_not_overflow(dtype: torch.dtype) -> None:
    # Nearly all tokens want the same word of a model that does not expect it: 8192 gradients of one sign.
    x = torch.full((gpt2.loss.CHUNK_TOKENS, C), 10.0, requires_grad=True)
    weight = torch.zeros(V, C, requires_grad=True)
    with torch.autocast("cpu", dtype):
        loss = linear_cross_entropy(x, weight, torch.zeros(len(x), dtype=torch.long))
    (gradient,) = torch.autograd.grad(loss, weight)
    assert len(x) * 10 * (1 - 1 / V) > torch.finfo(torch.float16).max
    torch.testing.assert_close(gradient[0], torch.full((C,), -10 * (1 - 1 / V)), rtol=0.01, atol=0)


def test_it_cannot_be_differentiated_twice() -> None:
    x, weight, targets = inputs(5)
    loss = linear_cross_entropy(x, weight, targets)
    for function, error in ((loss, "does not require grad"), (loss**2, "once_differentiable")):
        (d_x,) = torch.autograd.grad(function, x, create_graph=True)
        with pytest.raises(RuntimeError, match=error):
            d_x.sum().backward()


def test_it_is_an_operation_that_torch_can_reason_about() -> None:
    # Its shapes, its gradient's registration, and that it changes no input.
    x, weight, targets = inputs(5, torch.float32)
    torch.library.opcheck(gpt2.loss._linear_cross_entropy, (x, weight, targets, True, False))
    torch.library.opcheck(gpt2.loss._linear_cross_entropy, (x.detach(), weight.detach(), targets, False, False))


def test_a_model_with_and_without_its_logits() -> None:
    config = GPTConfig(n_layer=2, n_head=2, n_embd=16, block_size=8, vocab_size=16)
    model = GPT(config, seed=1).double()
    idx, targets = torch.randint(16, (2, 2, 8), generator=torch.Generator().manual_seed(1))
    logits, whole = model(idx, targets)
    none, chunked = model(idx, targets, keep_logits=False)
    assert logits.shape == (2, 8, model.config.vocab_size)
    assert none.shape == (2, 8, 0)
    torch.testing.assert_close(chunked, whole, rtol=1e-14, atol=0)
    assert whole is not None
    parameters = dict(model.named_parameters())
    ours = torch.autograd.grad(chunked, list(parameters.values()))
    theirs = torch.autograd.grad(whole, list(parameters.values()))
    for name, a, b in zip(parameters, ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-15, msg=lambda m, name=name: f"{name}: {m}")


@pytest.mark.gpu
@pytest.mark.parametrize("compiled", [False, True])
def test_on_a_gpu_the_logits_are_never_whole(compiled: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    n, chunk, vocab = 4096, 512, 8192
    monkeypatch.setattr(gpt2.loss, "CHUNK_TOKENS", chunk)
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(n, 64, generator=generator).cuda().requires_grad_()
    weight = torch.randn(vocab, 64, generator=generator).cuda().requires_grad_()
    targets = torch.randint(vocab, (n,), generator=generator).cuda()
    function = torch.compile(linear_cross_entropy, fullgraph=True) if compiled else linear_cross_entropy

    def step() -> Tensor:
        with torch.autocast("cuda", torch.bfloat16):
            loss: Tensor = function(x, weight, targets)
        d_x, d_weight = torch.autograd.grad(loss, (x, weight))
        expected = F.cross_entropy((x.bfloat16() @ weight.bfloat16().T).float(), targets)
        for ours, theirs in zip((d_x, d_weight), torch.autograd.grad(expected, (x, weight)), strict=True):
            assert ((ours - theirs).norm() / theirs.norm()).item() < 0.01
        return (loss - expected).abs()

    assert step().item() < 1e-3
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    with torch.autocast("cuda", torch.bfloat16):
        function(x, weight, targets).backward()
    assert torch.cuda.max_memory_allocated() - before < 2 * n * vocab, "that is all logits in bfloat16"
