"""The page that shows single heads on a text: one HTML file that needs no network.

It holds the scores of every head in a byte each, and makes the attention of them, as the model does, by a softmax.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from gpt2.base.files import finite
from gpt2.config import GPTConfig
from harness.heads.measures import Array, Heads
from harness.report.pages import templates

MAX_TOKENS = 128
MAX_BYTES = 3_400_000
"""Of scores, a third less than they take in the page. 64 tokens of GPT-2 large; 128 of the 124M one."""

FLOOR = 16.0
"""Scores so far (nats) below the greatest of the keys a query sees are shown as that far below: e^-16 = 1e-7."""


def page_tokens(n_layer: int, n_head: int, T: int) -> int:
    """How many of T tokens the page has room for."""
    fits = (n for n in range(min(T, MAX_TOKENS), 0, -1) if n_layer * n_head * (n * n + 8 * n) <= MAX_BYTES)
    return next(fits, 1)


def render_page(name: str, config: GPTConfig, source: str, labels: Sequence[str], heads: Heads) -> str:
    """The HTML of the page, with the tokens that `heads.scores` covers."""
    n = heads.scores.shape[-1]
    levels, ranges = encode_scores(heads.scores)
    data: dict[str, Any] = {
        "n": n,
        "tokens": list(labels[:n]),
        "measures": [
            {
                "title": measure.title,
                "meaning": measure.meaning,
                "centre": measure.centre,
                "values": measure.values.round(4).tolist(),
            }
            for measure in heads.measures
        ],
        "bins": [str(a) if a == b else f"{a} to {b}" for a, b in heads.bins],
        "profile": heads.distance_profile.round(4).tolist(),
        "bias": None if heads.d_bias is None else heads.d_bias[..., :n].round(4).tolist(),
        "levels": base64.b64encode(levels.tobytes()).decode(),
        "ranges": base64.b64encode(ranges.astype("<f4").tobytes()).decode(),
    }
    facts = [
        ("Attention", config.attention),
        ("Model", f"{config.n_layer} layers of {config.n_head} heads, each {config.head_dim} wide"),
        ("Text", f"{source}, {len(labels)} tokens" + f": measured on all, the first {n} shown" * (n < len(labels))),
    ]
    environment = templates(Path(__file__).parent / "templates")
    return environment.get_template("heads.html.j2").render(name=name, facts=facts, data=finite(data))


def encode_scores(scores: Array) -> tuple[np.ndarray, np.ndarray]:
    """Scores [..., n, n] as levels, uint8 of the same shape, and the scores of levels 0 and 255 by row, [..., n, 2].

    The attention made of them is off by a factor of exp(range / 255) at most, a few per cent.
    """
    n = scores.shape[-1]
    seen = np.where(np.tri(n, dtype=bool), scores, -np.inf).max(axis=-1)
    low = np.maximum(scores.min(axis=-1), seen - FLOOR)
    high = scores.max(axis=-1)
    step = np.where(high > low, high - low, 1.0) / 255
    levels = np.rint((scores - low[..., None]) / step[..., None]).clip(0, 255).astype(np.uint8)
    return levels, np.stack([low, low + 255 * step], axis=-1)


def decode_scores(levels: np.ndarray, ranges: np.ndarray) -> Array:
    """What the page makes of encoded scores."""
    low, high = ranges[..., :1], ranges[..., 1:]
    decoded: Array = low + levels * (high - low) / 255
    return decoded
