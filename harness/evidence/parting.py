"""Where two runs part: their metrics line by line, their weights bit by bit, and what makes them the same run.

compared = compare_runs("baseline/seed-1", before / "baseline/seed-1", after / "baseline/seed-1")
print(compared.partings or "equal")
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gpt2.base.errors import UserError
from gpt2.base.files import read_json
from gpt2.run.checkpoint import read_checkpoint
from gpt2.run.records import Json, read_metrics

TIMES = frozenset({"ms_per_step", "tokens_per_s", "mfu", "time_s", "shared"})
"""Keys of metrics lines that no two runs have in common."""

ABSENT = "absent"
"""In the place of a value that one side does not have."""

_COUNTED = ("train", "eval", "gates")
_BITS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


@dataclass(frozen=True, kw_only=True)
class Parting:
    """The first place where two runs are not the same."""

    where: str
    a: Any
    b: Any
    more: int = 0
    """Other places, where they can be counted."""

    def __str__(self) -> str:
        return f"{self.where}: {self.a} / {self.b}" + (f" (and {self.more} more)" if self.more else "")


@dataclass(frozen=True, kw_only=True)
class Compared:
    """A run of both commits, compared. None where they are the same to the bit."""

    run: str
    """`<step>/seed-<seed>`."""

    lines: int
    """Metrics lines that were compared."""

    metrics: Parting | None
    weights: Parting | None
    """Of the last checkpoint."""

    identity: Parting | None
    """Where it differs, the later commit does not go on with runs of the earlier one."""

    @property
    def partings(self) -> dict[str, Parting]:
        """What parts, by name."""
        found = {"metrics": self.metrics, "weights": self.weights, "identity": self.identity}
        return {name: parting for name, parting in found.items() if parting}


def compare_all(a: Mapping[str, Path], b: Mapping[str, Path]) -> list[Compared]:
    """Compare runs by name. UserError if both do not have the same ones."""
    if a.keys() != b.keys():
        raise UserError(f"only one of both has the runs {', '.join(sorted(a.keys() ^ b.keys()))}")
    return [compare_runs(run, a[run], b[run]) for run in a]


def compare_rests(resumed: Mapping[str, Path], whole: Mapping[str, Path]) -> list[Compared]:
    """Compare what runs did since they were resumed with the same steps of uninterrupted ones."""
    return [compare_runs(run, resumed[run], whole[run], after_step=resumed_at(resumed[run])) for run in resumed]


def compare_runs(name: str, a: Path, b: Path, *, after_step: int = -1) -> Compared:
    """Compare two directories of a run. Metrics lines up to `after_step` are left out."""
    ours, theirs = ([line for line in counted_lines(path) if line["step"] > after_step] for path in (a, b))
    return Compared(
        run=name,
        lines=len(ours),
        metrics=compare_metrics(ours, theirs),
        weights=compare_weights(final_weights(a), final_weights(b)),
        identity=compare_values(_identity(a), _identity(b)),
    )


def compare_metrics(a: Sequence[Json], b: Sequence[Json]) -> Parting | None:
    """Where two sequences of metrics lines first part, in order of steps.

    A key that `b` alone has in a line is something new to know, and parts nothing (`new_keys` tells); one that only `a`
    has, and a line that one of them alone has, do.
    """
    lines_a = {(line["step"], line["kind"]): _leaves(line) for line in a}
    lines_b = {(line["step"], line["kind"]): _leaves(line) for line in b}
    for step, kind in sorted({**lines_a, **lines_b}, key=lambda line: line[0]):
        where = f"{kind} at step {step}"
        if (step, kind) not in lines_a or (step, kind) not in lines_b:
            has = ["a line" if (step, kind) in lines else ABSENT for lines in (lines_a, lines_b)]
            return Parting(where=where, a=has[0], b=has[1])
        ours, theirs = lines_a[step, kind], lines_b[step, kind]
        if parting := compare_values(ours, {key: theirs[key] for key in theirs if key in ours}):
            return Parting(where=f"{where}, {parting.where}", a=parting.a, b=parting.b)
    return None


def compare_values(a: Mapping[str, Any], b: Mapping[str, Any]) -> Parting | None:
    """Where two mappings of plain values differ: 0.0 is not -0.0, and null is null."""
    differ = [key for key in {**a, **b} if repr(a.get(key, ABSENT)) != repr(b.get(key, ABSENT))]
    if not differ:
        return None
    return Parting(where=differ[0], a=a.get(differ[0], ABSENT), b=b.get(differ[0], ABSENT), more=len(differ) - 1)


def compare_weights(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> Parting | None:
    """Where tensors differ in a bit, in shape or in type; names the first of them and its first such element."""
    differ = {name: found for name in {**a, **b} if (found := _part(a.get(name), b.get(name)))}
    if not differ:
        return None
    name, (index, ours, theirs) = next(iter(differ.items()))
    return Parting(where=f"{name}{index}", a=ours, b=theirs, more=len(differ) - 1)


def counted_lines(run: Path) -> list[Json]:
    """What a run's metrics.jsonl says of steps: everything but events."""
    return [line for line in read_metrics(run / "metrics.jsonl") if line["kind"] in _COUNTED]


def final_weights(run: Path) -> dict[str, Tensor]:
    """Of the newest checkpoint, on the CPU. UserError where it cannot be read."""
    newest = max((run / "checkpoints").glob("step-*.pt"))
    weights: dict[str, Tensor] = read_checkpoint(newest)["model"]
    return weights


def new_keys(a: Path, b: Path) -> list[str]:
    """`kind.key` of what the metrics lines of run `b` alone have."""
    ours, theirs = ({f"{line['kind']}.{key}" for line in counted_lines(path) for key in line} for path in (a, b))
    return sorted(theirs - ours)


def went_otherwise(run: Path) -> list[str]:
    """What a run says went other than asked, such as a compilation that fell back to eager."""
    events: list[str] = read_json(run / "summary.json")["events"]
    return events


def resumed_at(run: Path) -> int:
    """The step from which a run was last gone on with. Raises UserError where it never was."""
    resumed = read_json(run / "provenance.json")["resumed"]
    if not resumed:
        raise UserError(f"{run.parent.name}/{run.name}: was begun anew, not gone on with")
    return int(resumed[-1]["step"])


def _part(a: Tensor | None, b: Tensor | None) -> tuple[str, Any, Any] | None:
    """Index in brackets and both values where two tensors part."""
    if a is None or b is None:
        present = ["there" if tensor is not None else ABSENT for tensor in (a, b)]
        return "", present[0], present[1]
    kinds = [f"{tensor.dtype} {list(tensor.shape)}" for tensor in (a, b)]
    if kinds[0] != kinds[1]:
        return "", kinds[0], kinds[1]
    bits = _BITS[a.element_size()]
    differ = (a.contiguous().view(bits) != b.contiguous().view(bits)).nonzero()
    if not len(differ):
        return None
    index = tuple(differ[0].tolist())
    return str(list(index)), a[index].item(), b[index].item()


def _leaves(value: Any, name: str = "") -> dict[str, Any]:
    """Name -> number of what is nested in a metrics line, such as "gates.w_rec[0][3]"; times are left out."""
    if isinstance(value, dict):
        inner = [(f"{name}.{key}" if name else key, item) for key, item in value.items() if key not in TIMES]
    elif isinstance(value, list):
        inner = [(f"{name}[{i}]", item) for i, item in enumerate(value)]
    else:
        return {name: value}
    return {leaf: number for key, item in inner for leaf, number in _leaves(item, key).items()}


def _identity(run: Path) -> Json:
    provenance = read_json(run / "provenance.json")
    return {**provenance["identity"], "config_hash": provenance["config_hash"]}
