"""Matrix products by cuBLASLt, through NVIDIA's own bindings of it: with what PyTorch does not offer.

PyTorch takes the first algorithm that cuBLASLt proposes. Here all of them are timed, once for each shape, and the
fastest runs, of those whose output is the first one's to the bit: which one runs is a matter of time alone. And GELU,
or its gradient, is applied within the product, before the sums leave the registers (cuBLASLt's epilogues).

Needs nvmath-python to be imported: ask `gpt2.machine.products` before.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import torch
from nvmath import CudaDataType
from nvmath.bindings import cublas
from nvmath.bindings import cublasLt as lt
from torch import Tensor

from gpt2.base.errors import UserError, one_line

_TYPES = {torch.bfloat16: CudaDataType.CUDA_R_16BF, torch.float16: CudaDataType.CUDA_R_16F}
_ALIGNMENT = 256
"""Bytes. What cuBLASLt takes for granted of pointers, and torch's allocator gives."""
_MOST_WORKSPACE = 32 * 2**20
"""Bytes: what PyTorch gives cuBLASLt on Hopper."""
_MORE_WORKSPACE = 16
"""Bytes that NVIDIA's own caller adds where there is an epilogue, for a fault of the library's."""
_CANDIDATES = 16
"""Asked for; of a GPT-2's shapes it proposes 5 to 8."""
_CALLS, _TURNS = 5, 4
_NOT_WORTH = 1.01
"""How much faster than the first choice another has to be. Some other process may use the device meanwhile."""
_COMPARED_ROWS = 512
"""At either end of an output: what an algorithm does to some rows of a product it does to all."""


@dataclass(frozen=True)
class _Shape:
    """A product out [N, M] = x [N, K] w, where w is [K, M], or [M, K] and transposed; and its epilogue's name."""

    N: int
    M: int
    K: int
    transposed: bool
    epilogue: str
    dtype: torch.dtype
    device: torch.device


@dataclass(frozen=True)
class _Operands:
    w: Tensor
    x: Tensor
    out: Tensor
    bias: Tensor | None
    aux: Tensor | None


@dataclass(frozen=True)
class _Algorithm:
    address: int
    workspace: int
    """Bytes that it needs."""


def multiply(
    x: Tensor,
    w: Tensor,
    *,
    transposed: bool,
    bias: Tensor | None = None,
    gelu_of: Tensor | None = None,
    gelu_gradient_at: Tensor | None = None,
) -> Tensor:
    """x [N, K] times w [K, M], or [M, K] if `transposed`, plus bias [M] -> [N, M]. All are of one half precision.

    gelu_of: [N, M], as torch allocates it, to be filled with that, and GELU of it (the tanh form) is returned.
    gelu_gradient_at: [N, M], what GELU was given: the product is multiplied with GELU's derivative there. Raises
    UserError where cuBLASLt has no algorithm for it.
    """
    N, K = x.shape
    M = w.size(0) if transposed else w.size(1)
    kind = "GELU_AUX" if gelu_of is not None else "DGELU" if gelu_gradient_at is not None else ""
    epilogue = "_".join(filter(None, [kind, "" if bias is None else "BIAS"])) or "DEFAULT"
    aux = gelu_of if gelu_of is not None else _aligned(gelu_gradient_at)  # the one is written to: no copy
    operands = _Operands(_aligned(w), _aligned(x), x.new_empty(N, M), _aligned(bias), aux)
    plan = _plan(_Shape(N, M, K, transposed, epilogue, x.dtype, x.device))
    plan.run(plan.algorithm, operands)
    return operands.out


def _aligned(t: Any) -> Any:
    if t is None or (t.is_contiguous() and t.data_ptr() % _ALIGNMENT == 0):
        return t
    return t.clone(memory_format=torch.contiguous_format)


@cache
def _plan(shape: _Shape) -> _Plan:
    return _Plan(shape)


@cache
def _handle(device: torch.device) -> int:
    with torch.cuda.device(device):
        return int(lt.create())


class _Plan:
    """A product of one shape as cuBLASLt describes it, column by column: out^T [M, N] = w^T x^T.

    One thread at a time runs it: pointers of bias and of what GELU is given are part of the description.
    """

    def __init__(self, shape: _Shape) -> None:
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
        self._found = np.zeros(_CANDIDATES, dtype=lt.matmul_heuristic_result_dtype)
        self.algorithm = self._fastest()
        """The one to run."""

    def run(self, algorithm: _Algorithm, of: _Operands) -> None:
        self._point(of)
        workspace = of.out.new_empty(algorithm.workspace, dtype=torch.uint8)
        lt.matmul(
            _handle(self._shape.device), self._operation,
            ctypes.addressof(self._one), of.w.data_ptr(), self._w, of.x.data_ptr(), self._x,
            ctypes.addressof(self._zero), of.out.data_ptr(), self._out, of.out.data_ptr(), self._out,
            algorithm.address, workspace.data_ptr(), algorithm.workspace,
            torch.cuda.current_stream(self._shape.device).cuda_stream,
        )  # fmt: skip

    def _point(self, of: _Operands) -> None:
        attribute = lt.MatmulDescAttribute
        for name, tensor in ((attribute.BIAS_POINTER, of.bias), (attribute.EPILOGUE_AUX_POINTER, of.aux)):
            if tensor is not None:
                self._pointer.value = tensor.data_ptr()
                self._set(name, self._pointer)

    def _set(self, attribute: Any, value: Any) -> None:
        lt.matmul_desc_set_attribute(self._operation, attribute, ctypes.addressof(value), ctypes.sizeof(value))

    def _fastest(self) -> _Algorithm:
        """The fastest algorithm of those that give what the first choice gives, to the bit.

        On numbers drawn for it: those of a first step may be zeros, or not numbers, of which all algorithms make the
        same. Where memory is short it is the first choice.
        """
        try:
            operands = self._drawn()
        except torch.OutOfMemoryError:
            any_pointer = torch.empty(_ALIGNMENT, dtype=torch.uint8, device=self._shape.device)
            return self._propose(_Operands(*[any_pointer] * 5))[0]
        first, *others = self._propose(operands)
        self.run(first, operands)
        wanted = self._bits(operands)
        same = [first, *(other for other in others if self._gives(wanted, other, operands))]
        times = [min(self._ms(algorithm, operands) for _ in range(_TURNS)) for algorithm in same]
        return next(a for a, ms in zip(same, times, strict=True) if ms <= _NOT_WORTH * min(times))

    def _propose(self, operands: _Operands) -> list[_Algorithm]:
        """The algorithms that cuBLASLt proposes, its first choice first."""
        self._point(operands)
        preference = lt.matmul_preference_create()
        most, count = ctypes.c_uint64(_MOST_WORKSPACE), ctypes.c_int32()
        attribute = lt.MatmulPreferenceAttribute.MAX_WORKSPACE_BYTES
        lt.matmul_preference_set_attribute(preference, attribute, ctypes.addressof(most), ctypes.sizeof(most))
        try:
            lt.matmul_algo_get_heuristic(
                _handle(self._shape.device), self._operation, self._w, self._x, self._out, self._out, preference,
                _CANDIDATES, self._found.ctypes.data, ctypes.addressof(count),
            )  # fmt: skip
        except lt.cuBLASLtError as error:
            raise self._none(one_line(error)) from None
        finally:
            lt.matmul_preference_destroy(preference)
        if count.value == 0:
            raise self._none("it proposes none")
        size = self._found.itemsize
        return [
            _Algorithm(self._found.ctypes.data + i * size, int(found["workspace_size"]) + _MORE_WORKSPACE)
            for i, found in enumerate(self._found[: count.value])
        ]

    def _none(self, reason: str) -> UserError:
        return UserError(f"cuBLASLt has no algorithm for {self._shape}: {reason}; PRODUCTS_TORCH=y does without it")

    def _gives(self, wanted: Sequence[Tensor], algorithm: _Algorithm, operands: _Operands) -> bool:
        try:
            self.run(algorithm, operands)
        except lt.cuBLASLtError:  # what is proposed need not work
            return False
        return all(torch.equal(a, b) for a, b in zip(self._bits(operands), wanted, strict=True))

    def _bits(self, of: _Operands) -> list[Tensor]:
        """What a run has written, at both ends."""
        written = [of.out, *([of.aux] if of.aux is not None and "AUX" in self._shape.epilogue else [])]
        return [
            torch.cat([t[:_COMPARED_ROWS], t[-_COMPARED_ROWS:]]).view(torch.int16)  # NaN is not NaN, its bits are
            for t in written
        ]

    def _ms(self, algorithm: _Algorithm, operands: _Operands) -> float:
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        for _ in range(_CALLS):
            self.run(algorithm, operands)
        end.record()
        end.synchronize()
        return start.elapsed_time(end)

    def _drawn(self) -> _Operands:
        """Operands of this shape, drawn without touching anybody's random numbers."""
        shape = self._shape
        generator = torch.Generator(shape.device).manual_seed(0)

        def draw(*size: int) -> Tensor:
            return torch.randn(size, dtype=shape.dtype, device=shape.device, generator=generator)

        w = draw(shape.M, shape.K) if shape.transposed else draw(shape.K, shape.M)
        return _Operands(
            w=w,
            x=draw(shape.N, shape.K).div_(shape.K**0.5),
            out=w.new_empty(shape.N, shape.M),
            bias=draw(shape.M) if "BIAS" in shape.epilogue else None,
            aux=draw(shape.N, shape.M) if "GELU" in shape.epilogue else None,
        )
