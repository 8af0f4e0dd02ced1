"""What the heads of a trained model do: numbers, heat maps, and a page to look at single heads.

    python -m scripts.inspect_attention RUN [--text FILE] [--out DIR]

docs/inspect.md describes what is measured (harness/heads/measures.py) and what is written.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from rich.text import Text

from gpt2 import dotconfig
from gpt2.base import terminal
from gpt2.base.errors import UserError
from gpt2.base.files import finite, write_csv, write_json, write_text
from gpt2.base.numbers import decimal
from gpt2.base.text import showable
from gpt2.config import DataConfig, GPTConfig
from gpt2.data.batches import eval_set
from gpt2.data.dataset import open_dataset
from gpt2.data.tokenizer import TOKENIZERS, Tokenizer, load_tokenizer
from gpt2.run.load import load_model
from gpt2.run.records import Json
from gpt2.symbols import padded, run_config
from harness.configure.directories import configured_experiment
from harness.evidence.store import load_experiment
from harness.heads.figures import draw_heads
from harness.heads.measures import MIN_TOKENS, Heads, Measure, observe
from harness.heads.page import page_tokens, render_page

TOP = 5
"""Heads in a printed table."""

SORTED_BY = ("w_rec", "w_rec_rms", "reciprocity")
"""Measures whose top heads are printed."""


@dataclass(frozen=True, kw_only=True)
class InspectedText:
    """The tokens that the heads are looked at on."""

    source: str
    """Where they come from, in words."""

    ids: torch.Tensor
    """[T]."""

    labels: Sequence[str]
    """What is shown for each token."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Inspection:
    """A model's heads on a text."""

    name: str
    """Of the run, <experiment>/<step>/seed-<seed>, or of the checkpoint."""

    config: GPTConfig
    text: InspectedText
    heads: Heads


def inspect_run(path: Path, text_path: Path | None = None) -> Inspection:
    """Measure the heads of a run (its newest checkpoint) or of a checkpoint.

    `text_path`: a UTF-8 file, read as far as the model's context goes; by default the first validation window. Raises
    UserError.
    """
    model = load_model(path)
    run = _run_directory(path)
    data = run_config(dotconfig.load(run / "config").symbols).data if run else None
    text = text_of_file(text_path, model.config, data) if text_path else validation_window(path, model.config, data)
    if len(text.ids) < MIN_TOKENS:
        raise UserError(f"{text.source}: {len(text.ids)} tokens; heads are measured on {MIN_TOKENS} at least")
    kept = page_tokens(model.config.n_layer, model.config.n_head, len(text.ids))
    name = "/".join((run or path).resolve().parts[-3:])
    return Inspection(name=name, config=model.config, text=text, heads=observe(model, text.ids, kept))


def inspection_directory(path: Path) -> Path:
    """Where what is found about a run or checkpoint is written: `inspection/` in the run's directory or beside it."""
    return (_run_directory(path) or path.parent) / "inspection"


def first_runs() -> list[Path]:
    """The first finished run of each arm of the experiment that `.config` names. Raises UserError if there is none."""
    experiment = load_experiment(configured_experiment())
    runs = [arm.done[0].path for arm in experiment.arms if arm.done]
    if not runs:
        raise UserError(f"{experiment.path}: no run is finished; `make status` shows how far they are")
    return runs


def _run_directory(path: Path) -> Path | None:
    """The directory of the run that a path is, or that a checkpoint is of; None if there is none around it."""
    directory = path if path.is_dir() else path.parent.parent
    return directory if (directory / "config").is_file() else None


# The text


def text_of_file(path: Path, model: GPTConfig, data: DataConfig | None) -> InspectedText:
    """The beginning of a text file, one context long at most. Raises UserError if it cannot be read as text."""
    tokenizer = _tokenizer(model, data)
    if tokenizer is None:
        raise UserError(f"--text {path}: the tokenizer of a vocabulary of {model.vocab_size} tokens is not known")
    try:
        text = path.read_bytes().decode()
    except OSError as error:
        raise UserError(f"--text {path}: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise UserError(f"--text {path}: not UTF-8: byte 0x{error.object[error.start]:02x} at {error.start}") from None
    ids = tokenizer.encode(text)[: model.block_size]
    return InspectedText(source=str(path), ids=torch.from_numpy(ids.astype(np.int64)), labels=_labels(ids, tokenizer))


def validation_window(path: Path, model: GPTConfig, data: DataConfig | None) -> InspectedText:
    """The first window of validation tokens. Raises UserError if a checkpoint is of no run, or its data not there."""
    if data is None:
        raise UserError(f"{path}: is in no run's directory, which would tell its data set: name a text, --text FILE")
    dataset = open_dataset(data)
    ((x, _),) = eval_set(dataset, batch_size=1, block_size=model.block_size, eval_tokens=1).batches
    source = f"the first validation window of {dataset.name}"
    tokenizer = _tokenizer(model, data) if dataset.vocabulary.tokenizer else None
    return InspectedText(source=source, ids=x[0], labels=_labels(x[0].tolist(), tokenizer))


def _tokenizer(model: GPTConfig, data: DataConfig | None) -> Tokenizer | None:
    """The tokenizer of the model's vocabulary; None if it has another one, as ready token files may."""
    fits = [of for of in TOKENIZERS.values() if model.vocab_size in (of.n_vocab, padded(of.n_vocab))]
    if not fits or (data is not None and data.vocab_size != fits[0].n_vocab):
        return None
    return load_tokenizer(fits[0].name)


def _labels(ids: Iterable[int], tokenizer: Tokenizer | None) -> list[str]:
    """Each token's text, or its number where no tokenizer tells."""
    return [f"#{i}" if tokenizer is None else tokenizer.decode([i]) for i in ids]


# What is written and printed


def write_inspection(inspection: Inspection, directory: Path) -> list[Path]:
    """Write heads.csv, heads.json, the figures and the page to `directory`; returns their paths."""
    directory.mkdir(parents=True, exist_ok=True)
    table, numbers, page = (directory / name for name in ("heads.csv", "heads.json", "heads.html"))
    rows = head_rows(inspection.heads)
    write_csv(table, list(rows[0]), rows)
    write_json(numbers, _as_json(inspection))
    figures = draw_heads(inspection.heads, directory)
    text = inspection.text
    write_text(page, render_page(inspection.name, inspection.config, text.source, text.labels, inspection.heads))
    return [page, table, numbers, *(path for figure in figures for path in (figure.png, figure.svg))]


def head_rows(heads: Heads) -> list[Json]:
    """A row per head: `layer`, `head`, each measure by name, `mass_<from>_<to>` for each bin of distances."""
    columns = {measure.name: measure.values for measure in heads.measures}
    columns |= {f"mass_{a}_{b}": heads.distance_profile[..., n] for n, (a, b) in enumerate(heads.bins)}
    n_layer, n_head = heads.scores.shape[:2]
    return [
        {"layer": layer, "head": head} | {name: finite(float(of[layer, head])) for name, of in columns.items()}
        for layer in range(n_layer)
        for head in range(n_head)
    ]


def _as_json(inspection: Inspection) -> Json:
    heads = inspection.heads
    return {
        "name": inspection.name,
        "attention": inspection.config.attention,
        "text": inspection.text.source,
        "tokens": inspection.text.ids.tolist(),
        "measures": {measure.name: measure.values.tolist() for measure in heads.measures},
        "distance_bins": heads.bins,
        "distance_profile": heads.distance_profile.tolist(),
        "d_bias": None if heads.d_bias is None else heads.d_bias.tolist(),
    }


def print_inspection(inspection: Inspection, console: Console | None = None) -> None:
    """Print the heads that are first by w_rec or its size, where there is one, and by reciprocity."""
    console = console or terminal.console()
    heads = inspection.heads
    heading = f"{inspection.name}, {len(inspection.text.ids)} tokens: {inspection.text.source}"
    console.print(Text(showable(heading), style="bold"))
    for measure in heads.measures:
        if measure.name in SORTED_BY:
            console.print(_top_heads(measure, heads))


def _top_heads(by: Measure, heads: Heads) -> Table:
    """The first heads by a measure, with every measure of theirs."""
    title = f"highest {by.title} (median {decimal(float(np.nanmedian(by.values)), 3)})"
    table = Table(title=title, title_justify="left", box=None, pad_edge=False, padding=(0, 1, 0, 0))
    for column in ("layer", "head", *(measure.title for measure in heads.measures)):
        table.add_column(column, justify="right", min_width=max(map(len, column.split())))  # wrapped between words
    order = np.argsort(-by.values, axis=None)[:TOP]  # NaN last
    for layer, head in zip(*np.unravel_index(order, by.values.shape), strict=True):
        numbers = (decimal(float(measure.values[layer, head]), 3) for measure in heads.measures)
        table.add_row(str(layer), str(head), *numbers)
    return table
