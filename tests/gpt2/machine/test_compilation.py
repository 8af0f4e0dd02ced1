"""torch.compile in the harness's hands."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor
from torch._dynamo.utils import counters
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.profiler import profile

from gpt2.machine.compilation import compile_attention, compile_scope
from tests.gpt2.variants import small_model

RESOLUTION = {torch.bfloat16: 2**-8, torch.float16: 2**-11}

# torch 2.6 has a cache of traced graphs too, but does not use it unless asked.
HAS_CACHE = torch.__version__ >= (2, 7)


class Pass(NamedTuple):
    """What came of a forward and backward pass of a compiled model."""

    dtype: torch.dtype
    """Of the logits."""

    logits_error: float
    """Relative, to float32."""

    grad_error: float
    from_cache: bool
    """Whether the traced graph was."""


def compiled_pass(variant: str, scope: str, dtype: torch.dtype) -> Pass:
    torch.compiler.reset()
    counters.clear()
    exact, compiled = small_model(variant), small_model(variant)
    compile_scope(compiled, scope)
    exact_logits = forward_and_backward(exact)
    with torch.autocast("cpu", dtype):
        logits = forward_and_backward(compiled)
    return Pass(
        dtype=logits.dtype,
        logits_error=distance(logits, exact_logits),
        grad_error=distance(gradient(compiled), gradient(exact)),
        from_cache=counters["aot_autograd"]["autograd_cache_hit"] > 0,
    )


def forward_and_backward(model: torch.nn.Module) -> Tensor:
    tokens = torch.randint(64, (2, 17), generator=torch.Generator().manual_seed(0))
    logits, loss = model(tokens[:, :-1], tokens[:, 1:])
    loss.backward()
    return logits


def gradient(model: torch.nn.Module) -> Tensor:
    return torch.cat([p.grad.flatten() for p in model.parameters()])


def distance(x: Tensor, exact: Tensor) -> float:
    return ((x.float() - exact).norm() / exact.norm()).item()


def check(done: Pass, dtype: torch.dtype) -> None:
    """The rounding is that of `dtype`, and not of one that is eight times as coarse or as fine."""
    assert done.dtype == dtype
    assert RESOLUTION[dtype] / 2 < done.logits_error < 4 * RESOLUTION[dtype]
    assert 4 * RESOLUTION[dtype] < done.grad_error < 48 * RESOLUTION[dtype]


@pytest.fixture(autouse=True)
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "inductor"))


def test_what_decides_a_graph_is_in_the_key_of_the_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    keys = []

    def compile_nothing(graph: torch.fx.GraphModule, *_: Any, **__: Any) -> Callable[..., Any]:
        keys.append(torch.compiler.config.cache_key_tag)
        return graph.forward

    monkeypatch.setattr("torch._inductor.compile_fx.compile_fx", compile_nothing)
    before = torch.compiler.config.cache_key_tag
    model = small_model("baseline")
    compile_scope(model, "model")
    forward_and_backward(model)
    for context in (
        torch.autocast("cpu", torch.bfloat16),
        torch.autocast("cpu", torch.float16),
        sdpa_kernel(SDPBackend.MATH),
        sdpa_kernel(SDPBackend.FLASH_ATTENTION),
    ):
        torch.compiler.reset()
        with context:
            forward_and_backward(model)
    assert len(set(keys)) == len(keys) == 5
    assert torch.compiler.config.cache_key_tag == before


@pytest.mark.slow
@pytest.mark.parametrize("scope", ["attention", "model"])
@pytest.mark.parametrize("variant", ["baseline", "ra_v5-lerp"])
def test_a_graph_of_another_precision_is_not_taken_from_a_cache(scope: str, variant: str) -> None:
    passes = []
    for dtype in (torch.bfloat16, torch.float16, torch.bfloat16):
        passes.append(compiled_pass(variant, scope, dtype))
        check(passes[-1], dtype)
    assert [p.from_cache for p in passes] == [False, False, HAS_CACHE]


@pytest.mark.slow
def test_nor_is_it_in_another_process_and_one_of_this_precision_is() -> None:
    passes = []
    for dtype in (torch.bfloat16, torch.float16, torch.float16):
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
            passes.append(process.submit(compiled_pass, "baseline", "attention", dtype).result())
        check(passes[-1], dtype)
    assert [p.from_cache for p in passes] == [False, False, HAS_CACHE]


@pytest.mark.slow
def test_a_graph_with_a_kernel_that_is_forbidden_is_not_taken_from_a_cache() -> None:
    def kernels() -> set[str]:
        torch.compiler.reset()
        model = small_model("baseline")
        compile_attention(model)
        forward_and_backward(model)
        with profile() as profiled:
            forward_and_backward(model)
        return {event.key for event in profiled.key_averages()}

    flash = "aten::_scaled_dot_product_flash_attention_for_cpu"
    assert flash in kernels()
    with sdpa_kernel(SDPBackend.MATH):
        assert flash not in kernels()
    assert flash in kernels()
