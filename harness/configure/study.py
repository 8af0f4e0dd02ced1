"""What makes an ablation a study: other lengths, reruns, looks, tuning, sizes. Checked before anything runs."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from gpt2.base.errors import UserError
from gpt2.base.settings import check, number
from gpt2.symbols import Symbols
from harness.configure.kconfig import Size
from harness.configure.lists import parse_lengths, parse_seeds, parse_sizes, parse_sweep

Sweep = tuple[tuple[str, tuple[str, ...]], ...]
"""Symbols, and the values of each to try."""


@dataclass(frozen=True, kw_only=True)
class StudyConfig:
    """What is asked besides arms and seeds. docs/evidence.md says what each is for."""

    question: str
    """One sentence; empty where none was given."""

    margin: float
    """A share of compute, 0.01 for 1 %, below which a difference is too small to matter."""

    lengths: tuple[float, ...]
    """Other lengths of what arms are compared with, as shares of MAX_ITERS."""

    reruns: int
    """Times that the runs of what arms are compared with are repeated."""

    gate_noise: int
    """Seeds with which arms whose gates learn are also trained on random tokens."""

    looks: int
    """Planned looks at the results."""

    tune: Sweep
    """What is tuned for each arm, with the values to try."""

    tune_seeds: tuple[int, ...]
    """Seeds of the trials; none where nothing is tuned."""

    sizes: tuple[Size, ...]
    """Sizes at which all arms are trained; none where there is one alone, the configuration's own."""


def study_config(symbols: Symbols, seeds: Iterable[int], sweep: Sweep) -> StudyConfig:
    """The typed study settings. Raises UserError, naming the symbol, the value and what would be right.

    seeds, sweep: the ablation's, with which a study must not overlap.
    """
    tune = parse_sweep("STUDY_TUNE", str(symbols["STUDY_TUNE"]))
    lengths = str(symbols["STUDY_LENGTHS"])
    names = str(symbols["ABLATION_SIZES"])
    trials = str(symbols["STUDY_TUNE_SEEDS"])
    study = StudyConfig(
        question=str(symbols["STUDY_QUESTION"]).strip(),
        margin=_margin(symbols),
        lengths=parse_lengths(f'STUDY_LENGTHS="{lengths}"', lengths),
        reruns=int(symbols["STUDY_RERUNS"]),
        gate_noise=int(symbols["STUDY_GATE_NOISE"]),
        looks=int(symbols["STUDY_LOOKS"]),
        tune=tune,
        tune_seeds=parse_seeds(f'STUDY_TUNE_SEEDS="{trials}"', trials) if tune else (),
        sizes=parse_sizes(f'ABLATION_SIZES="{names}"', names),
    )
    seeds = tuple(seeds)
    swept = {symbol for symbol, _ in sweep}
    if twice := sorted(swept & {symbol for symbol, _ in tune}):
        raise UserError(
            f'STUDY_TUNE="{symbols["STUDY_TUNE"]}": {twice[0]} is swept already: it is the one or the other'
        )
    if study.lengths and "MAX_ITERS" in swept:
        raise UserError(f'STUDY_LENGTHS="{lengths}": MAX_ITERS is swept already: leave one of them out')
    if study.looks > len(seeds):
        raise UserError(f"STUDY_LOOKS={study.looks}: is more than there are seeds, {len(seeds)}")
    return study


def _margin(symbols: Symbols) -> float:
    percent = number("STUDY_MARGIN", symbols["STUDY_MARGIN"])
    check(0 < percent < 100, "STUDY_MARGIN", percent, "must be above 0 and below 100, per cent of compute")
    return percent / 100
