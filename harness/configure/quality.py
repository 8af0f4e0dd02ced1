"""The runs of the RA v5 plan's quick quality test: a variant and its reference by seed, and its gates on noise."""

from __future__ import annotations

from collections.abc import Sequence

from gpt2.assignments import Assignment
from gpt2.config import GPTConfig
from gpt2.dotconfig import Resolved
from harness.configure.arms import references_of
from harness.configure.kconfig import find_step, overlay
from harness.configure.plan import Plan, make_plan

STEPS = {"baseline": "baseline", "ra_v5": "ra-v5-eager", "ra_mla": "ra-mla", "mla": "mla"}
"""Ablation step that trains a model, by the model's name."""

_NO_STUDY = {
    **{"ABLATION_SIZES": "", "STUDY_TUNE": "", "STUDY_LENGTHS": "", "STUDY_RERUNS": "0", "STUDY_LOOKS": "1"},
    "STUDY_GATE_NOISE": "0",
}
"""A pair alone, of a configuration that asks for more."""

_ALL_ON_NOISE = {"STUDY_GATE_NOISE": "100"}
"""All of its seeds, as many as a study may have there."""


def reference_step(model: str) -> str | None:
    """The step that a model is compared with, or None."""
    return next(iter(references_of(find_step(STEPS[model]).name)), None)


def plan_quality(base: Resolved, model: str, overrides: Sequence[Assignment]) -> Plan:
    """The runs of a test: a model and its reference over the seeds of `base`, with `overrides` on top.

    Unless they name it, the experiment is quality-<model>-R<R>-<steps>, without R where the model has none. Raises
    UserError where they do not fit.
    """
    steps = ",".join(filter(None, [reference_step(model), STEPS[model]]))
    pair = {"RA_MLA_ABLATION_MODE": "y", "RA_MLA_ABLATION_STEPS": steps, "ABLATION_SWEEP": "", **_NO_STUDY}
    resolved = overlay(base, overrides, _assignments(pair))
    if not any(a.symbol == "MODEL_NAME" for a in overrides):
        R = f"-R{resolved.symbols['RA_V5_R']}" if model.startswith("ra") else ""
        resolved = overlay(
            resolved, _assignments({"MODEL_NAME": f"quality-{model}{R}-{resolved.symbols['MAX_ITERS']}"})
        )
    if _judges_gates(overlay(resolved, find_step(STEPS[model]).assignments()).run_config().model):
        resolved = overlay(resolved, _assignments(_ALL_ON_NOISE))
    return make_plan(resolved, [*resolved.minimal(), *overrides])


def _judges_gates(model: GPTConfig) -> bool:
    """Whether a run of this model has a w_rec to be judged: one number per head, that learns, and from 0."""
    folds = ("lerp", "lerp_keys")
    return model.attention in ("ra_v5", "ra_mla") and model.ra_v5_learn_w_rec and model.ra_v5_fold in folds


def _assignments(settings: dict[str, str]) -> list[Assignment]:
    return [Assignment(symbol, value, "quick quality test") for symbol, value in settings.items()]
