"""Where an experiment and its runs lie, <RESULTS_DIR>/<MODEL_NAME>/<step>/seed-<seed>/, and which one is meant."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from gpt2.base.errors import UserError
from gpt2.base.files import write_text
from gpt2.base.settings import check_path
from gpt2.symbols import Symbols
from harness.configure.kconfig import command_line_assignments, load_dotconfig, named_experiment, overlay

LAST_EXPERIMENT = Path(".last-experiment")
"""Holds the directory of the experiment that `make` ran last."""


def run_directory(results_dir: Path, model_name: str, step: str, seed: int) -> Path:
    """Where a run lives."""
    return results_dir / model_name / step / seed_directory(seed)


def seed_directory(seed: int) -> str:
    """Name of the directory of an arm's run."""
    return f"seed-{seed}"


def configured_experiment(environ: Mapping[str, str] = os.environ) -> Path:
    """The directory of the experiment that make's RESULTS names, or `.config` and the settings of make's command line.

    Raises UserError, also for settings of the command line that name no experiment.
    """
    if named := named_experiment(environ):
        return named
    settings = command_line_assignments(environ)
    if others := [a.symbol for a in settings if a.symbol not in ("RESULTS_DIR", "MODEL_NAME")]:
        raise UserError(
            f"command line: {', '.join(others)}: what is already trained is only read here: "
            "RESULTS_DIR and MODEL_NAME say where it is"
        )
    return experiment_directory(overlay(load_dotconfig(), settings).symbols)


def remember_experiment(directory: Path) -> None:
    """Note down that this experiment is the last one, for `make continue`."""
    write_text(LAST_EXPERIMENT, f"{directory}\n")


def last_experiment() -> Path:
    """The directory of the experiment that was run last. UserError if there is none."""
    try:
        name = LAST_EXPERIMENT.read_text(encoding="utf-8").strip()
    except FileNotFoundError:
        raise UserError("there is nothing to continue: `make` starts an ablation") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{LAST_EXPERIMENT}: cannot be read: {error}") from None
    if not name:
        raise UserError(f"{LAST_EXPERIMENT}: is empty, and should name the last experiment's directory: run `make`")
    return Path(name)


def experiment_directory(symbols: Symbols) -> Path:
    """<RESULTS_DIR>/<MODEL_NAME>."""
    results = str(symbols["RESULTS_DIR"])
    check_path("RESULTS_DIR", results)
    return Path(results, str(symbols["MODEL_NAME"]))
