"""Level and power of the rules by which verdicts are given, by simulation: nothing is trained.

    for found in simulate(draws=20_000, seed=1):
        print(found.rule, found.case, found.value)

Losses are drawn as normal: what a seed adds to all arms, and noise of one standard deviation per run. The unit is the
standard deviation of a paired difference, unless nats are said; those are of docs/evidence.md's measurements. What is
offered is drawn beside what is not: adding seeds until something is significant, and costs in a fixed order. The
formulas are those of harness/evidence, over [draws, ..] at once (`tests/harness/measure/test_rules.py` compares).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from harness.evidence.looks import look_sizes, nominal_levels, overall_p
from harness.evidence.paired import ALPHA, MIN_SEEDS
from harness.evidence.pooled import cochran, residuals
from harness.evidence.tuning import Tried, best_of
from harness.evidence.verdicts import COST_MARGIN, MARGIN

Array = NDArray[np.float64]
Flags = NDArray[np.bool_]

ARMS = 8
"""Beside their reference, in experiments of several."""

EFFECT = 1.74
"""Of an arm, where power is asked for; in standard deviations of a difference."""

SLOPES = {"after 16 M tokens": 0.67, "after 2 B tokens": 0.15}
"""Nats per e-fold of compute."""

RUN_SD = 0.0041
"""Of a run's loss about what its seed adds, in nats: 0.0055 over seeds, of which 0.45 is shared."""

LENGTHS = np.log([0.8, 1.0, 1.25])

RATES = 3
"""Settings that are tried to tune an arm, each worth a margin less than the best of them, unless said otherwise."""

DRIFT, COST_SD = 0.003, 0.001
"""How much slower a machine gets with each run, and a run's own noise: shares of a time."""


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One number of the simulation."""

    rule: str
    case: str
    seeds: str
    what: str
    """ "false verdicts", "power", ..: what `value` is the share of, or the mean."""

    value: float


def table_row(finding: Finding) -> list[str]:
    """Its cells in a table: of shares per cent."""
    value = f"{finding.value:.2f}" if finding.what == "seeds used" else f"{100 * finding.value:.1f} %"
    return [finding.rule, finding.case, finding.seeds, finding.what, value]


class Simulation:
    """Draws of experiments, and what rules say of them."""

    def __init__(self, draws: int, seed: int) -> None:
        self.draws = draws
        self.rng = np.random.default_rng(seed)

    def losses(self, arms: int, seeds: int, *, effect: float = 0.0, noisy: float = 1.0) -> Array:
        """[draws, 1 + arms, seeds], the reference first; the last arm has an effect, and noise of its own."""
        losses = self.rng.normal(0, math.sqrt(0.5), (self.draws, 1 + arms, seeds))
        losses[:, -1] = effect + noisy * losses[:, -1]
        return losses + self.rng.normal(0, 1, (self.draws, 1, seeds))

    def found(self, rule: str, case: str, seeds: object, what: str, of: Any) -> Finding:
        """`of`: [draws], of which the value is the mean."""
        return Finding(rule=rule, case=case, seeds=str(seeds), what=what, value=float(np.mean(of)))


def simulate(draws: int, seed: int) -> Iterator[Finding]:
    """All rules; a quarter of a minute for 20,000 draws."""
    for rule in RULES:
        yield from rule(Simulation(draws, seed))


# Formulas


def paired_p(deltas: Array) -> Array:
    """[.., seeds] -> [..], p of the paired t-test (`paired_test`)."""
    n = deltas.shape[-1]
    t = np.abs(deltas.mean(-1)) / (deltas.std(-1, ddof=1) / math.sqrt(n))
    p: Array = 2 * stats.t.sf(t, n - 1)
    return p


def pooled_p(losses: Array) -> Array:
    """[.., arms, seeds], the reference first -> [.., arms - 1], p by the error of all (`pooled_test`)."""
    arms, seeds = losses.shape[-2:]
    df = (arms - 1) * (seeds - 1)
    error = np.sqrt(2 / seeds * (residuals(losses) ** 2).sum((-2, -1)) / df)
    deltas = (losses[..., 1:, :] - losses[..., :1, :]).mean(-1)
    p: Array = 2 * stats.t.sf(np.abs(deltas) / error[..., None], df)
    return p


def holm_p(p_values: Array) -> Array:
    """[.., arms] -> the same, adjusted (`holm`)."""
    order = np.argsort(p_values, axis=-1)
    arms = p_values.shape[-1]
    ranked = np.take_along_axis(p_values, order, -1) * np.arange(arms, 0, -1)
    adjusted = np.empty_like(p_values)
    np.put_along_axis(adjusted, order, np.minimum(1, np.maximum.accumulate(ranked, -1)), -1)
    return adjusted


def ratio_interval(deltas: Array, slopes: Array, alpha: float = ALPHA) -> tuple[Array, Array]:
    """[draws, n], [draws, m], the first m seeds being the same -> Fieller's bounds of mean delta over mean slope, both
    infinite where the set has no end (`compute_effect`)."""
    n, m = deltas.shape[-1], slopes.shape[-1]
    critical = stats.t.isf(alpha / 2, min(n, m) - 1) ** 2
    d, b = deltas.mean(-1), slopes.mean(-1)
    dd, bb = deltas.var(-1, ddof=1), slopes.var(-1, ddof=1)
    shared = deltas[..., :m] - deltas[..., :m].mean(-1, keepdims=True), slopes - b[..., None]
    correlation = (shared[0] * shared[1]).sum(-1) / np.sqrt((shared[0] ** 2).sum(-1) * (shared[1] ** 2).sum(-1))
    square = b**2 - critical * bb / m
    half = d * b - critical * correlation * np.sqrt(dd * bb) / n
    root = np.sqrt(np.maximum(0, half**2 - square * (d**2 - critical * dd / n)))
    with np.errstate(divide="ignore", invalid="ignore"):
        low, high = (half - root) / square, (half + root) / square
    is_open = (square <= 0) | (b <= 0)
    return np.where(is_open, -np.inf, low), np.where(is_open, np.inf, high)


def look_p(p_values: Array, sizes: tuple[int, ...], look: int) -> Array:
    """`overall_p` of many p-values, by interpolation on its logarithm."""
    if len(sizes) == 1:
        return p_values
    z = np.linspace(0, 12, 300)
    worth = [overall_p(float(p), sizes, look) for p in 2 * stats.norm.sf(z)]
    found: Array = np.exp(np.interp(stats.norm.isf(np.maximum(p_values, 1e-30) / 2), z, np.log(worth)))
    return found


# Rules


def _paired(s: Simulation) -> Iterator[Finding]:
    for n in (3, 5, 8):
        for effect, what in ((0.0, "false verdicts"), (EFFECT, "power")):
            losses = s.losses(1, n, effect=effect)
            yield s.found("paired t", _case(effect), n, what, paired_p(losses[:, 1] - losses[:, 0]) < ALPHA)


def _several(s: Simulation) -> Iterator[Finding]:
    """Any of eight arms; and the one that has an effect, by the paired t and by the pooled error."""
    for n in (3, 5):
        null, with_effect = s.losses(ARMS, n), s.losses(ARMS, n, effect=EFFECT)
        by: dict[str, Callable[[Array], Array]] = {
            "paired t": lambda losses: paired_p(losses[:, 1:] - losses[:, :1]),
            "pooled error": pooled_p,
        }
        for name, p_of in by.items():
            p = p_of(null)
            yield s.found(f"{name}, 8 arms", "uncorrected, nothing there", n, "any false verdict", (p < ALPHA).any(-1))
            yield s.found(f"{name}, 8 arms", "Holm, nothing there", n, "any false verdict", (holm_p(p) < ALPHA).any(-1))
            p = p_of(with_effect)[:, -1]
            yield s.found(f"{name}, 8 arms", f"uncorrected, {_case(EFFECT)}", n, "power", p < ALPHA)
            p = holm_p(p_of(with_effect))[:, -1]
            yield s.found(f"{name}, 8 arms", f"Holm, {_case(EFFECT)}", n, "power", p < ALPHA)


def _unequal(s: Simulation) -> Iterator[Finding]:
    """One arm is three times as noisy as the rest, and no better."""
    for n in (3, 5, 8):
        losses = s.losses(ARMS, n, noisy=3.0)
        case = "one is 3 x as noisy"
        yield s.found("paired t", case, n, "false verdicts", paired_p(losses[:, -1] - losses[:, 0]) < ALPHA)
        p, share = pooled_p(losses)[:, -1], cochran(losses)
        unequal = share > np.quantile(cochran(s.losses(ARMS, n)), 1 - ALPHA)
        yield s.found("pooled error, 8 arms", case, n, "false verdicts", p < ALPHA)
        yield s.found("equal variances, Cochran", case, n, "found unequal", unequal)
        yield s.found(
            "pooled error, 8 arms", "the same, and not found unequal", n, "false verdicts", (p < ALPHA) & ~unequal
        )
        again = cochran(s.losses(ARMS, n)) > np.quantile(cochran(s.losses(ARMS, n)), 1 - ALPHA)
        yield s.found("equal variances, Cochran", "equally noisy", n, "found unequal", again)


def _effects(s: Simulation) -> Iterator[Finding]:
    """The true effect in compute within its interval; and "equivalent" at the margin and at nothing."""
    for name, slope in SLOPES.items():
        for n, m in ((3, 3), (5, 5), (8, 8), (8, 3), (16, 16)):
            seeds = f"{n}, lengths {m}" if m < n else str(n)
            for effect in (0.0, MARGIN, 0.3):
                low, high = ratio_interval(*_with_lengths(s, slope, effect, n, m))
                truth = -math.log1p(effect)
                case = f"{name}, worth {effect:.0%}"
                yield s.found("Fieller", case, seeds, "coverage", (low <= truth) & (truth <= high))
                within = _within_margin(low, high)
                if effect <= MARGIN:
                    what = "false verdicts" if effect else "power"
                    yield s.found("equivalent", f"{case}, margin {MARGIN:.0%}", seeds, what, within)


def _equivalent_at_looks(s: Simulation) -> Iterator[Finding]:
    """ "equivalent" at one of two looks, by their repeated intervals."""
    sizes = look_sizes(16, 2)
    for effect, what in ((0.0, "power"), (MARGIN, "false verdicts")):
        name, slope = next(iter(SLOPES.items()))
        deltas, slopes = _with_lengths(s, slope, effect, sizes[-1], sizes[-1])
        levels = zip(sizes, nominal_levels(sizes), strict=True)
        ever = [_within_margin(*ratio_interval(deltas[:, :n], slopes[:, :n], level)) for n, level in levels]
        case = f"{name}, worth {effect:.0%}, margin {MARGIN:.0%}"
        yield s.found("equivalent, 2 looks", case, sizes[-1], what, np.any(ever, axis=0))


def _within_margin(low: Array, high: Array) -> Flags:
    """Bounds of d / b -> whether compute is within the margin at both."""
    within: Flags = (-math.log1p(MARGIN) <= low) & (high <= -math.log1p(-MARGIN))
    return within


def _with_lengths(s: Simulation, slope: float, effect: float, n: int, m: int) -> tuple[Array, Array]:
    """[draws, n] differences and [draws, m] slopes, in nats; the reference's own run is in both."""
    reference = s.rng.normal(0, RUN_SD, (s.draws, n, 3)) - slope * LENGTHS
    arm = s.rng.normal(-slope * math.log1p(effect), RUN_SD, (s.draws, n))
    centred = LENGTHS - LENGTHS.mean()
    return arm - reference[..., 1], -(reference[:, :m] @ centred) / (centred**2).sum()


def _looks(s: Simulation) -> Iterator[Finding]:
    """Planned looks, each with its seeds, by one arm; and by eight with Holm's adjustment."""
    for seeds in (8, 12):
        for looks in (1, 2, 4):
            sizes = look_sizes(seeds, looks)
            rule = f"{looks} look{'s' * (looks > 1)}"
            for effect, what in ((0.0, "false verdicts"), (1.0, "power")):
                losses = s.losses(1, seeds, effect=effect)
                shown, used = _first_shown(losses[:, 1:] - losses[:, :1], sizes)
                yield s.found(rule, _case(effect), seeds, what, shown[:, 0])
                yield s.found(rule, _case(effect), seeds, "seeds used", used)
            losses = s.losses(ARMS, seeds)
            shown, _ = _first_shown(losses[:, 1:] - losses[:, :1], sizes)
            yield s.found(f"{rule}, Holm, 8 arms", "nothing there", seeds, "any false verdict", shown.any(-1))


def _first_shown(deltas: Array, sizes: tuple[int, ...]) -> tuple[Flags, Array]:
    """[draws, arms, seeds] -> whether each arm is shown at one of the looks, and the seeds when the first was. A
    verdict stays, and counts as it was in later adjustments."""
    p = np.ones(deltas.shape[:-1])
    shown = np.zeros(deltas.shape[:-1], bool)
    used = np.full(len(deltas), float(sizes[-1]))
    for look, n in enumerate(sizes, start=1):
        p = np.where(shown, p, look_p(paired_p(deltas[..., :n]), sizes, look))
        now = holm_p(p) < ALPHA
        used = np.where(now.any(-1) & ~shown.any(-1), n, used)
        shown |= now
    return shown, used


def _peeking(s: Simulation) -> Iterator[Finding]:
    """Seeds are added one at a time until p < 0.05, or there is no more money; and what the report then says."""
    for most in (5, 8, 20):
        losses = s.losses(1, most)
        deltas = losses[:, 1] - losses[:, 0]
        ever = np.any([paired_p(deltas[:, :n]) < ALPHA for n in range(MIN_SEEDS, most + 1)], axis=0)
        case = "nothing there"
        yield s.found("adding seeds until significant", case, f"3 to {most}", "false verdicts", ever)
        first = paired_p(deltas[:, :MIN_SEEDS]) < ALPHA
        yield s.found("the same, registered and amended", case, f"3 to {most}", "false verdicts", first)
    # Three seeds an amendment, each row corrected for those before it.
    losses = s.losses(1, 12)
    p = np.stack([paired_p((losses[:, 1] - losses[:, 0])[:, at : at + 3]) for at in (0, 3, 6, 9)], -1)
    any_row = np.any([holm_p(p[:, : k + 1])[:, k] < ALPHA for k in range(4)], axis=0)
    yield s.found("three amendments of 3 seeds", "nothing there", "3 to 12", "false verdict in any row", any_row)


def _survivors(s: Simulation) -> Iterator[Finding]:
    """An arm fails on the two of five seeds that it would have done worst on, and is no better."""
    losses = s.losses(1, 5)
    deltas = np.sort(losses[:, 1] - losses[:, 0], axis=-1)[:, :3]
    better = (paired_p(deltas) < ALPHA) & (deltas.mean(-1) < 0)
    yield s.found("survivors judged alone", "fails on its worst 2 of 5", 5, "false verdicts of better", better)


def _costs(s: Simulation) -> Iterator[Finding]:
    """Equally fast arms on a machine that gets slower, in one order for all seeds and in one drawn per seed."""
    runs = 1 + ARMS
    for n in (3, 5):
        at = np.broadcast_to(np.arange(runs), (s.draws, n, runs))
        for case, places in (("in a fixed order", at), ("in an order drawn per seed", s.rng.permuted(at, axis=-1))):
            since = places + runs * np.arange(n)[:, None]
            times = (1 + DRIFT * since) * (1 + s.rng.normal(0, COST_SD, since.shape))
            deltas = np.moveaxis(times[..., 1:] - times[..., :1], 1, -1)
            mean = deltas.mean(-1)
            half = stats.t.isf(ALPHA / 2, n - 1) * deltas.std(-1, ddof=1) / math.sqrt(n)
            margin = COST_MARGIN * times[..., 0].mean(-1)[:, None]
            equivalent = (-margin <= mean - half) & (mean + half <= margin)
            false = (holm_p(paired_p(deltas)) < ALPHA) & ~equivalent
            yield s.found(f"costs {case}", f"8 arms, drift of {DRIFT:.1%} a run", n, "false verdicts", false)


def _tuning(s: Simulation) -> Iterator[Finding]:
    """An arm that is its reference by another route, tuned apart and beside it, and one that another setting suits."""
    flat = SLOPES["after 16 M tokens"] * math.log1p(MARGIN) * np.array([1.0, 0.0, 1.0])
    far = SLOPES["after 16 M tokens"] * math.log1p(0.03) * np.array([2.0, 1.0, 0.0])
    edge = np.array([1.0, 1.0, 8.0])  # as losses spread at 1e-3 and at 2.8e-3 in results/h100/gpt2-ra-v5-study
    for case, of_arm, noisy, what in (
        ("nothing there, rates 1% apart", flat, 1.0, "another rate than its reference's"),
        ("the same, the highest rate 8 times as noisy", flat, edge, "another rate than its reference's"),
        ("another rate better by 3%", far, 1.0, "that rate"),
        ("the same, the lowest rate 8 times as noisy", far, edge[::-1], "that rate"),
    ):
        for n in (2, 4):
            trials = s.rng.normal(0, RUN_SD, (2, s.draws, RATES, n)) * np.reshape(noisy, (-1, 1))
            reference = [_best(losses) for losses in flat[:, None] + trials[0]]
            arm = of_arm[:, None] + trials[1]
            apart = [_best(losses) for losses in arm]
            beside = [_best(losses, kept) for losses, kept in zip(arm, reference, strict=True)]
            for rule, chosen in (("each arm its lowest loss", apart), ("its reference's unless better", beside)):
                found = np.equal(chosen, 2) if of_arm is far else np.not_equal(chosen, reference)
                yield s.found(f"tuning: {rule}", case, n, what, found)


def _best(losses: Array, kept: int | None = None) -> int:
    """[RATES, seeds] -> which of them is chosen, beside a reference that has `kept`."""
    tried = [Tried(arm=str(i), settings={"rate": str(i)}, losses=tuple(of)) for i, of in enumerate(losses)]
    best = best_of(tried, {} if kept is None else {"rate": str(kept)})
    assert best is not None
    return int(best.arm)


def _case(effect: float) -> str:
    return f"effect of {effect:g} sd" if effect else "nothing there"


RULES: tuple[Callable[[Simulation], Iterator[Finding]], ...] = (
    *(_paired, _several, _unequal, _effects, _equivalent_at_looks, _looks, _peeking, _survivors, _costs, _tuning),
)
"""What is simulated, each from the same seed."""
