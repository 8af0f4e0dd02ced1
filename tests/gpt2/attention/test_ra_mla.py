"""RA + MLA: MLA where the gates say so, the formula elsewhere, and a cache that stays latent."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from gpt2.attention.mla import MultiHeadLatentAttention
from gpt2.attention.ra_mla import ReciprocalLatentAttention
from gpt2.attention.shared import LayerCache
from gpt2.base.settings import SettingError
from gpt2.config import GPTConfig
from tests.gpt2.variants import explicit_attention

B, T, C, H, L, R = 2, 10, 32, 4, 12, 3
D = C // H


def attention(dtype: torch.dtype = torch.float64, **options: object) -> ReciprocalLatentAttention:
    torch.manual_seed(0)
    return ReciprocalLatentAttention(C, H, R=R, kv_latent_dim=L, **options).to(dtype)  # type: ignore[arg-type]


def explicit(layer: ReciprocalLatentAttention, x: Tensor, w_std: Tensor, g: Tensor) -> Tensor:
    """docs/ra-v5.md, written out with (1 - g) a + g b."""
    q, latent = MultiHeadLatentAttention.q_latent(layer, x).split([C, L], dim=-1)
    q = q.unflatten(-1, (H, D)).transpose(1, 2)
    k, v = layer.keys_values(layer.kv_norm(latent))
    w_std, g = w_std.view(-1, 1, 1), g.view(-1, 1, 1)
    q_std, q_low, k_std, k_low = q[..., :-R], q[..., -R:], k[..., :-R], k[..., -R:]
    qf = w_std * torch.cat([q_std, (1 - g) * q_low + g * k_low], dim=-1)
    kf = torch.cat([k_std, (1 - g) * k_low + g * q_low], dim=-1)
    y = explicit_attention(qf, kf, v, 1 / math.sqrt(D))
    out: Tensor = layer.c_proj(y.transpose(1, 2).reshape(x.shape))
    return out


@pytest.mark.parametrize("bias", [True, False])
def test_without_reciprocity_it_is_mla_on_the_same_weights_to_the_bit(bias: bool) -> None:
    ours = attention(torch.float32, bias=bias)
    mla = MultiHeadLatentAttention(C, H, kv_latent_dim=L, bias=bias)
    missing, unexpected = ours.load_state_dict(mla.state_dict(), strict=False)
    assert (set(missing), unexpected) == ({"w_std", "w_rec"}, [])
    x = torch.randn(B, T, C)
    outs: list[Tensor] = []
    grads: list[dict[str, Tensor | None]] = []
    for layer in (ours, mla):
        out = layer(x)
        out.square().sum().backward()
        outs.append(out)
        grads.append({name: p.grad for name, p in layer.named_parameters()})
    assert torch.equal(*outs)
    for name, grad in grads[1].items():
        torch.testing.assert_close(grads[0][name], grad, rtol=0, atol=0)


@pytest.mark.parametrize("g", [[0.0] * H, [0.25] * H, [0.5] * H, [1.0] * H, [-0.3, 0.1, 0.7, 1.2]], ids=str)
def test_it_is_the_formula(g: list[float]) -> None:
    layer = attention()
    x = torch.randn(B, T, C, dtype=torch.float64)
    with torch.no_grad():
        layer.w_rec[:] = torch.tensor(g)
        layer.w_std[:] = torch.tensor([0.5, 1.0, 1.5, -1.0])
    torch.testing.assert_close(layer(x), explicit(layer, x, layer.w_std, layer.w_rec), rtol=0, atol=1e-14)


def test_gradients_are_those_of_the_function_and_reach_the_gates() -> None:
    torch.manual_seed(0)
    layer = ReciprocalLatentAttention(8, 2, R=2, kv_latent_dim=3, gate_init=0.3).double()
    x = torch.randn(1, 4, 8, dtype=torch.float64, requires_grad=True)
    names, parameters = zip(*layer.named_parameters(), strict=True)

    def f(x: Tensor, *values: Tensor) -> Tensor:
        out: Tensor = torch.func.functional_call(layer, dict(zip(names, values, strict=True)), (x,))
        return out

    assert torch.autograd.gradcheck(f, (x, *parameters))
    f(x, *parameters).square().sum().backward()
    assert all((getattr(layer, gate).grad != 0).all() for gate in layer.GATES)


def test_a_gate_at_zero_has_a_gradient() -> None:
    layer = attention()
    layer(torch.randn(B, T, C, dtype=torch.float64)).square().sum().backward()
    assert layer.w_rec.grad is not None
    assert (layer.w_rec.grad != 0).all()


def test_the_cache_stays_latent() -> None:
    layer = attention(torch.float32).eval()
    cache = LayerCache(16)
    layer(torch.randn(B, 3, C), cache)
    assert cache.bytes_per_token() == 4 * (L + H * R)
    assert cache.bytes_per_token() < 4 * 2 * C


def test_with_the_cache_it_equals_the_full_forward() -> None:
    layer = attention(gate_init=0.4).eval()
    x = torch.randn(B, T, C, dtype=torch.float64)
    cache = LayerCache(T)
    parts = [layer(part, cache) for part in x.split([4, 1, 3, 2], dim=1)]
    torch.testing.assert_close(torch.cat(parts, dim=1), layer(x), rtol=0, atol=1e-14)


@pytest.mark.parametrize("r", [0, D])
def test_a_low_slot_that_does_not_fit_is_refused(r: int) -> None:
    with pytest.raises(ValueError, match=f"R={r} must be from 1 to 7: a head is 8 wide"):
        ReciprocalLatentAttention(C, H, R=r)
    with pytest.raises(SettingError, match=f"RA_V5_R={r}"):
        GPTConfig(n_embd=C, n_head=H, attention="ra_mla", ra_v5_R=r)


def test_the_direct_fold_is_refused() -> None:
    with pytest.raises(SettingError, match="RA_V5_FOLD=direct: RA \\+ MLA has the lerp fold only"):
        GPTConfig(attention="ra_mla", ra_v5_fold="direct")
