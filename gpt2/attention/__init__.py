"""The arms: attention variants, a module each, and how one is found.

A variant `foo` is a module `gpt2/attention/foo.py` with a function `build(config: GPTConfig) -> nn.Module`. The module
it returns

- maps x [B, T, C] to [B, T, C]: `forward(x, cache=None)`, where `cache` is a `LayerCache` that holds earlier positions;
  a variant that takes no cache trains like any other, and cannot generate;
- may name in a class attribute `GATES` its parameters that are a few numbers per head: these get a learning rate of
  their own and no weight decay, and those of shape [n_head] are logged per layer and head. Of wider ones it may say
  by a method `gates_per_head()` what is: numbers [n_head] by name;
- may ask by a class attribute `CARRIES = True` for what the layer before it hands on: `forward(x, cache=None,
  carried=None)` then returns its output and what the next layer gets as `carried`, which in the first layer that has
  the variant is None;
- may say in an attribute `window` how many positions a query looks at, where that is not all before it
  (`GPT.flops_per_token`).

Nothing else has to be told of it: Kconfig's choice entry ATTENTION_FOO selects it.
"""

from __future__ import annotations

import importlib
import importlib.util

from torch import nn

from gpt2.base.errors import UserError
from gpt2.base.text import shown
from gpt2.config import GPTConfig

# Where the RA v5 plan's names differ from the rule "variant foo lives in gpt2/attention/foo.py".
_MODULES = {"ra_v5": "ra_ultimate_v5"}


def build_attention(config: GPTConfig) -> nn.Module:
    """One layer's attention of the variant that `config.attention` names, whichever layers have it (`of_layer`).

    UserError if there is no such variant.
    """
    name = f"{__name__}.{_MODULES.get(config.attention, config.attention)}"
    where = f"ATTENTION_{shown(config.attention.upper())}=y: "
    # The name may come from somebody's file: "../../x" and "a.b" are none of a module here.
    if not config.attention.isidentifier() or importlib.util.find_spec(name) is None:
        raise UserError(f"{where}there is no module {shown(name.replace('.', '/'))}.py")
    build = getattr(importlib.import_module(name), "build", None)
    if build is None:
        raise UserError(f"{where}{name.replace('.', '/')}.py is no variant")
    module: nn.Module = build(config)
    return module
