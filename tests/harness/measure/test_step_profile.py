"""Kernels are sorted by what they do, by their names on an H100 under torch 2.11."""

from __future__ import annotations

import pytest
import torch

from harness.measure.step_profile import KINDS, gaps_in, kind_of, profile_step


@pytest.mark.parametrize(
    ("kernel", "kind"),
    [
        ("nvjet_sm90_tst_192x192_64x4_2x1_v_bz_coopB_bias_TNN", "matrix products"),
        ("void cublasLt::splitKreduce_kernel<32, 16, int, float, __nv_bfloat16>", "matrix products"),
        ("cudnn_generated_fort_native_sdpa_sm90_flash_bprop_wgmma_f16_knob_26_64x64x64_1x4x1", "attention"),
        ("void cudnn::fusion::convert_dq_to_16bits<true>(void const*, void*, unsigned int)", "attention"),
        ("void flash::flash_fwd_kernel<Flash_fwd_kernel_traits<64, 128, 128, 4, cutlass::bfloat16_t>>", "attention"),
        ("_fold_backward_kernel", "fold"),
        ("_cross_entropy_kernel", "loss"),
        ("triton_red_fused__log_softmax__unsafe_view_prepare_softmax_online_view_18", "loss"),
        ("triton_per_fused_embedding_dense_backward_nll_loss_forward_sum_view_18", "embedding"),
        ("triton_poi_fused_gelu_gelu_backward_view_6", "GELU"),
        ("void at::native::vectorized_elementwise_kernel<8, at::native::GeluCUDAKernelImpl(at::...", "GELU"),
        ("triton_per_fused__to_copy_add_native_layer_norm_native_layer_norm_backward_view_15", "norms, residual"),
        ("void at::native::(anonymous namespace)::GammaBetaBackwardCUDAKernelTemplate<float>", "norms, residual"),
        ("void at::native::(anonymous namespace)::multi_tensor_apply_kernel<...>", "optimizer, clipping"),
        ("triton_poi_fused_cat_transpose_view_11", "other"),
        ("Memset (Device)", "other"),
        ("nvjet_sm90_tst_96x128_64x7_2x1_v_bz_geluauxbias_auxt_TNN", "matrix products"),
        ("sm90_xmma_gemm_bf16bf16_bf16f32_f32_nn_n_tilesize128x128x64_aux_bf16_dgelu_execute", "matrix products"),
    ],
)
def test_kinds(kernel: str, kind: str) -> None:
    assert kind_of(kernel) == kind


@pytest.mark.parametrize(
    ("intervals", "gaps"),
    [([], 0), ([(3, 5)], 0), ([(3, 5), (7, 8), (8, 9)], 2), ([(0, 9), (1, 2), (10, 11)], 1), ([(5, 6), (0, 1)], 4)],
)
def test_gaps_are_what_no_kernel_covers(intervals: list[tuple[float, float]], gaps: float) -> None:
    assert gaps_in(intervals) == gaps


@pytest.mark.gpu
def test_on_a_gpu_the_kernels_of_a_call_are_found() -> None:
    a = torch.randn(1024, 1024, device="cuda", dtype=torch.bfloat16)
    found = profile_step(lambda: torch.nn.functional.gelu(a @ a))
    times = found.kernels
    assert found.gaps >= 0
    assert list(times) == [*KINDS, "other"]
    assert times["matrix products"] > 0
    assert times["GELU"] > 0
    assert times["attention"] == 0
