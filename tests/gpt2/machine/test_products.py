"""Whose matrix products are taken: what was asked for, what is there, and what a run says of it."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from gpt2.base.errors import UserError
from gpt2.machine import products
from gpt2.run.run import Run
from gpt2.run.stop import Stop
from gpt2.symbols import run_config
from gpt2.train_ra_mla import train
from tests.tiny import tiny

CPU, CUDA = torch.device("cpu"), torch.device("cuda", 0)


@pytest.fixture(autouse=True)
def torchs_afterwards() -> Iterator[None]:
    yield
    products.use("torch")


@pytest.fixture
def hopper(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """As if there were a GPU, and nvmath-python."""
    monkeypatch.setattr(torch.version, "hip", None)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    monkeypatch.setattr(products, "_not_loaded", lambda: "")
    return monkeypatch


@pytest.mark.parametrize("asked", products.NAMES)
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_what_was_asked_for_is_what_is_taken(asked: str, dtype: str, hopper: pytest.MonkeyPatch) -> None:
    assert products.request(asked, CUDA, dtype) == ("torch" if asked == "torch" else "cublaslt")


MISSING: dict[str, tuple[torch.device, str, Any]] = {
    "cpu has no cuBLASLt": (CPU, "bfloat16", lambda patch: None),
    "ROCm has no cuBLASLt": (CUDA, "bfloat16", lambda patch: patch.setattr(torch.version, "hip", "6.4")),
    "DTYPE_FLOAT32=y": (CUDA, "float32", lambda patch: None),
    "Ampere": (CUDA, "float16", lambda patch: patch.setattr(torch.cuda, "get_device_capability", lambda d: (7, 5))),
    "it has none": (CUDA, "bfloat16", lambda patch: patch.setattr(products, "_not_loaded", lambda: "it has none")),
}


@pytest.mark.parametrize("reason", MISSING)
def test_where_there_are_none_auto_takes_torchs_and_a_name_is_an_error(reason: str, hopper: pytest.MonkeyPatch) -> None:
    device, dtype, without = MISSING[reason]
    without(hopper)
    assert products.request("auto", device, dtype) == products.request("torch", device, dtype) == "torch"
    with pytest.raises(UserError, match=f"^PRODUCTS_CUBLASLT=y: .*{reason}.*PRODUCTS_AUTO=y") as error:
        products.request("cublaslt", device, dtype)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("tokens", "n_embd", "ran"),
    [(32 * 1024, 768, "cublaslt"), (32 * 1024, 512, "cublaslt"), (16 * 128, 128, "torch"), (8, 8, "torch")],
)
def test_auto_takes_them_where_there_is_much_to_multiply(
    tokens: int, n_embd: int, ran: str, hopper: pytest.MonkeyPatch
) -> None:
    assert products.request("auto", CUDA, "bfloat16", tokens=tokens, n_embd=n_embd) == ran
    assert products.request("cublaslt", CUDA, "bfloat16", tokens=tokens, n_embd=n_embd) == "cublaslt"


@pytest.mark.parametrize("sizes", [{"tokens": 2**20 + 4, "n_embd": 768}, {"tokens": 2**20, "n_embd": 772}])
def test_shapes_that_do_not_suit_them(sizes: dict[str, int], hopper: pytest.MonkeyPatch) -> None:
    assert products.request("auto", CUDA, "bfloat16", **sizes) == "torch"
    with pytest.raises(UserError, match=r"= \d+ is not a multiple of 8"):
        products.request("cublaslt", CUDA, "bfloat16", **sizes)


def test_bindings_that_do_not_load_are_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(name: str) -> None:
        raise OSError("libcublasLt.so.13: cannot open")

    monkeypatch.setitem(sys.modules, "nvmath.bindings.cublasLt", None)
    assert "is not installed" in products._not_loaded()
    monkeypatch.setattr(products.importlib, "import_module", broken)
    assert products._not_loaded() == "nvmath-python does not work here: libcublasLt.so.13: cannot open"


class OnGPU(torch.Tensor):
    """A tensor that says that it lies on a GPU."""

    is_cuda = True


def on_gpu(*shape: int, dtype: torch.dtype = torch.bfloat16) -> torch.Tensor:
    return torch.zeros(shape, dtype=dtype).as_subclass(OnGPU)


def test_they_are_taken_in_training_in_half_precision_where_shapes_suit_them() -> None:
    x, w = on_gpu(2, 8, 16), on_gpu(24, 16)
    assert not products.by_cublaslt(x, w)
    products.use("cublaslt")
    assert products.by_cublaslt(x, w)
    assert products.by_cublaslt(x.half(), w)
    assert not products.by_cublaslt(x.float(), w)
    with torch.no_grad():
        assert not products.by_cublaslt(x, w)
    assert not products.by_cublaslt(torch.zeros(2, 8, 16, dtype=torch.bfloat16), w)
    assert not products.by_cublaslt(on_gpu(0, 8, 16), w)
    for x_of, *weights in (((2, 3, 16), (24, 16)), ((2, 8, 12), (24, 12)), ((2, 8, 16), (20, 16))):
        assert not products.by_cublaslt(on_gpu(*x_of), *(on_gpu(*of) for of in weights))
    assert not products.by_cublaslt(x, w, on_gpu(16, 20))


def test_a_run_says_what_was_asked_for_and_what_ran(tmp_path: Path) -> None:
    def run(**symbols: str) -> dict[str, Any]:
        out = tmp_path / "-".join(("run", *symbols))
        out.mkdir()
        assert train(Run(run_config(tiny(tmp_path, MAX_ITERS="2", **symbols).symbols), out), Stop()) == "done"
        return json.loads((out / "provenance.json").read_text())

    auto, named = run(), run(PRODUCTS_TORCH="y")
    assert auto["products"] == {"asked": "auto", "ran": "torch"}
    assert named["products"] == {"asked": "torch", "ran": "torch"}
    assert named["identity"] == auto["identity"] | {"PRODUCTS": "torch"}
    with pytest.raises(UserError, match="cpu has no cuBLASLt"):
        run(PRODUCTS_CUBLASLT="y", DTYPE_BFLOAT16="y")
