"""What a configuration says of an ablation: its steps, seeds, what is swept and tuned. Checked before anything runs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from gpt2.base.errors import UserError
from gpt2.symbols import Symbols
from harness.configure.arms import refuse_sweep
from harness.configure.directories import experiment_directory
from harness.configure.kconfig import Step
from harness.configure.lists import parse_seeds, parse_steps, parse_sweep
from harness.configure.study import StudyConfig, Sweep, study_config


@dataclass(frozen=True, kw_only=True)
class AblationConfig:
    """Which runs a configuration asks for."""

    steps: tuple[Step, ...]
    """Ablation steps in the order given; none outside ablation mode, where the configuration itself is run."""

    seeds: tuple[int, ...]
    """Seeds; every step is run with each."""

    sweep: Sweep
    """Symbols and the values to try, every combination of them."""

    study: StudyConfig
    """What else a study asks for."""

    directory: Path
    """The experiment's: <RESULTS_DIR>/<MODEL_NAME>."""


def ablation_config(symbols: Symbols) -> AblationConfig:
    """The typed ablation settings. Raises UserError, naming the symbol, the value and what would be right."""
    steps: tuple[Step, ...] = ()
    if symbols["RA_MLA_ABLATION_MODE"]:
        text = str(symbols["RA_MLA_ABLATION_STEPS"])
        steps = parse_steps(f'RA_MLA_ABLATION_STEPS="{text}"', text)
    seeds = str(symbols["ABLATION_SEEDS"])
    sweep = parse_sweep("ABLATION_SWEEP", str(symbols["ABLATION_SWEEP"]))
    of_seeds = parse_seeds(f'ABLATION_SEEDS="{seeds}"', seeds)
    study = study_config(symbols, of_seeds, sweep)
    of_steps = [(symbol, (value,)) for step in steps for symbol, value in step.settings]
    for setting, asked in (("ABLATION_SWEEP", sweep), ("STUDY_TUNE", study.tune), ("RA_MLA_ABLATION_STEPS", of_steps)):
        for symbol, values in asked:
            refuse_sweep(setting, symbol, values)
    varied = {symbol: "swept" for symbol, _ in sweep} | {symbol: "tuned" for symbol, _ in study.tune}
    varied |= {"MAX_ITERS": "varied by STUDY_LENGTHS"} if study.lengths else {}
    for symbol, (value,) in of_steps:
        if symbol in varied:
            already = f"{symbol} is {varied[symbol]} already"
            raise UserError(f"RA_MLA_ABLATION_STEPS: @{symbol}={value}: {already}: it is the one or the other")
        if symbol == "MAX_ITERS":  # its name would be that of one of STUDY_LENGTHS, on which there is no verdict
            raise UserError(
                f"RA_MLA_ABLATION_STEPS: @{symbol}={value}: another length of an arm is no arm: STUDY_LENGTHS asks for "
                "lengths, as shares of MAX_ITERS"
            )
    return AblationConfig(
        steps=steps,
        seeds=of_seeds,
        sweep=sweep,
        study=study,
        directory=experiment_directory(symbols),
    )
