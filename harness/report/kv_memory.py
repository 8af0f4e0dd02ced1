"""What a KV cache takes per token, by each arm's own accounting: the buffers that a layer fills."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from gpt2.dotconfig import load
from gpt2.generate import cache_bytes_per_token
from gpt2.model import GPT
from harness.configure.kconfig import find_defconfig, find_step, overlay

SHAPE = "gpt2-baseline"
"""The configuration whose shape it is."""

_FLOAT32 = 4
_VOCABULARY = 64
"""Embeddings have no part in it, and building large ones takes a second."""


@dataclass(frozen=True, kw_only=True)
class KVMemory:
    """Of one arm."""

    title: str
    numbers: int
    """Kept per token and layer; of a window the mean over a whole context."""

    bytes_per_token: int
    """Of all layers, in two-byte precision."""


def kv_memory(steps: Sequence[str]) -> list[KVMemory]:
    """What the cache of each of these ablation steps takes at GPT-2's shape. Raises UserError where there is no such
    step."""
    base = load(find_defconfig(SHAPE))
    found = []
    for step in steps:
        resolved = overlay(base, find_step(step).assignments())
        model = resolved.run_config().model
        layer = GPT(replace(model, n_layer=1, vocab_size=_VOCABULARY), seed=1)
        numbers = cache_bytes_per_token(layer) // _FLOAT32
        title = str(resolved.symbols["STEP_TITLE"])
        found.append(KVMemory(title=title, numbers=numbers, bytes_per_token=2 * numbers * model.n_layer))
    return found
