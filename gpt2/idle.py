"""When a setting has nothing to do, because of what other settings say.

gpt2/config.py says which setting each of these is of (`idle_if`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gpt2.folds import RA_V5_AT_REST

Identity = Mapping[str, Any]
"""Symbol -> value for every setting that affects a run's numbers; of a choice, its prefix -> the member."""


def autocasts(run: Identity) -> bool:
    """Whether matrix products are not float32, so that TF32 has none to round."""
    return bool(run["DTYPE"] != "float32")


def never_decays(run: Identity) -> bool:
    """Whether no step's learning rate depends on the final one."""
    return not run["DECAY_LR"] or all_warm_up(run)


def all_warm_up(run: Identity) -> bool:
    """Whether the run ends before the learning rate has reached its peak."""
    return bool(run["WARMUP_ITERS"] >= run["MAX_ITERS"])


def gates_held(run: Identity) -> bool:
    """Whether there are gates and none of them learns."""
    learning = ("RA_V5_LEARN_W_STD", "RA_V5_LEARN_W_REC", "RA_V5_D_BIAS")
    return run["ATTENTION"] in ("ra_v5", "ra_mla") and not any(run[symbol] for symbol in learning)


def keys_unmixed(run: Identity) -> bool:
    """Whether keys alone are mixed, by a w_rec that is held at rest: the lerp fold held there is the same."""
    at_rest = not run["RA_V5_LEARN_W_REC"] and run["RA_V5_GATE_INIT"] == RA_V5_AT_REST[run["RA_V5_FOLD"]]
    return run["RA_V5_FOLD"] == "lerp_keys" and bool(at_rest)


def plain_low_slot(run: Identity) -> bool:
    """Whether w_rec is held where the low slot is like the rest of the head, so that its width R is no matter.

    Where w_rec itself is as wide as the slot, R is: checkpoints hold it.
    """
    if run["ATTENTION"] not in ("ra_v5", "ra_mla") or run["RA_V5_LEARN_W_REC"]:
        return False
    if run["RA_V5_FOLD"] in ("lerp_dims", "matrix"):
        return False
    at_rest = run["RA_V5_GATE_INIT"] == RA_V5_AT_REST[run["RA_V5_FOLD"]]
    # Folds of weights, but for the direct one, scale a head by w_std as a whole. Elsewhere the slot is scaled, or
    # rounded, by itself.
    whole = run["ATTENTION"] == "ra_v5" and run["RA_V5_FOLD"] != "direct"
    return bool(at_rest and (whole or not run["RA_V5_LEARN_W_STD"]))
