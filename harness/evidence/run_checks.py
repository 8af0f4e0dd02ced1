"""What `make verify` looks at in a run: everything in its files that can be worked out anew is, and compared."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from gpt2.base.errors import UserError
from gpt2.base.files import read_json
from gpt2.config import DataConfig, RunConfig, identity_hash
from gpt2.data.batches import eval_set
from gpt2.data.dataset import Dataset, open_dataset, prepared_path
from gpt2.data.evaluation import hashes, open_eval_datasets
from gpt2.dotconfig import Resolved, load
from gpt2.run.checkpoint import read_checkpoint, sha256_of, verified
from gpt2.run.load import model_of
from gpt2.run.record import code_state
from gpt2.run.records import Json, read_metrics
from harness.configure.arms import label, labels, promised
from harness.configure.kconfig import overlay
from harness.evidence.findings import Note, Said, Wrong
from harness.evidence.recount import differ, line_errors, summary_errors
from harness.evidence.runs import read_settings

T = TypeVar("T")


Scans = dict[DataConfig, tuple[Dataset, str] | None]
"""Data sets and the hash of the tokens that are there now; None for one that is not here. Each is read once."""


class Evidence:
    """What there is of a run, as far as it can be read."""

    def __init__(self, path: Path, scans: Scans) -> None:
        self.path = path
        self.scans = scans
        """Those of other runs, to which a run adds what it had read."""
        self.name = f"{path.parent.name}/{path.name}"
        self.seed = int(path.name.removeprefix("seed-"))
        self.damage: list[Wrong] = []
        """Why some of the following are None."""
        self.provenance: Json | None = self._read("provenance.json", read_json)
        self.summary: Json | None = self._read("summary.json", read_json)
        self.metrics: list[Json] | None = self._read("metrics.jsonl", read_metrics)
        self.settings: dict[str, str] | None = self._read("config", read_settings)
        self.resolved: Resolved | None = None
        self.config: RunConfig | None = None
        self.unresolved = ""
        """Why `resolved` and `config` are None, though there are `settings`."""
        if self.settings is not None:
            try:
                self.resolved = load(path / "config")
                self.config = self.resolved.run_config()
            except UserError as error:
                self.resolved, self.unresolved = None, str(error)

    @property
    def status(self) -> str | None:
        """As in the summary."""
        return None if self.summary is None else self.summary.get("status")

    @property
    def by_this_code(self) -> bool:
        """Whether the code that began the run is this, to the letter."""
        return self.provenance is not None and self.provenance["code"] == _code()

    def checkpoints(self) -> list[Path]:
        """Oldest first."""
        return sorted((self.path / "checkpoints").glob("step-*.pt"))

    def _read(self, name: str, reader: Callable[[Path], T]) -> T | None:
        path = self.path / name
        if not path.exists():
            return None
        try:
            return reader(path)
        except (UserError, OSError) as error:
            self.damage.append(Wrong(error))
            return None


def _records(run: Evidence) -> Said:
    """Each file can be read, and they are of one run, which is the one that its directory names."""
    yield from run.damage
    provenance, summary = run.path / "provenance.json", run.path / "summary.json"
    if not provenance.exists() and (run.status == "done" or run.checkpoints()):
        yield Wrong(f"{provenance}: is missing, and says what the run is")
    if run.summary is None and not summary.exists():
        yield Note("pending" if not provenance.exists() else "not finished")
    elif run.status is not None and run.status != "done":
        error = run.summary and run.summary.get("error")
        yield Note(f"{run.status}: {error}" if error else run.status)
    if run.provenance is None:
        return
    identity, config_hash = run.provenance["identity"], run.provenance["config_hash"]
    if identity_hash(identity) != config_hash:
        yield Wrong(f"{provenance}: config_hash is {config_hash[:12]}, and {identity_hash(identity)[:12]} by identity")
    if identity["DATA_HASH"] != run.provenance["data"]["hash"]:
        yield Wrong(f"{provenance}: DATA_HASH of identity is not the hash of data")
    if identity["SEED"] != run.seed:
        yield Wrong(f"{provenance}: SEED is {identity['SEED']}, and {run.seed} by the directory's name")
    if run.summary is not None and run.summary.get("config_hash", config_hash) != config_hash:
        yield Wrong(f"{summary}: config_hash is {str(run.summary['config_hash'])[:12]}, that of another run")


def _config(run: Evidence) -> Said:
    """The stored configuration makes the identity that provenance.json has, and is the one that its names promise."""
    path = run.path / "config"
    if run.settings is None:
        if not path.exists() and run.provenance is not None:
            yield Wrong(f"{path}: is missing")
        return
    none_told = {"RERUN": "0"} if "RERUN" in run.settings else {}  # that of a repetition is in its name
    for symbol, value in (none_told | labels(run.path.parent.name)).items():
        found = run.settings.get(symbol)
        if found is None or label(symbol, found) != value:
            yield Wrong(f"{path}: CONFIG_{symbol} is {found}, and {value} by the directory's name")
    if run.resolved is None or run.config is None:
        if run.provenance is not None and not run.by_this_code:
            yield Note(f"of another version, and not resolved: {run.unresolved}")
        else:
            yield Wrong(run.unresolved)
        return
    yield from (Wrong(f"{path}: {text}") for text in _unlike_step(run, run.resolved, run.config))
    if run.provenance is None:
        return
    theirs, ours = run.provenance["identity"], json.loads(json.dumps(run.config.identity()))
    ours["DATA_HASH"] = run.provenance["data"]["hash"]
    if init_from := run.config.train.init_from:
        if Path(init_from).exists():
            ours["INIT_FROM"] = sha256_of(Path(init_from))
        else:
            ours["INIT_FROM"] = theirs.get("INIT_FROM")
            yield Note(f"{init_from}, from which it started, is not here")
    if run.config.data.eval_datasets:
        try:
            ours["EVAL_DATASETS"] = hashes(open_eval_datasets(run.config.data))
        except UserError as error:
            ours["EVAL_DATASETS"] = theirs.get("EVAL_DATASETS")
            yield Note(f"not looked at: {error}")
    for symbol in sorted(ours.keys() & theirs.keys()):
        if ours[symbol] != theirs[symbol]:
            there = "is another file" if symbol == "INIT_FROM" else f"is {ours[symbol]}, and {theirs[symbol]}"
            yield Wrong(f"{path}: CONFIG_{symbol} {there} by provenance.json")
    if unknown := sorted(ours.keys() ^ theirs.keys()):
        said = f"identity has other symbols: {', '.join(unknown)}"
        yield Wrong(f"{path}: {said}") if run.by_this_code else Note(f"of another version: {said}")


def _unlike_step(run: Evidence, resolved: Resolved, config: RunConfig) -> Iterator[str]:
    """What the step whose name the directory has would have made otherwise."""
    name = run.path.parent.name
    ours = config.identity()
    theirs = overlay(resolved, *promised(name, run.settings or {})).run_config().identity()
    for symbol in sorted(ours.keys() | theirs.keys()):
        if ours.get(symbol) != theirs.get(symbol):
            said = f"{theirs.get(symbol)} in step {name.partition('@')[0]}"
            yield f"CONFIG_{symbol} is {ours.get(symbol)}, and {said}"


def _data(run: Evidence) -> Said:
    """The tokens that are there now are those that the run was trained on."""
    if run.provenance is None or run.config is None:
        yield Note("not looked at: what it was trained on is not known")
        return
    if run.config.data not in run.scans:
        run.scans[run.config.data] = _scanned(run.config.data)
    found = run.scans[run.config.data]
    if found is None:
        yield Note("not here, and not looked at")
        return
    (dataset, rehashed), recorded = found, run.provenance["data"]
    if rehashed != recorded["hash"]:
        yield Wrong(f"{dataset.path}: its tokens hash to {rehashed[:12]}, and the run's were {recorded['hash'][:12]}")
    evaluation = eval_set(
        dataset,
        batch_size=run.config.train.batch_size,
        block_size=run.config.model.block_size,
        eval_tokens=run.config.train.eval_tokens,
    )
    counted = {name: getattr(dataset, name) for name in ("train_tokens", "val_tokens", "val_bytes_per_token")}
    counted |= {"eval_targets": evaluation.n_targets, "eval_bytes": evaluation.n_bytes}
    for name, value in counted.items():
        # Bytes are known where a tokenizer is that knows the tokens, which need not be here, or there.
        if value is not None and recorded.get(name) not in (None, value):
            yield Wrong(f"{run.path / 'provenance.json'}: {name} is {recorded[name]}, and {value} by {dataset.path}")
    yield from _eval_datasets(run, run.config, recorded.get("eval_datasets", {}))


def _eval_datasets(run: Evidence, config: RunConfig, recorded: Json) -> Said:
    """The tokens of EVAL_DATASETS that are there now are those that the run was evaluated on."""
    try:
        there = open_eval_datasets(config.data)
    except UserError:  # `_config` says so
        return
    for name, dataset in there.items():
        evaluation = eval_set(
            dataset,
            batch_size=config.train.batch_size,
            block_size=config.model.block_size,
            eval_tokens=config.train.eval_tokens,
        )
        found = {"hash": dataset.rescan(), "val_tokens": len(dataset.val), "eval_targets": evaluation.n_targets}
        if recorded.get(name) != found:
            yield Wrong(
                f"{dataset.path}: {name} is {found}, and {recorded.get(name)} by {run.path / 'provenance.json'}"
            )


def _scanned(config: DataConfig) -> tuple[Dataset, str] | None:
    """A data set and the hash of its tokens, read anew; None where it is not here."""
    if not is_here(config):
        return None
    dataset = open_dataset(config)
    return dataset, dataset.rescan()


def is_here(config: DataConfig) -> bool:
    """Whether a data set is on this machine, whole or not."""
    if config.dataset == "bin":
        return any(Path(config.bin_dir).glob("*.bin"))
    try:
        return (prepared_path(config) / "meta.json").exists()
    except UserError:  # what it would be prepared from is not here either
        return False


def _checkpoints(run: Evidence) -> Said:
    """Each is whole, of this run, of the step that its name says, and finite; the last is where the run ended."""
    paths = run.checkpoints()
    if not paths:
        yield Note("none here")
        return
    for path in paths:
        try:
            yield from _checkpoint(run, path, is_last=path == paths[-1])
        except UserError as error:
            yield Wrong(error)


def _checkpoint(run: Evidence, path: Path, *, is_last: bool) -> Said:
    if not verified(path):
        yield Wrong(f"{path}: its SHA-256 is not that of {path.name}.sha256")
    state = read_checkpoint(path)
    step = state.get("step")
    if not isinstance(step, int) or path.name != f"step-{step:08d}.pt":
        yield Wrong(f"{path}: holds step {step}")
    if run.provenance is not None and state.get("config_hash") != run.provenance["config_hash"]:
        yield Wrong(f"{path}: config_hash is {str(state.get('config_hash'))[:12]}, that of another run")
    model = model_of(state, origin=str(path))
    if not is_last or run.summary is None or run.status not in ("done", "interrupted"):
        return
    found = {name: state.get(name) for name in ("train_loss", "val_loss", "overflows")}
    found |= {"iters": step, "params": model.num_params()}
    found["gates"] = model.gate_records()
    if "flops_per_token" in run.summary:  # of earlier versions it is not
        found["flops_per_token"] = model.flops_per_token()
    for name, value in found.items():
        for text in differ(name, run.summary.get(name), value):
            yield Wrong(f"{run.path / 'summary.json'}: {text} by {path}")


def _metrics(run: Evidence) -> Said:
    """Lines are complete, and agree with each other."""
    path = run.path / "metrics.jsonl"
    if run.metrics is None or run.provenance is None:
        if not path.exists() and run.status == "done":
            yield Wrong(f"{path}: is missing")
        return
    interval = None if run.config is None else run.config.train.log_interval
    for text in line_errors(run.metrics, run.provenance, done=run.status == "done", log_interval=interval):
        yield Wrong(f"{path}: {text}")


def _summary(run: Evidence) -> Said:
    """Numbers are those of metrics.jsonl."""
    if run.summary is None or run.metrics is None or run.provenance is None:
        return
    for text in summary_errors(run.summary, run.metrics, run.provenance):
        yield Wrong(f"{run.path / 'summary.json'}: {text}")


@functools.cache
def _code() -> dict[str, Any]:
    return code_state()


CHECKS: dict[str, Callable[[Evidence], Said]] = {
    "records": _records,
    "config": _config,
    "data": _data,
    "checkpoints": _checkpoints,
    "metrics": _metrics,
    "summary": _summary,
}
"""What is looked at in each run, in this order."""
