"""torch.compile in the harness's hands."""

from __future__ import annotations

import pytest
import torch
from variants import small_model

from gpt2.compilation import compile_scope


@pytest.mark.slow
@pytest.mark.parametrize("scope", ["attention", "model"])
@pytest.mark.parametrize("variant", ["baseline", "ra_v5-lerp"])
def test_a_graph_of_another_precision_is_not_taken_from_a_cache(
    scope: str, variant: str, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path_factory.mktemp("inductor")))
    idx = torch.randint(64, (2, 16), generator=torch.Generator().manual_seed(0))
    for dtype, resolution in [(torch.bfloat16, 2**-8), (torch.float16, 2**-11), (torch.bfloat16, 2**-8)]:
        torch.compiler.reset()
        model = small_model(variant).eval()
        compiled = small_model(variant).eval()
        compile_scope(compiled, scope)
        with torch.no_grad(), torch.autocast("cpu", dtype):
            eager, _ = model(idx)
            logits, _ = compiled(idx)
        assert logits.dtype == eager.dtype == dtype
        with torch.no_grad():
            exact, _ = model(idx)
        # The rounding of this precision, and not of one that is eight times as coarse.
        error = ((logits.float() - exact).norm() / exact.norm()).item()
        assert resolution / 2 < error < 4 * resolution
