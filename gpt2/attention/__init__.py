"""The arms: attention variants, a module each, and how one is found.

A variant `foo` is a module `gpt2/attention/foo.py` with a function `build(config: GPTConfig) -> nn.Module`. The module
it returns

- maps x [B, T, C] to [B, T, C]: `forward(x, cache=None)`, where `cache` is a `LayerCache` that holds earlier positions;
  a variant that takes no cache trains like any other, and cannot generate;
- may name in a class attribute `GATES` its parameters that are a few numbers per head: these get a learning rate of
  their own and no weight decay, and those of shape [n_head] are logged per layer and head.

Nothing else has to be told of it: Kconfig's choice entry ATTENTION_FOO selects it.
"""

from __future__ import annotations

import importlib
import importlib.util

from torch import nn

from gpt2.base.errors import UserError
from gpt2.config import GPTConfig

# Where the RA v5 plan's names differ from the rule "variant foo lives in gpt2/attention/foo.py".
_MODULES = {"ra_v5": "ra_ultimate_v5"}


def build_attention(config: GPTConfig) -> nn.Module:
    """One layer's attention of the variant that `config.attention` names. UserError if there is no such variant."""
    name = f"{__name__}.{_MODULES.get(config.attention, config.attention)}"
    if importlib.util.find_spec(name) is None:
        raise UserError(f"ATTENTION_{config.attention.upper()}=y: there is no module {name.replace('.', '/')}.py")
    module: nn.Module = importlib.import_module(name).build(config)
    return module
