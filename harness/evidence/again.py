"""Training a run again, to see whether it comes to the same numbers.

    run = choose(repeatable(Path("results/mine")), seed=7, most_s=600)
    with trained_again(run) as again:
        print(compare_again(run, again))

The same code on the same machine with as many threads has to repeat a run to the bit, unless a GPU, or compiled code on
several threads, adds in another order each time. Elsewhere it need not, and then what is worth knowing is by how much.
"""

from __future__ import annotations

import hashlib
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from gpt2.assignments import Assignment
from gpt2.base.errors import UserError
from gpt2.base.files import ROOT, read_json
from gpt2.base.progress import Progress, silent
from gpt2.dotconfig import load
from gpt2.machine.device import select_device
from gpt2.run.records import Json, read_metrics
from harness.configure.kconfig import overlay
from harness.evidence.findings import Fine, Note, Said, Wrong
from harness.evidence.parting import Parting, compare_metrics, compare_weights, counted_lines, final_weights
from harness.evidence.runs import processes_of

_POLL_S = 0.2

_NOT_TOLD = [Assignment(symbol, "n", "make verify") for symbol in ("TRACK_TENSORBOARD", "TRACK_WANDB")]
"""Trackers keep the run itself."""


@dataclass(frozen=True, kw_only=True)
class Repeated:
    """A run and its repetition, compared."""

    run: Path
    """Its directory."""

    lines: int
    """Of metrics.jsonl, that were compared."""

    partings: tuple[Parting, ...]
    """Where metrics and final weights first differ; none where they are the same to the bit."""

    loss: float
    """The largest difference of a loss, in nats per token."""

    weight: float | None
    """The largest difference of a final weight; None where the run has no checkpoint any more."""

    elsewhere: tuple[str, ...]
    """What is not as it was, so that numbers may differ."""

    @property
    def said(self) -> Wrong | Note | Fine:
        """As a check says it: a difference is no fault where there may be one."""
        return (Note if self.elsewhere else Wrong)(self) if self.partings else Fine(self)

    def __str__(self) -> str:
        what = f"{self.lines} lines" + (", no weights" if self.weight is None else " and the weights")
        if not self.partings:
            return f"{what}: equal to the bit"
        weight = "" if self.weight is None else f", by {self.weight:.2g} in a weight"
        size = f"by up to {self.loss:.2g} nats in a loss{weight}"
        parts = "; ".join(f"{parting.where}: {parting.a}, and {parting.b} again" for parting in self.partings)
        because = f"; which it may: {'; '.join(self.elsewhere)}" if self.elsewhere else ""
        return f"{self.run}: differs {size}; first {parts}{because}"


def took_s(summary: Json) -> float:
    """Seconds that the run took, without starting."""
    times = (summary.get(name) for name in ("train_time_s", "eval_time_s", "checkpoint_time_s"))
    return sum(time for time in times if isinstance(time, int | float))


def choose(runs: dict[Path, Json], *, seed: int, most_s: float) -> Path | None:
    """One of the runs, given with their summaries, that took at most `most_s`; None if none did."""
    short = sorted(run for run, summary in runs.items() if took_s(summary) <= most_s)
    return random.Random(seed).choice(short) if short else None


def is_of_a_device_here(run: Path) -> bool:
    """Whether a run would be trained again on such a device as it was: elsewhere minutes may be hours."""
    try:
        here = select_device(load(run / "config").run_config().train.device).type
    except UserError:  # there is none
        return False
    return bool(read_json(run / "provenance.json")["hardware"]["device"] == here)


@contextmanager
def trained_again(run: Path, report: Progress = silent) -> Iterator[Path]:
    """Train a run's configuration once more, by the trainer's own command and with as many threads as it had.

    The directory that it is trained in goes when this is left. Raises UserError where it does not come to its end.
    """
    threads = read_json(run / "provenance.json")["hardware"].get("threads")
    environment = os.environ | ({} if threads is None else {"OMP_NUM_THREADS": str(threads)})
    resolved = overlay(load(run / "config"), _NOT_TOLD)
    steps = resolved.run_config().train.max_iters
    with tempfile.TemporaryDirectory(prefix="verify-") as folder:
        out, config, log = Path(folder, "run"), Path(folder, "config"), Path(folder, "log")
        resolved.write(config)
        command = [sys.executable, str(ROOT / "gpt2" / "train_ra_mla.py"), "--config", str(config), "--out", str(out)]
        with (
            log.open("w") as file,
            # By the end of its stdin it notices that of this process.
            subprocess.Popen(
                [*command, "--stop-with-parent"],
                env=environment,
                stdin=subprocess.PIPE,
                stdout=file,
                stderr=subprocess.STDOUT,
            ) as process,
        ):
            while process.poll() is None:
                step = max((line["step"] for line in read_metrics(out / "metrics.jsonl")), default=0)
                report(step / steps, f"step {step} of {steps}")
                time.sleep(_POLL_S)
        if process.returncode:
            said = (log.read_text(errors="replace").strip().splitlines() or ["printed nothing"])[-1]
            raise UserError(f"{run / 'config'}: cannot be trained again: {said.removeprefix('error: ')}")
        yield out


def repeat(run: Path, report: Progress = silent) -> Said:
    """The check: train a run again, and compare."""
    with trained_again(run, report) as again:
        yield compare_again(run, again).said


def compare_again(run: Path, again: Path) -> Repeated:
    """Compare a run with its repetition. Raises UserError where a file of one of them cannot be read."""
    ours, theirs = counted_lines(run), counted_lines(again)
    partings = [compare_metrics(ours, theirs)]
    weight = None
    if any((run / "checkpoints").glob("step-*.pt")):
        before, after = final_weights(run), final_weights(again)
        partings.append(compare_weights(before, after))
        same_shape = [name for name in before if name in after and before[name].shape == after[name].shape]
        weight = max((float((before[name] - after[name]).abs().max()) for name in same_shape), default=0.0)
    return Repeated(
        run=run,
        lines=len(ours),
        partings=tuple(filter(None, partings)),
        loss=_largest(ours, theirs),
        weight=weight,
        elsewhere=tuple(_elsewhere(read_json(run / "provenance.json"), read_json(again / "provenance.json"))),
    )


def _largest(ours: list[Json], theirs: list[Json]) -> float:
    again = {(line["kind"], line["step"]): line for line in theirs}
    differences = [
        abs(line[key] - again[line["kind"], line["step"]][key])
        for line in ours
        for key in ("loss", "val_loss")
        if line.get(key) is not None and again.get((line["kind"], line["step"]), {}).get(key) is not None
    ]
    return max(differences, default=0.0)


def _elsewhere(recorded: Json, again: Json) -> Iterator[str]:
    """What differs between the conditions of a run, of each of its parts, and of its repetition."""
    now = _conditions(again)
    for name, value in now.items():
        was = {_conditions(part)[name]: None for part in processes_of(recorded)}
        yield from (f"{name} was {before} and is {value}" for before in was if before != value)
    if now["device"] != "cpu":
        yield f"a {now['device']} device need not repeat itself"
    elif again["identity"].get("COMPILE") != "none" and now["threads"] != "1":
        # The embedding's gradient, by atomic additions. One thread repeats it.
        yield f"torch.compile's code adds in any order on {now['threads']} threads"


def _conditions(part: Json) -> dict[str, str]:
    """By name, what numbers may depend on besides a run's identity."""
    code, hardware, versions = part["code"], part["hardware"], part["versions"]
    changes = hashlib.sha256(str(code.get("diff")).encode()).hexdigest()[:8]
    found = {name: versions.get(name) for name in ("torch", "numpy", "cuda", "triton")}
    found |= {name: hardware.get(name) for name in ("device", "device_name", "cpu", "threads")}
    found["code"] = str(code.get("commit"))[:12] + (f" with changes {changes}" if code.get("dirty") else "")
    return {name: str(value) for name, value in found.items()}
