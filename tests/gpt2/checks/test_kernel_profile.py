"""The profile: it counts attention calls, names backends, measures memory, and notices what should not be there."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from gpt2.attention import baseline
from gpt2.checks.kernel_profile import ARMS, PASSES, Profile, Shape, profile_arms
from scripts import profile_kernels

CPU = torch.device("cpu")
SMALL = Shape(n_layer=3, n_head=2, n_embd=32, vocab_size=64, batch_size=2, dtype="float32")


def profiles(*arms: str, **options: Any) -> list[Profile]:
    return list(profile_arms(CPU, SMALL, arms={arm: ARMS[arm] for arm in arms}, **{"lengths": (64,), **options}))


def explicit_attention(q: Tensor, k: Tensor, v: Tensor, *, dropout: float = 0.0, scale: float | None = None) -> Tensor:
    """What SDPA is there to avoid: a T x T matrix."""
    T = q.size(-2)
    mask = torch.full((T, T), -math.inf).triu(1)
    return (q @ k.transpose(-2, -1) / math.sqrt(q.size(-1)) + mask).softmax(-1) @ v


@pytest.mark.parametrize("arm", ARMS)
def test_every_arm_makes_one_sdpa_call_per_layer(arm: str) -> None:
    done = profiles(arm)
    assert [p.what for p in done] == list(PASSES)
    for p in done:
        assert p.sdpa_calls == p.expected_sdpa_calls == 3
        assert p.backends == ("flash",)
        assert p.T == 64


@pytest.mark.slow
@pytest.mark.parametrize("arm", ARMS)
def test_every_arm_makes_one_sdpa_call_per_layer_when_compiled(arm: str) -> None:
    assert [(p.sdpa_calls, p.backends) for p in profiles(arm, compiled=True)] == [(3, ("flash",))] * 2


def test_attention_without_sdpa_is_noticed_and_so_is_its_matrix(monkeypatch: pytest.MonkeyPatch) -> None:
    flash, *_ = profiles("baseline", lengths=(256,))
    monkeypatch.setattr(baseline, "causal_attention", explicit_attention)
    explicit, *_ = profiles("baseline", lengths=(256,))
    assert explicit.sdpa_calls == 0
    matrix = 2 * 2 * 256 * 256 * 4 / 2**20  # batch, heads, T, T
    assert matrix in {a.mib for a in explicit.allocations}
    assert matrix not in {a.mib for a in flash.allocations}
    assert explicit.peak_mib > flash.peak_mib + matrix


def test_two_calls_in_a_layer_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    once = baseline.causal_attention
    monkeypatch.setattr(baseline, "causal_attention", lambda *a, **o: once(*a, **o) + once(*a, **o))
    assert {p.sdpa_calls for p in profiles("ra_v5 lerp")} == {6}


def test_the_backend_that_ran_is_named() -> None:
    with sdpa_kernel(SDPBackend.MATH):
        assert {p.backends for p in profiles("mla")} == {("math",)}


def test_memory_is_that_of_the_pass() -> None:
    forward, train = profiles("baseline", lengths=(128,))
    logits = 2 * 128 * 64 * 4
    assert logits < forward.peak_mib * 2**20 < train.peak_mib * 2**20
    # By hand, to within what temporaries take: gradients, and per layer the activations that the backward pass needs.
    gradients = 4 * 3 * 12 * 32 * 32
    activations = 3 * 2 * 128 * 4 * (2 * 32 + 3 * 32 + 2 * 32 + 2 * 4 * 32)
    assert train.peak_mib * 2**20 == pytest.approx(gradients + activations + 2 * logits, rel=0.35)


def test_memory_grows_with_the_length_and_not_with_its_square() -> None:
    peaks = [p.peak_mib for p in profiles("ra_v5 lerp, d_bias", lengths=(256, 512, 1024)) if p.what == "forward"]
    assert peaks[2] - peaks[1] == pytest.approx(2 * (peaks[1] - peaks[0]), rel=0.02)


def test_ra_v5_takes_the_memory_of_the_baseline_once_folded() -> None:
    baseline, *_ = profiles("baseline")
    folded, *_ = profiles("ra_v5 lerp")
    assert folded.peak_mib == baseline.peak_mib
    assert folded.allocations == baseline.allocations


def test_what_took_longest_comes_first() -> None:
    for p in profiles("ra_mla"):
        assert [k.ms for k in p.kernels] == sorted((k.ms for k in p.kernels), reverse=True)
        assert [a.mib for a in p.allocations] == sorted((a.mib for a in p.allocations), reverse=True)
        assert any(k.name.startswith("aten::") and k.ms > 0 for k in p.kernels)


@pytest.mark.parametrize("calls", [1, 2])
def test_the_command_fails_unless_there_is_one_call_per_layer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], calls: int
) -> None:
    once = baseline.causal_attention
    monkeypatch.setattr(baseline, "causal_attention", lambda *a, **o: sum(once(*a, **o) for _ in range(calls)))
    monkeypatch.setattr(profile_kernels, "shape", lambda _: SMALL)
    monkeypatch.setattr(profile_kernels, "profile_arms", lambda *a, **o: iter(profiles("baseline", lengths=(1024,))))
    monkeypatch.setattr("sys.argv", ["profile_kernels", "--device", "cpu", "--json", str(tmp_path / "profile.json")])
    assert profile_kernels.main() == calls - 1
    said = "Exactly one SDPA call per layer" if calls == 1 else "baseline, train, T=1024: 6 SDPA calls in 3 layers"
    assert said in capsys.readouterr().out
    written = json.loads((tmp_path / "profile.json").read_text())["profiles"]
    assert [p["sdpa_calls"] for p in written] == [3 * calls] * 2
