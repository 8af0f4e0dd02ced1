"""The folds of RA v5 by name. What each computes is in gpt2/attention/ra_ultimate_v5.py."""

from __future__ import annotations

RA_V5_AT_REST = {"lerp": 0.0, "direct": 1.0, "lerp_dims": 0.0, "lerp_keys": 0.0, "matrix": 0.0}
"""Each fold, and the w_rec at which it is the baseline on the same rows; docs/ra-v5.md."""
