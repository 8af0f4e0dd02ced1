"""Matrix products by cuBLASLt, through NVIDIA's own bindings of it: with what PyTorch does not offer.

PyTorch takes the first algorithm that cuBLASLt proposes. Here all of them are timed, once for each shape, and the
fastest runs, of those whose output is the first one's to the bit: which one runs is a matter of time alone. And GELU,
or its gradient, is applied within the product, before the sums leave the registers (cuBLASLt's epilogues).

Needs nvmath-python to be imported: ask `gpt2.machine.products` before.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from nvmath import CudaDataType
from nvmath.bindings import cublas
from nvmath.bindings import cublasLt as lt
from torch import Tensor

_TYPES = {torch.bfloat16: CudaDataType.CUDA_R_16BF, torch.float16: CudaDataType.CUDA_R_16F}
_WORKSPACE_BYTES = 32 * 2**20
"""What PyTorch gives cuBLASLt on Hopper."""
_CANDIDATES = 16
"""Asked for; of these shapes it proposes 5 to 8."""
_CALLS, _TURNS = 5, 3


@dataclass(frozen=True)
class Shape:
    """A product out [N, M] = x [N, K] w, where w is [K, M], or [M, K] and transposed; and its epilogue's name."""

    N: int
    M: int
    K: int
    transposed: bool
    epilogue: str
    dtype: torch.dtype
    device: torch.device


def multiply(
    x: Tensor,
    w: Tensor,
    *,
    transposed: bool,
    bias: Tensor | None = None,
    gelu_of: Tensor | None = None,
    gelu_gradient_at: Tensor | None = None,
) -> Tensor:
    """x [N, K] times w [K, M], or [M, K] if `transposed`, plus bias [M] -> [N, M]. All are contiguous and of one type.

    gelu_of: [N, M], to be filled with that, and GELU of it (the tanh form) is returned. gelu_gradient_at: [N, M], what
    GELU was given: the product is multiplied with GELU's derivative there.
    """
    M = w.size(0) if transposed else w.size(1)
    out = x.new_empty(x.size(0), M)
    kind = "GELU_AUX" if gelu_of is not None else "DGELU" if gelu_gradient_at is not None else ""
    epilogue = "_".join(filter(None, [kind, "" if bias is None else "BIAS"])) or "DEFAULT"
    operands = w, x, out, bias, gelu_of if gelu_of is not None else gelu_gradient_at
    plan = _plan(Shape(x.size(0), M, x.size(1), transposed, epilogue, x.dtype, x.device))
    if plan.algorithm is None:
        plan.algorithm = _fastest(plan, operands)
    plan.run(plan.algorithm, *operands)
    return out


class _Plan:
    """A product of one shape as cuBLASLt describes it, column by column: out^T [M, N] = w^T x^T."""

    def __init__(self, shape: Shape) -> None:
        M, N, K = shape.M, shape.N, shape.K
        dtype = _TYPES[shape.dtype]
        self._shape = shape
        self._one, self._zero, self._pointer = ctypes.c_float(1.0), ctypes.c_float(0.0), ctypes.c_void_p()
        self._operation = lt.matmul_desc_create(cublas.ComputeType.COMPUTE_32F, CudaDataType.CUDA_R_32F)
        attribute = lt.MatmulDescAttribute
        self._set(attribute.TRANSA, ctypes.c_int32(shape.transposed))
        self._set(attribute.EPILOGUE, ctypes.c_int32(getattr(lt.Epilogue, shape.epilogue)))
        self._set(attribute.BIAS_DATA_TYPE, ctypes.c_int32(dtype))
        if "GELU" in shape.epilogue:
            self._set(attribute.EPILOGUE_AUX_LD, ctypes.c_int64(M))
        rows, columns = (K, M) if shape.transposed else (M, K)
        self._w = lt.matrix_layout_create(dtype, rows, columns, rows)
        self._x = lt.matrix_layout_create(dtype, K, N, K)
        self._out = lt.matrix_layout_create(dtype, M, N, M)
        self._workspace = _workspace(shape.device)
        self._found = lt.MatmulHeuristicResult(_CANDIDATES)
        self.candidates = self._propose()
        """Where the algorithms that cuBLASLt proposes lie in memory, its first choice first."""
        self.algorithm: int | None = None
        """The one to run, once it is known."""

    def run(self, algorithm: int, w: Tensor, x: Tensor, out: Tensor, bias: Tensor | None, aux: Tensor | None) -> None:
        for attribute, tensor in (("BIAS_POINTER", bias), ("EPILOGUE_AUX_POINTER", aux)):
            if tensor is not None:
                self._pointer.value = tensor.data_ptr()
                self._set(lt.MatmulDescAttribute[attribute], self._pointer)
        lt.matmul(
            _handle(), self._operation,
            ctypes.addressof(self._one), w.data_ptr(), self._w, x.data_ptr(), self._x,
            ctypes.addressof(self._zero), out.data_ptr(), self._out, out.data_ptr(), self._out,
            algorithm, self._workspace.data_ptr(), _WORKSPACE_BYTES, torch.cuda.current_stream().cuda_stream,
        )  # fmt: skip

    def _set(self, attribute: Any, value: Any) -> None:
        lt.matmul_desc_set_attribute(self._operation, attribute, ctypes.addressof(value), ctypes.sizeof(value))

    def _propose(self) -> list[int]:
        preference = lt.matmul_preference_create()
        most, count = ctypes.c_uint64(_WORKSPACE_BYTES), ctypes.c_int32()
        attribute = lt.MatmulPreferenceAttribute.MAX_WORKSPACE_BYTES
        lt.matmul_preference_set_attribute(preference, attribute, ctypes.addressof(most), ctypes.sizeof(most))
        lt.matmul_algo_get_heuristic(
            _handle(), self._operation, self._w, self._x, self._out, self._out, preference, _CANDIDATES,
            self._found.ptr, ctypes.addressof(count),
        )  # fmt: skip
        lt.matmul_preference_destroy(preference)
        if count.value == 0:
            raise RuntimeError(f"cuBLASLt proposes no algorithm for {self._shape}; PRODUCTS_TORCH=y does without it")
        return [self._found.ptr + i * lt.matmul_heuristic_result_dtype.itemsize for i in range(count.value)]


def _fastest(plan: _Plan, operands: Any) -> int:
    """The fastest of a plan's algorithms of those that give what the first one gives, to the bit."""
    written = [t for t in (operands[2], operands[4]) if t is not None]
    plan.run(plan.candidates[0], *operands)
    first = [t.clone() for t in written]
    same = []
    for algorithm in plan.candidates:
        plan.run(algorithm, *operands)
        if all(torch.equal(a, b) for a, b in zip(written, first, strict=True)):
            same.append(algorithm)
    times: dict[int, list[float]] = {algorithm: [] for algorithm in same}
    for _ in range(_TURNS):
        for algorithm in same:
            times[algorithm].append(_ms(lambda of=algorithm: plan.run(of, *operands)))  # type: ignore[misc]
    return min(times, key=lambda algorithm: sorted(times[algorithm])[_TURNS // 2])


def _ms(call: Callable[[], None]) -> float:
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    for _ in range(_CALLS):
        call()
    end.record()
    end.synchronize()
    return start.elapsed_time(end)


_plan = cache(_Plan)


@cache
def _handle() -> int:
    return int(lt.create())


@cache
def _workspace(device: torch.device) -> Tensor:
    return torch.empty(_WORKSPACE_BYTES, dtype=torch.uint8, device=device)
