"""How far Adam's noise moves gates: the same arm, trained on tokens in which there is nothing to learn.

Adam divides each gradient by its own size, so that a gate whose gradient says nothing walks about as fast as one that
learns, at ten times the learning rate of the weights where RA_V5_GATE_LR_MULT says so. That some gate is far from where
it started is no evidence. What is, is that gates end higher than those of the same arm, trained for as many steps from
the same weights on uniform random tokens of the same vocabulary: the experiment `noise/` below the one that is judged.

    superiority(real, noise)

is the probability that a head's gate is above that of a head trained on noise, 1/2 where nothing has been learned
(Mann and Whitney 1947), with an interval that takes a run, not a head, for what is repeated, since the heads of a run
share its loss: the variance is that of the runs' mean placements on both sides, the degrees of freedom are
Satterthwaite's, as in Brunner and Munzel (2000), Biometrical Journal 42, 17, and it is never taken for less than it
would be if all heads were independent, (1/N + 1/M) / 12. Simulated with nothing to be found, 4 to 48 heads and 3 to 10
runs, the whole interval was above 1/2 in 0.2 to 2.5 % where gates of a run had a correlation up to 0.1, and in 2 to 4 %
where it was 0.5.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy import stats

from gpt2.base.errors import UserError
from gpt2.base.files import make_directory
from gpt2.config import RunConfig, TrainConfig
from gpt2.data.token_files import write_random_tokens
from gpt2.dotconfig import Assignment, resolve
from harness.configure.plan import Plan, make_plan
from harness.evidence.store import Experiment, load_experiment, run_directories

NOISE = "noise"
"""Name of the experiment, below the one that is judged, whose runs were trained on random tokens."""

MOST_TOKENS = 1 << 27
"""Of random training tokens, 256 MiB. Below that each is drawn about once, and nothing can be learned by heart."""

_DATA = ("DATASET_", "TOKENIZER_", "VOCAB_SIZE")


def plan_noise(plan: Plan, step: str) -> Plan:
    """The runs of a step of an experiment, over the same seeds, on random tokens of its vocabulary.

    The tokens are written by `write_noise`.
    """
    config = next(run.config for run in plan.runs if run.step == step)
    settings = {
        **{"RESULTS_DIR": str(plan.directory), "MODEL_NAME": NOISE, "RA_MLA_ABLATION_STEPS": step},
        **{"DATASET_BIN": "y", "DATASET_BIN_DIR": str(noise_path(config)), "VOCAB_SIZE": str(config.data.vocab_size)},
        "FUSED_LOSS": "y" if config.train.fused_loss else "n",  # whose default is the tokenizer's
    }
    kept = [a for a in plan.base.minimal() if not a.symbol.startswith(_DATA)]
    return make_plan(
        resolve(kept, [Assignment(symbol, value, "random tokens") for symbol, value in settings.items()]), ()
    )


def noise_path(config: RunConfig) -> Path:
    """The directory of a run's random tokens, named after how many there are and of which vocabulary."""
    tokens, _ = _sizes(config)
    return Path(config.data.data_dir, f"noise-{config.data.vocab_size}-{tokens}")


def write_noise(config: RunConfig) -> Path:
    """Write random tokens for a run, unless they are there. Returns their directory."""
    path = noise_path(config)
    tokens, val = _sizes(config)
    if path.exists():
        return path
    partial = path.with_name(f".{path.name}-{os.getpid()}")
    make_directory(partial)
    try:
        write_random_tokens(partial, vocab_size=config.data.vocab_size, n_tokens=tokens, n_val=val)
        os.rename(partial, path)
    except OSError as error:
        if not path.exists():  # else somebody else was faster
            raise UserError(f"{path}: random tokens cannot be written: {error.strerror}") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return path


def _sizes(config: RunConfig) -> tuple[int, int]:
    """Training tokens, as many as the run draws, and validation tokens, as many as an evaluation takes."""
    drawn = config.tokens_per_iter * config.train.max_iters + config.model.block_size + 1
    evaluated = config.train.eval_tokens or TrainConfig.eval_tokens
    batch = config.train.batch_size * config.model.block_size
    return min(drawn, MOST_TOKENS), max(evaluated, batch) + config.model.block_size + 1


def noise_of(experiment: Experiment) -> Experiment | None:
    """The runs of an experiment that were trained on random tokens; None where there are none."""
    path = experiment.path / NOISE
    return load_experiment(path) if run_directories(path) else None


@dataclass(frozen=True, kw_only=True)
class Superiority:
    """The probability that a head's gate is above that of a head trained on noise."""

    value: float
    low: float | None
    high: float | None
    """Its 95 % interval; None where one of the sides has a single run."""


def superiority(real: Sequence[Sequence[float]], noise: Sequence[Sequence[float]]) -> Superiority:
    """Of gates [runs, heads] on both sides, each run with as many heads. Raises UserError where there are none."""
    a, b = np.asarray(real, dtype=float), np.asarray(noise, dtype=float)
    if not a.size or not b.size:
        raise UserError("there are no gates to compare")
    above, below = _placements(a, b).mean(axis=1), 1 - _placements(b, a).mean(axis=1)
    n, m = len(above), len(below)
    value = float(above.mean())
    if min(n, m) < 2:
        return Superiority(value=value, low=None, high=None)
    parts = above.var(ddof=1) / n, below.var(ddof=1) / m
    least = (1 / a.size + 1 / b.size) / 12
    freedom = n + m - 2
    if sum(parts) > least:
        freedom = sum(parts) ** 2 / (parts[0] ** 2 / (n - 1) + parts[1] ** 2 / (m - 1))
    half = float(stats.t.isf(0.025, freedom) * np.sqrt(max(sum(parts), least)))
    return Superiority(value=value, low=max(value - half, 0.0), high=min(value + half, 1.0))


def _placements(of: np.ndarray, among: np.ndarray) -> np.ndarray:
    """The share of `among` below each of `of`, equals by half."""
    ordered = np.sort(among.ravel())
    return (np.searchsorted(ordered, of, "left") + np.searchsorted(ordered, of, "right")) / (2 * ordered.size)
