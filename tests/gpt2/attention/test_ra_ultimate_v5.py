"""RA v5: the folds against the formula, gates, the discoverability bias, and that no pass uses an old fold."""

from __future__ import annotations

import copy
import math
import pickle
from collections.abc import Callable
from contextlib import AbstractContextManager

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from gpt2.attention.baseline import CausalSelfAttention
from gpt2.attention.ra_ultimate_v5 import FOLDS, UltimateRAv5, initial_w_rec
from gpt2.attention.shared import LayerCache
from gpt2.base.settings import SettingError
from gpt2.config import GPTConfig
from gpt2.folds import RA_V5_AT_REST
from gpt2.model import GPT
from tests.gpt2.variants import explicit_attention, small_config, small_model

B, T, C, H, R = 2, 10, 32, 4, 3
D = C // H
MIXED = torch.tensor([-0.3, 0.1, 0.7, 1.2])


def attention(fold: str = "lerp", dtype: torch.dtype = torch.float64, **options: object) -> UltimateRAv5:
    torch.manual_seed(0)
    layer = UltimateRAv5(C, H, 16, R=R, fold=fold, **options).to(dtype)  # type: ignore[arg-type]
    if layer.d_bias is not None:
        nn.init.normal_(layer.d_bias)
    return layer


def tokens(dtype: torch.dtype = torch.float64, seed: int = 1) -> Tensor:
    return torch.randn(B, T, C, dtype=dtype, generator=torch.Generator().manual_seed(seed))


def exchanged_by_head(q: Tensor, k: Tensor, w_rec: Tensor) -> tuple[Tensor, Tensor]:
    g = w_rec.view(-1, 1, 1)
    return (1 - g) * q + g * k, (1 - g) * k + g * q


def exchanged_by_dimension(q: Tensor, k: Tensor, w_rec: Tensor) -> tuple[Tensor, Tensor]:
    g = w_rec.unsqueeze(1)
    return (1 - g) * q + g * k, (1 - g) * k + g * q


def exchanged_in_keys(q: Tensor, k: Tensor, w_rec: Tensor) -> tuple[Tensor, Tensor]:
    return q, exchanged_by_head(q, k, w_rec)[1]


def exchanged_by_matrix(q: Tensor, k: Tensor, w_rec: Tensor) -> tuple[Tensor, Tensor]:
    def times(of: Tensor) -> Tensor:
        return torch.einsum("hrs,bhts->bhtr", w_rec, of)

    return q + times(k - q), k + times(q - k)


EXCHANGED = {
    "lerp": exchanged_by_head,
    "lerp_dims": exchanged_by_dimension,
    "lerp_keys": exchanged_in_keys,
    "matrix": exchanged_by_matrix,
}
"""The low slot's queries and keys [B, H, T, R], after the exchange, of those before it."""


def mixed(fold: str, seed: int = 3) -> Tensor:
    """A w_rec with another number wherever it has one."""
    start = initial_w_rec(fold, H, R)
    return MIXED if start.dim() == 1 else torch.randn(start.shape, generator=torch.Generator().manual_seed(seed))


def explicit(layer: UltimateRAv5, x: Tensor, w_std: Tensor, w_rec: Tensor) -> Tensor:
    """The score's definition on activations: nothing is folded here, and a bias is a whole T x T matrix."""
    projected = x @ layer.c_attn.weight.T
    if layer.c_attn.bias is not None:
        projected = projected + layer.c_attn.bias
    q, k, v = (t.view(B, T, H, D).transpose(1, 2) for t in projected.split(C, dim=-1))
    w_std = w_std.view(-1, 1, 1)
    q_std, q_low, k_std, k_low = q[..., :-R], q[..., -R:], k[..., :-R], k[..., -R:]
    std = w_std * (q_std @ k_std.transpose(-2, -1))
    if layer.fold == "direct":
        scores = std + w_rec.view(-1, 1, 1) * (q_low @ k_low.transpose(-2, -1))
    else:
        qf_low, kf_low = EXCHANGED[layer.fold](q_low, k_low, w_rec)
        scores = std + w_std * (qf_low @ kf_low.transpose(-2, -1))
    scores = scores / math.sqrt(D)
    if layer.d_bias is not None:
        scores = scores + layer.d_bias[:, None, :T].expand(H, T, T)
    scores = scores.masked_fill(torch.ones(T, T, dtype=torch.bool).triu(1), -math.inf)
    y = scores.softmax(-1) @ v
    out: Tensor = layer.c_proj(y.transpose(1, 2).reshape(B, T, C))
    return out


def set_gates(layer: UltimateRAv5, w_std: Tensor | float, w_rec: Tensor | float) -> None:
    with torch.no_grad():
        layer.w_std[:] = w_std
        layer.w_rec[:] = w_rec


def both_paths(layer: UltimateRAv5, x: Tensor) -> tuple[Tensor, Tensor]:
    """The output in train mode and in eval mode."""
    trained = layer.train()(x)
    with torch.no_grad():
        return trained, layer.eval()(x)


# The folds


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("fold", FOLDS)
def test_at_its_baseline_gate_it_is_the_baseline_to_the_bit(fold: str, bias: bool) -> None:
    ours = attention(fold, torch.float32, bias=bias, gate_init=0.5)
    if bias:
        nn.init.normal_(ours.c_attn.bias)
    baseline = CausalSelfAttention(C, H, bias=bias)
    baseline.load_state_dict({n: p for n, p in ours.state_dict().items() if n not in ours.GATES})
    with torch.no_grad():
        ours.w_rec[:] = RA_V5_AT_REST[fold]  # the RA v5 plan's own line
    x = tokens(torch.float32)
    outs: list[Tensor] = []
    grads: list[dict[str, Tensor | None]] = []
    kept: list[Tensor] = []
    for layer in (ours, baseline):
        out = layer(x)
        out.square().sum().backward()
        outs.append(out)
        grads.append({name: p.grad for name, p in layer.named_parameters()})
        with torch.no_grad():
            kept.append(layer.eval()(x))
    assert torch.equal(*outs)
    assert torch.equal(*kept)
    for name, grad in grads[1].items():
        torch.testing.assert_close(grads[0][name], grad, rtol=0, atol=0)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("w_rec", [0.0, 0.25, 0.5, 1.0, None], ids=["0", "1/4", "1/2", "1", "mixed"])
@pytest.mark.parametrize("fold", FOLDS)
def test_it_is_the_formula(fold: str, w_rec: float | None, bias: bool) -> None:
    layer = attention(fold, bias=bias)
    if bias:
        nn.init.normal_(layer.c_attn.bias)
    set_gates(layer, torch.tensor([0.5, 1.0, 1.5, -1.0]), mixed(fold) if w_rec is None else w_rec)
    x = tokens()
    expected = explicit(layer, x, layer.w_std, layer.w_rec)
    for out in both_paths(layer, x):
        torch.testing.assert_close(out, expected, rtol=0, atol=1e-14)


@pytest.mark.parametrize("g", [-0.3, 0.0, 0.25, 1.0])
@pytest.mark.parametrize("fold", ["lerp_dims", "matrix"])
def test_a_gate_that_is_the_same_in_all_dimensions_is_the_lerp(fold: str, g: float) -> None:
    ours, lerp = attention(fold, gate_init=g), attention("lerp", gate_init=g)
    torch.testing.assert_close(ours(tokens()), lerp(tokens()), rtol=0, atol=1e-14)
    torch.testing.assert_close(ours.gates_per_head()["w_rec_rms"], lerp.w_rec.abs(), rtol=1e-12, atol=0)


def test_the_matrix_turns_with_the_low_slot() -> None:
    """Rows of the slot in another orthogonal basis: the same scores, with M in that basis."""
    layer, turned = attention("matrix"), attention("matrix")
    set_gates(layer, 1.0, mixed("matrix"))
    basis = torch.linalg.qr(torch.randn(R, R, dtype=torch.float64, generator=torch.Generator().manual_seed(4)))[0]
    with torch.no_grad():
        turned.w_rec[:] = basis @ layer.w_rec @ basis.T
        for p in (turned.c_attn.weight, turned.c_attn.bias):
            low = p.view(3, H, D, -1)[:2, :, -R:]
            low[:] = basis @ low
    torch.testing.assert_close(turned(tokens()), layer(tokens()), rtol=0, atol=1e-14)


def test_a_matrix_leaves_the_sum_of_query_and_key_alone_and_turns_their_difference() -> None:
    layer = attention("matrix")
    set_gates(layer, 1.0, mixed("matrix"))
    x = tokens()
    q, k, _ = (t.view(B, T, H, D).transpose(1, 2)[..., -R:] for t in layer.c_attn(x).split(C, dim=-1))
    qf, kf, _ = (t.view(B, T, H, D).transpose(1, 2)[..., -R:] for t in layer.qkv(x).split(C, dim=-1))
    a, b = (q + k) / 2, (q - k) / 2
    t = b @ (torch.eye(R) - 2 * layer.w_rec).mT
    symmetric, directed = a @ a.mT - t @ t.mT, t @ a.mT - a @ t.mT
    torch.testing.assert_close(qf @ kf.mT, symmetric + directed, rtol=0, atol=1e-13)
    torch.testing.assert_close(symmetric, symmetric.mT, rtol=0, atol=1e-13)
    torch.testing.assert_close(directed, -directed.mT, rtol=0, atol=1e-13)


def test_the_scalar_gates_gradient_is_the_trace_of_the_matrixs() -> None:
    grads = {}
    for fold in ("lerp", "lerp_dims", "matrix"):
        layer = attention(fold)
        layer(tokens()).square().sum().backward()
        grads[fold] = layer.w_rec.grad
    diagonal = grads["matrix"].diagonal(dim1=1, dim2=2)
    torch.testing.assert_close(grads["lerp_dims"], diagonal)
    torch.testing.assert_close(grads["lerp"], diagonal.sum(-1))


def test_at_one_the_lerp_fold_is_the_seeds_layout() -> None:
    layer = attention("lerp")
    set_gates(layer, 1.0, 1.0)
    x = tokens()
    q, k, v = (t.view(B, T, H, D).transpose(1, 2) for t in layer.c_attn(x).split(C, dim=-1))
    qf = torch.cat([q[..., :-R], k[..., -R:]], dim=-1)
    kf = torch.cat([k[..., :-R], q[..., -R:]], dim=-1)
    y = explicit_attention(qf, kf, v, 1 / math.sqrt(D)).transpose(1, 2).reshape(B, T, C)
    torch.testing.assert_close(layer(x), layer.c_proj(y), rtol=0, atol=1e-14)
    weight, bias = layer.folded()
    assert bias is not None
    heads = layer.c_attn.weight.view(3, H, D, C)
    assert torch.equal(weight.view(3, H, D, C)[0, :, -R:], heads[1, :, -R:]), "rows are moved, not computed with"
    assert torch.equal(weight.view(3, H, D, C)[1, :, -R:], heads[0, :, -R:])


def test_at_one_half_the_low_slot_is_symmetric() -> None:
    layer = attention("lerp")
    set_gates(layer, 1.0, 0.5)
    qf, kf, _ = (t.view(B, T, H, D).transpose(1, 2) for t in layer.qkv(tokens()).split(C, dim=-1))
    scores = qf[..., -R:] @ kf[..., -R:].transpose(-2, -1)
    torch.testing.assert_close(scores, scores.transpose(-2, -1), rtol=0, atol=1e-14)


@pytest.mark.parametrize("fold", FOLDS)
def test_a_folded_layer_is_a_standard_layer(fold: str) -> None:
    layer = attention(fold)
    set_gates(layer, 0.9, mixed(fold))
    standard = CausalSelfAttention(C, H).double()
    weight, bias = layer.folded()
    assert bias is not None
    standard.load_state_dict(layer.state_dict() | {"c_attn.weight": weight, "c_attn.bias": bias}, strict=False)
    assert torch.equal(standard(tokens()), layer(tokens()))


@pytest.mark.parametrize("d_bias", [False, True])
@pytest.mark.parametrize("fold", FOLDS)
def test_gradients_are_those_of_the_function(fold: str, d_bias: bool) -> None:
    torch.manual_seed(0)
    layer = UltimateRAv5(8, 2, 5, R=2, fold=fold, gate_init=0.3, d_bias=d_bias).double()
    x = torch.randn(1, 4, 8, dtype=torch.float64, requires_grad=True)
    names, parameters = zip(*layer.named_parameters(), strict=True)

    def f(x: Tensor, *values: Tensor) -> Tensor:
        out: Tensor = torch.func.functional_call(layer, dict(zip(names, values, strict=True)), (x,))
        return out

    assert torch.autograd.gradcheck(f, (x, *parameters))


# The gates


@pytest.mark.parametrize("fold", FOLDS)
def test_gates_have_gradients_where_they_start(fold: str) -> None:
    layer = attention(fold)
    layer(tokens()).square().sum().backward()
    for gate in (layer.w_std, layer.w_rec):
        assert gate.grad is not None
        assert (gate.grad != 0).all()


@pytest.mark.parametrize("gate", ["w_std", "w_rec"])
@pytest.mark.parametrize("fold", FOLDS)
def test_each_heads_gate_changes_the_output(fold: str, gate: str) -> None:
    layer = attention(fold).eval()
    with torch.no_grad():
        before = layer(tokens())
        for h in range(H):
            getattr(layer, gate)[h] += 0.1
            after = layer(tokens())
            assert (after - before).abs().max() > 1e-4
            before = after


def test_gates_start_where_they_are_told_and_may_be_held() -> None:
    assert attention("lerp").w_rec.tolist() == [0.0] * H
    assert attention("direct").w_rec.tolist() == [1.0] * H
    assert attention("lerp_keys").w_rec.tolist() == [0.0] * H
    assert attention(gate_init=0.25).w_rec.tolist() == [0.25] * H
    assert attention("lerp_dims", gate_init=0.25).w_rec.tolist() == [[0.25] * R] * H
    assert torch.equal(attention("matrix", gate_init=0.25).w_rec, (0.25 * torch.eye(R)).expand(H, R, R).double())
    assert not attention("matrix").w_rec.any()
    assert attention().w_std.tolist() == [1.0] * H
    held = attention(learn_w_rec=False)
    held(tokens()).sum().backward()
    assert held.w_rec.grad is None
    assert held.w_std.grad is not None
    assert attention(learn_w_std=False).w_std.requires_grad is False


@pytest.mark.parametrize("r", [0, D])
def test_a_low_slot_that_does_not_fit_is_refused(r: int) -> None:
    with pytest.raises(ValueError, match=f"R={r} must be from 1 to 7: a head is 8 wide"):
        UltimateRAv5(C, H, 16, R=r)
    with pytest.raises(SettingError, match=f"RA_V5_R={r}"):
        GPTConfig(n_embd=C, n_head=H, attention="ra_v5", ra_v5_R=r)


def test_an_unknown_fold_is_refused() -> None:
    with pytest.raises(ValueError, match="fold='sqrt' is not one of lerp, direct, lerp_dims, lerp_keys, matrix"):
        UltimateRAv5(C, H, 16, fold="sqrt")


# No pass uses an old fold, and a generation folds once


def fresh(layer: UltimateRAv5, x: Tensor) -> Tensor:
    """The output of a layer that has never computed anything, with the same weights and settings."""
    new = UltimateRAv5(C, H, 16, R=layer.R, fold=layer.fold, d_bias=layer.d_bias is not None).to(x.dtype).eval()
    new.load_state_dict({name: value.clone() for name, value in layer.state_dict().items()})
    return new(x)


Edit = Callable[[UltimateRAv5], object]
"""Changes a layer, or returns the changed copy."""


def edited(name: str, layer: UltimateRAv5) -> UltimateRAv5:
    result = EDITS[name](layer)
    return result if isinstance(result, UltimateRAv5) else layer


def optimizer_step(kind: type[torch.optim.Optimizer], **options: bool) -> Edit:
    def step(layer: UltimateRAv5) -> None:
        optimizer = kind(layer.parameters(), lr=0.1, **options)  # type: ignore[call-arg]
        with torch.enable_grad():
            layer(tokens()).square().sum().backward()
        optimizer.step()

    return step


def load(assign: bool) -> Edit:
    def load_other(layer: UltimateRAv5) -> None:
        layer.load_state_dict({n: 0.9 * p for n, p in layer.state_dict().items()}, assign=assign)

    return load_other


def write(name: str, how: Callable[[Tensor], object]) -> Edit:
    def write_to(layer: UltimateRAv5) -> None:
        how(layer.get_parameter(name))

    return write_to


def copied_and_edited(copied: Callable[[UltimateRAv5], UltimateRAv5]) -> Edit:
    def edit_copy(layer: UltimateRAv5) -> UltimateRAv5:
        layer = copied(layer)
        layer.w_rec.data.add_(0.5)
        return layer

    return edit_copy


def new_parameter(layer: UltimateRAv5) -> None:
    layer.w_rec = nn.Parameter(layer.w_rec + 0.7)


def vector_to_parameters(layer: UltimateRAv5) -> None:
    nn.utils.vector_to_parameters(0.9 * nn.utils.parameters_to_vector(layer.parameters()), layer.parameters())


def swapped(layer: UltimateRAv5) -> None:
    torch.utils.swap_tensors(layer.w_rec, nn.Parameter(layer.w_rec + 0.5))


def parametrized_and_back(layer: UltimateRAv5) -> None:
    class Halved(nn.Module):
        def forward(self, weight: Tensor) -> Tensor:
            return weight / 2

    nn.utils.parametrize.register_parametrization(layer.c_attn, "weight", Halved())
    layer(tokens())
    nn.utils.parametrize.remove_parametrizations(layer.c_attn, "weight")


def swapped_memory(layer: UltimateRAv5) -> None:
    layer.w_std.set_((layer.w_std + 0.5).detach())


def through_numpy(layer: UltimateRAv5) -> None:
    layer.w_rec.detach().numpy()[:] += 0.5


def other_R(layer: UltimateRAv5) -> None:
    layer.R = layer.R % (D - 1) + 1
    if layer.w_rec.dim() > 1:
        layer.w_rec = nn.Parameter(initial_w_rec(layer.fold, H, layer.R, 0.3).to(layer.w_rec))


def other_fold(layer: UltimateRAv5) -> None:
    folds = list(FOLDS)
    layer.fold = folds[(folds.index(layer.fold) + 1) % len(folds)]
    if layer.w_rec.dim() != initial_w_rec(layer.fold, H, layer.R).dim():
        layer.w_rec = nn.Parameter(initial_w_rec(layer.fold, H, layer.R, 0.3).to(layer.w_rec))


EDITS: dict[str, Edit] = {
    "AdamW": optimizer_step(torch.optim.AdamW, foreach=False),
    "foreach AdamW": optimizer_step(torch.optim.AdamW, foreach=True),
    "fused AdamW": optimizer_step(torch.optim.AdamW, fused=True),
    "fused SGD": optimizer_step(torch.optim.SGD, fused=True),
    "load_state_dict": load(assign=False),
    "load_state_dict(assign=True)": load(assign=True),
    "to and back": lambda layer: layer.to(torch.bfloat16).to(torch.float64),
    "w_rec in place": write("w_rec", lambda p: p.add_(0.5)),
    "w_rec[1]": write("w_rec", lambda p: p.__setitem__(1, p[1] + 0.5)),
    "w_std in place": write("w_std", lambda p: p.mul_(0.5)),
    "weight in place": write("c_attn.weight", lambda p: p.add_(0.5)),
    "bias in place": write("c_attn.bias", lambda p: p.add_(0.5)),
    "a view of the weight": write("c_attn.weight", lambda p: p.detach().view(-1)[5:90].zero_().add_(torch.rand(()))),
    "w_rec.data in place": write("w_rec", lambda p: p.data.add_(0.5)),
    "weight.data in place": write("c_attn.weight", lambda p: p.data.mul_(0.9)),
    ".data assigned": write("w_rec", lambda p: setattr(p, "data", p.data + 0.5)),
    "copy_": write("c_attn.weight", lambda p: p.copy_(0.9 * p)),
    "memory shared with numpy": through_numpy,
    "set_": swapped_memory,
    "swap_tensors": swapped,
    "_foreach": lambda layer: torch._foreach_mul_([p.detach() for p in layer.parameters()], 0.9),
    "vector_to_parameters": vector_to_parameters,
    "clipped weights": lambda layer: layer.w_std.clamp_(max=float(layer.w_std.max()) - 0.1),
    "a new Parameter": new_parameter,
    "a parametrization, made permanent": parametrized_and_back,
    "apply": lambda layer: (
        layer.apply(lambda m: m.weight.data.mul_(0.9) if isinstance(m, nn.Linear) else None) and None
    ),
    "deepcopy, then an edit": copied_and_edited(copy.deepcopy),
    "pickle, then an edit": copied_and_edited(lambda layer: pickle.loads(pickle.dumps(layer))),
    "another R": other_R,
    "another fold": other_fold,
}


@pytest.mark.parametrize("fold", FOLDS)
@pytest.mark.parametrize("name", EDITS)
@torch.no_grad()
def test_every_way_of_changing_a_layer_is_seen_by_the_next_pass(name: str, fold: str) -> None:
    layer, x = attention(fold, d_bias=True).eval(), tokens()
    set_gates(layer, 1.5, mixed(fold))
    outputs = [layer(x)]
    for _ in range(2):  # a second edit of the same kind is an edit too
        original, expected = layer, layer(x)
        layer = edited(name, layer)
        outputs.append(layer(x))
        assert torch.equal(outputs[-1], fresh(layer, x))
        if original is not layer:
            assert torch.equal(original(x), expected), "editing a copy changed the original"
    assert not torch.equal(outputs[0], outputs[1]), "the edit changed nothing"


@given(st.data())
@settings(max_examples=25, deadline=None)
def test_no_course_of_edits_passes_and_modes_leaves_an_old_fold(data: st.DataObject) -> None:
    passes: list[Callable[[], AbstractContextManager[object]]] = [
        torch.no_grad,
        torch.inference_mode,
        torch.enable_grad,
    ]
    layer, x = attention(), tokens()
    for _ in range(data.draw(st.integers(1, 6))):
        layer.train(data.draw(st.booleans()))
        with torch.no_grad():
            layer = edited(data.draw(st.sampled_from(sorted(EDITS))), layer)
        with data.draw(st.sampled_from(passes))():
            assert torch.equal(layer(x), fresh(layer, x))


@torch.no_grad()
def test_a_generation_folds_once_for_each_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    layer, x = attention(dtype=torch.float32).eval(), tokens(torch.float32)
    folds: list[torch.dtype | None] = []
    folded = layer.folded
    monkeypatch.setattr(layer, "folded", lambda dtype: folds.append(dtype) or folded(dtype))
    for _ in range(2):
        cache = LayerCache(16)
        for part in x.split(1, dim=1):
            layer(part, cache)
    assert folds == [None, None], "once for each cache"
    with torch.autocast("cpu", torch.bfloat16):
        for part in x.split(1, dim=1)[:3]:
            layer(part, cache)
    assert folds == [None, None, torch.bfloat16], "for products in another precision it is another one"
    layer(x)
    layer(x)
    assert folds[3:] == [None, None], "without a cache it is part of every pass"


@torch.no_grad()
def test_the_next_generation_sees_an_edit_that_left_no_trace() -> None:
    layer, x = attention().eval(), tokens()
    for _ in range(2):
        cache = LayerCache(16)
        assert torch.allclose(torch.cat([layer(part, cache) for part in x.split(1, dim=1)], 1), layer(x))
        layer.w_rec.data.add_(0.5)


def test_a_pass_with_gradients_has_them_with_a_cache_too() -> None:
    for cache in (None, LayerCache(16)):
        layer = attention().eval()
        layer(tokens(), cache).sum().backward()
        assert layer.w_rec.grad is not None
        assert layer.c_attn.weight.grad is not None


def test_a_model_made_in_inference_mode_sees_edits_too() -> None:
    with torch.inference_mode():
        layer = attention().eval()
        before = layer(tokens())
        layer.w_std.fill_(2.0)
        assert not torch.equal(layer(tokens()), before)


@torch.no_grad()
def test_a_pass_leaves_nothing_in_the_layer() -> None:
    layer = attention().eval()
    attributes, state = dict(vars(layer)), set(layer.state_dict())
    layer(tokens())
    assert dict(vars(layer)) == attributes
    assert (
        set(layer.state_dict())
        == state
        == {
            "w_std",
            "w_rec",
            *(f"{n}.{p}" for n in ("c_attn", "c_proj") for p in ("weight", "bias")),
        }
    )


# The discoverability bias


@pytest.mark.parametrize("at_rest", [True, False])
@pytest.mark.parametrize("fold", FOLDS)
def test_the_bias_is_that_of_a_whole_matrix(fold: str, at_rest: bool) -> None:
    layer = attention(fold, d_bias=True)
    set_gates(layer, 0.9, 0.0 if at_rest else mixed(fold))
    x = tokens()
    expected = explicit(layer, x, layer.w_std, layer.w_rec)
    for out in both_paths(layer, x):
        torch.testing.assert_close(out, expected, rtol=0, atol=1e-14)
    expected.square().sum().backward()
    grads = {name: p.grad.clone() for name, p in layer.named_parameters() if p.grad is not None}
    layer.zero_grad()
    layer.train()(x).square().sum().backward()
    for name, grad in grads.items():
        torch.testing.assert_close(layer.get_parameter(name).grad, grad, rtol=1e-12, atol=1e-12)
    assert (grads["d_bias"][:, :T] != 0).all()
    assert (grads["d_bias"][:, T:] == 0).all()


def test_a_bias_that_is_the_same_everywhere_is_none() -> None:
    layer = attention(d_bias=True)
    shifted = copy.deepcopy(layer)
    with torch.no_grad():
        shifted.get_parameter("d_bias").add_(3.0)
    torch.testing.assert_close(shifted(tokens()), layer(tokens()), rtol=0, atol=1e-13)


@pytest.mark.slow
@pytest.mark.parametrize("d_bias", [False, True])
@pytest.mark.parametrize("fold", FOLDS)
def test_compiled_it_is_the_formula_too(fold: str, d_bias: bool) -> None:
    torch.compiler.reset()
    layer = attention(fold, d_bias=d_bias)
    set_gates(layer, 0.9, mixed(fold))
    layer.compile(fullgraph=True, dynamic=False)
    x = tokens()
    expected = explicit(layer, x, layer.w_std, layer.w_rec)
    for out in both_paths(layer, x):
        torch.testing.assert_close(out, expected, rtol=0, atol=1e-13)
    with torch.no_grad():
        layer.w_rec[:] = 0.0
        torch.testing.assert_close(layer(x), explicit(layer, x, layer.w_std, layer.w_rec), rtol=0, atol=1e-13)


# In a model, as the RA v5 plan spells it


def test_the_seeds_spelling_is_ra_v5() -> None:
    config = small_config("baseline", use_ra_v5=True, ra_v5_R=3)
    assert config.attention == "ra_v5"
    model = GPT(config, seed=1)
    assert all(isinstance(block.attn, UltimateRAv5) and block.attn.R == 3 for block in model.transformer.h)
    assert small_config("ra_v5-lerp").use_ra_v5
    assert GPTConfig(use_ra_v5=True).ra_v5_R == 4
    assert GPTConfig(use_ra_v5=True).ra_v5_compile


@torch.no_grad()
def test_gates_of_a_model_are_seen_by_layer_and_head_and_matter() -> None:
    model = small_model("ra_v5-lerp-d_bias").eval()
    gates = model.gates()
    assert {name: gate.shape for name, gate in gates.items()} == {"w_std": (2, 4), "w_rec": (2, 4)}
    idx = torch.randint(64, (1, 16), generator=torch.Generator().manual_seed(0))
    before, _ = model(idx)
    for i in range(2):
        model.get_parameter(f"transformer.h.{i}.attn.w_rec")[:] = 0
    assert not torch.allclose(model(idx)[0], before)


@pytest.mark.slow
@pytest.mark.parametrize("training", [True, False])
def test_the_seeds_compile_by_default_gives_the_same_output(training: bool) -> None:
    torch.compiler.reset()
    config = GPTConfig(use_ra_v5=True, n_layer=2, n_head=4, n_embd=32, block_size=16, vocab_size=64, ra_v5_R=2)
    model = GPT(config, seed=1).train(training)
    eager = GPT(small_config("ra_v5-lerp", block_size=16), seed=1).train(training)
    assert all(model.get_submodule(f"transformer.h.{i}.attn")._compiled_call_impl is not None for i in range(2))
    assert list(model.state_dict()) == list(eager.state_dict()), "compilation renames nothing"
    idx = torch.randint(64, (2, 16), generator=torch.Generator().manual_seed(0))
    with torch.set_grad_enabled(training):
        torch.testing.assert_close(model(idx, idx), eager(idx, idx), rtol=0, atol=1e-6)
