"""Linear layers, and the MLP that two of them make, by PyTorch's products or cuBLASLt's (gpt2/machine/products.py)."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from gpt2.kernels import products
from gpt2.machine.device import autocast_dtype
from gpt2.machine.products import by_cublaslt


def linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """x [..., K] W^T + b, W [M, K], b [M] or None -> [..., M]; in autocast's precision, where there is autocast."""
    if not by_cublaslt(x, weight):
        return F.linear(x, weight, bias)
    x, weight, bias = _cast(x, weight, bias)
    return products.linear(x.flatten(0, -2), weight, bias).unflatten(0, x.shape[:-1])


class Linear(nn.Linear):
    """torch's linear layer by `linear`."""

    def forward(self, input: Tensor) -> Tensor:
        """[..., in_features] -> [..., out_features]."""
        return linear(input, self.weight, self.bias)


def mlp(x: Tensor, fc: Linear, gelu: nn.GELU, proj: Linear) -> Tensor:
    """proj(gelu(fc(x))), x [..., C] -> [..., C]."""
    if gelu.approximate != "tanh" or not by_cublaslt(x, fc.weight, proj.weight):
        y: Tensor = proj(gelu(fc(x)))
        return y
    x, *weights = _cast(x, fc.weight, fc.bias, proj.weight, proj.bias)
    return products.mlp(x.flatten(0, -2), *weights).unflatten(0, x.shape[:-1])


def _cast(x: Tensor, *weights: Tensor | None) -> list[Any]:
    """As autocast casts what a product is made of."""
    dtype = autocast_dtype(x) or x.dtype
    return [t if t is None else t.to(dtype) for t in (x, *weights)]
