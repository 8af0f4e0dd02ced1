"""How much of validation is in training too, by samples.

Windows of 32 tokens, spread over the validation tokens, are looked for at every place of the training tokens. The
hash of a window is 16 bits, made for all places at once by doubling (from 1 token to 2, 4, ... 32), and says where to
compare the tokens themselves. A billion training tokens take seconds, once: what was found is remembered.
"""

from __future__ import annotations

import numpy as np

from gpt2.data.token_files import Tokens

LENGTH = 32
"""Tokens of a window: text that is shared by chance is shorter."""

_WINDOWS = 256
_BLOCK = 1 << 20  # training tokens looked at at a time
_BLOCKS = 1 << 10
"""So many blocks are looked at, of more tokens than that a selection spread evenly."""

_FACTORS = (0x9E37, 0x85EB, 0xC2B3, 0x27D5, 0x1657)  # odd, otherwise arbitrary: one a doubling


def share_in_training(train: Tokens, val: Tokens) -> float | None:
    """The share, 0 to 1, of sampled windows of `val` that stand somewhere in `train`; None if either is too short."""
    n = min(_WINDOWS, len(val) - LENGTH + 1)
    if n < 1 or len(train) < LENGTH:
        return None
    starts = np.arange(n) * (len(val) - LENGTH + 1) // n
    windows = np.stack([val.read(int(start), LENGTH, np.uint16) for start in starts])
    sought = dict(zip(map(bytes, windows), _hashes(windows)[:, 0].tolist(), strict=True))
    found: set[bytes] = set()
    is_sought = np.zeros(1 << 16, dtype=bool)
    is_sought[list(sought.values())] = True
    n_blocks = -(-len(train) // _BLOCK)
    for block in np.arange(min(n_blocks, _BLOCKS)) * n_blocks // min(n_blocks, _BLOCKS):
        start = int(block) * _BLOCK
        tokens = train.read(start, min(_BLOCK + LENGTH - 1, len(train) - start), np.uint16)
        if len(tokens) < LENGTH:
            break
        places = np.flatnonzero(is_sought[_hashes(tokens)])
        here = np.lib.stride_tricks.sliding_window_view(tokens, LENGTH)[places]
        new = sought.keys() & set(here.view(f"V{2 * LENGTH}").ravel().tolist())
        if new:
            found |= new
            is_sought[:] = False
            is_sought[[sought[window] for window in sought if window not in found]] = True
            if len(found) == len(sought):
                break
    return sum(bytes(window) in found for window in windows) / n


def _hashes(tokens: np.ndarray) -> np.ndarray:
    """The hash of the window that begins at each place of uint16 [..., n], uint16 [..., n - LENGTH + 1]."""
    hashes, width = tokens, 1
    for factor in _FACTORS:
        hashes = hashes[..., :-width] * np.uint16(factor) + hashes[..., width:]
        hashes ^= hashes >> np.uint16(7)
        width *= 2
    return hashes
