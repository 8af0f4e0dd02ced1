"""INIT_FROM: what another run left is taken only where it says the same here."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from gpt2.base.errors import UserError
from gpt2.exchange.convert import write_model
from gpt2.model import GPT
from gpt2.run.load import load_initial_weights
from tests.gpt2.variants import small_config

FORMS = {
    "lerp": {},
    "wider": {"ra_v5_R": 6},
    "keys": {"ra_v5_fold": "lerp_keys"},
    "direct": {"ra_v5_fold": "direct"},
    "some layers": {"attention_layers": "1"},
}


def model(form: str) -> GPT:
    return GPT(small_config("ra_v5-lerp", **FORMS[form]), seed=1)


@torch.no_grad()
@pytest.mark.parametrize("trained", [False, True])
@pytest.mark.parametrize("theirs", FORMS)
@pytest.mark.parametrize("ours", FORMS)
def test_gates_are_taken_where_they_say_the_same(tmp_path: Path, ours: str, theirs: str, trained: bool) -> None:
    left, begins = model(theirs).eval(), model(ours).eval()
    for name, gate in left.named_parameters():
        if trained and name.endswith(("w_std", "w_rec")):
            gate.add_(0.25)
    write_model(left, path := tmp_path / "left.pt")
    tokens = torch.arange(20).view(1, 20)
    try:
        load_initial_weights(begins, str(path))
    except UserError as error:
        assert str(error).startswith(f'CONFIG_INIT_FROM="{path}": ') and "\n" not in str(error)
        assert ours != theirs and (trained or "direct" in (ours, theirs) or ours == "some layers")
    else:
        torch.testing.assert_close(begins(tokens)[0], left(tokens)[0], rtol=0, atol=2e-6)
