"""What runs logged over training, joined on the step and the seed, never on a line's place in its file.

A file may lack a line that another has. What is averaged, or subtracted, is of one step; and every arm of a figure is
averaged over the same seeds, since a mean that changes its seeds moves where nothing has.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from gpt2 import layers
from gpt2.base.settings import SettingError
from gpt2.model_config import flops_per_token
from harness.evidence.runs import RunRecord
from harness.evidence.store import Arm

Value = TypeVar("Value")

BySeed = Mapping[int, Mapping[int, Value]]
"""Seed -> step -> what was logged there."""


@dataclass(frozen=True, kw_only=True)
class Course:
    """What one arm logged over training, and of which seeds."""

    arm: Arm
    over: tuple[int, ...]
    """The seeds, ascending."""

    steps: tuple[int, ...]
    """[P], at which all of them logged it, ascending."""


@dataclass(frozen=True, kw_only=True)
class Curves(Course):
    """One quantity of one arm over training, its seeds on a common axis."""

    x: NDArray[np.float64]
    """[P], mean over the seeds."""

    seeds: NDArray[np.float64]
    """[seeds, P]"""

    @property
    def mean(self) -> NDArray[np.float64]:
        return self.seeds.mean(axis=0)

    def scaled(self, scale: float) -> Curves:
        """With x divided by `scale`."""
        return replace(self, x=self.x / scale)


def by_step(run: RunRecord, kind: str, *keys: str) -> dict[int, tuple[float, ...]]:
    """Step -> `keys` of the line of a kind there, where all of them are finite."""
    columns = [dict(zip(*run.series(kind, "step", key), strict=True)) for key in keys]
    return {int(step): tuple(c[step] for c in columns) for step in columns[0] if all(step in c for c in columns)}


def drawn(arm: Arm) -> list[RunRecord]:
    """The runs whose course is drawn: the finished ones. Where there are none, what is on its way."""
    return arm.done or [run for run in arm.runs if run.status != "failed"]


def shared_seeds(arms: Sequence[BySeed[Value]]) -> tuple[int, ...]:
    """The seeds that all arms have, ascending; none where the arms have no seed in common."""
    return tuple(sorted(set.intersection(*(set(arm) for arm in arms)))) if arms else ()


def shared_steps(runs: Sequence[Mapping[int, Value]]) -> tuple[int, ...]:
    """The steps that all runs have, ascending."""
    return tuple(sorted(set.intersection(*(set(run) for run in runs)))) if runs else ()


def of_seeds(runs: BySeed[Value], seeds: Sequence[int]) -> tuple[int, ...]:
    """`seeds`, or an arm's own where there are none that it shares with the others."""
    return tuple(seeds) or tuple(sorted(runs))


def loss_curves(arms: Sequence[Arm], x: str) -> list[Curves]:
    """The evaluations of each arm against `tokens` or `time_s`, over the seeds that all of them have."""
    return logged_curves(arms, "eval", x, "val_loss")


def loss_against_flop(arms: Sequence[Arm]) -> list[Curves]:
    """The evaluations of each arm against the floating-point operations of its training steps so far.

    Without the arms whose runs do not say how large their model is: none of them has ended.
    """
    curves = ((c, flops_per_token_of(c.arm)) for c in loss_curves(arms, "tokens"))
    return [c.scaled(1 / flops) for c, flops in curves if flops is not None]


def flops_per_token_of(arm: Arm) -> int | None:
    """Floating-point operations per training token, by an arm's records; None before one of its runs has said."""
    said = (run.value("flops_per_token") or _flops_of_earlier(run) for run in arm.runs)
    return next((int(flops) for flops in said if flops), None)


def _flops_of_earlier(run: RunRecord) -> int | None:
    """The same of a run of a version that recorded its settings alone, as `GPT.flops_per_token` was then."""
    params, identity = run.value("params"), (run.provenance or {}).get("identity", {})
    shape = {name: identity.get(name.upper()) for name in ("n_layer", "n_embd", "block_size")}
    if params is None or not all(isinstance(size, int) for size in shape.values()):
        return None
    T = shape["block_size"]
    window, windowed = min(identity.get("SLIDING_WINDOW_SIZE", T), T), shape["n_layer"]
    if placed := identity.get(layers.SYMBOL):
        try:
            windowed = len(layers.parse_layers(str(placed), windowed))
        except SettingError:  # no layers of this model: a record that says nothing of its operations
            return None
    positions = windowed * window + (shape["n_layer"] - windowed) * T
    return flops_per_token(int(params), n_embd=shape["n_embd"], block_size=T, positions=positions)


def logged_curves(arms: Sequence[Arm], kind: str, x: str, y: str) -> list[Curves]:
    """What lines of a kind say of each arm, `y` against `x`, over the seeds that all arms have.

    Runs that never got past the first such line are left out, and arms without another.
    """
    logged = {}
    for arm in arms:
        runs = {run.seed: by_step(run, kind, x, y) for run in drawn(arm)}
        if runs := {seed: points for seed, points in runs.items() if len(points) > 1}:
            logged[arm.step] = runs
    shared = shared_seeds(list(logged.values()))
    curves = [_curves(arm, logged[arm.step], of_seeds(logged[arm.step], shared)) for arm in arms if arm.step in logged]
    return [c for c in curves if len(c.steps) > 1]


def _curves(arm: Arm, runs: BySeed[tuple[float, ...]], over: tuple[int, ...]) -> Curves:
    steps = shared_steps([runs[seed] for seed in over])
    points = np.array([[runs[seed][step] for step in steps] for seed in over]).reshape(len(over), len(steps), 2)
    return Curves(arm=arm, over=over, steps=steps, x=points[..., 0].mean(axis=0), seeds=points[..., 1])


def difference(curves: Curves, reference: Curves) -> Curves | None:
    """`curves` minus `reference` of the same seed and step, where both have them; None for fewer than two steps."""
    over = [seed for seed in curves.over if seed in reference.over]
    steps = [step for step in curves.steps if step in reference.steps]
    if not over or len(steps) < 2:
        return None

    def at(of: Curves) -> NDArray[np.float64]:
        return of.seeds[np.ix_([of.over.index(seed) for seed in over], [of.steps.index(step) for step in steps])]

    return Curves(
        arm=curves.arm,
        over=tuple(over),
        steps=tuple(steps),
        x=curves.x[[curves.steps.index(step) for step in steps]],
        seeds=at(curves) - at(reference),
    )


def averaged_over(courses: Sequence[Course]) -> str:
    """A sentence for the caption: which seeds the means are over."""
    if len({c.over for c in courses}) == 1:
        return f"Means are over {_seeds(courses[0].over)}, which all arms shown have."
    each = "; ".join(f"{c.arm.title}: {_seeds(c.over)}" for c in courses)
    return f"No seed is in all arms shown, and means are over each arm's own: {each}."


def _seeds(seeds: Sequence[int]) -> str:
    return f"seed{'s' * (len(seeds) > 1)} {', '.join(map(str, seeds))}"
