"""What is asked of Slurm: the SLURM_ symbols of a configuration, typed and checked before anything is submitted."""

from __future__ import annotations

import math
import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass

from gpt2.base.errors import UserError
from gpt2.base.text import shown
from gpt2.symbols import Symbols

# As sbatch takes it: D-HH[:MM[:SS]], MM, MM:SS or HH:MM:SS.
_DAYS = re.compile(r"(?P<d>\d+)-(?P<h>\d+)(:(?P<m>\d+)(:(?P<s>\d+))?)?", re.ASCII)
_NO_DAYS = re.compile(r"((?P<h>\d+):(?=\d+:))?(?P<m>\d+)(:(?P<s>\d+))?", re.ASCII)
_MEMORY = re.compile(r"\d+[KMGT]?", re.ASCII)
_NAME = re.compile(r"[A-Za-z0-9][\w.,+-]*", re.ASCII)
_OPTION = re.compile(r"[a-z][a-z0-9-]*", re.ASCII)

OF_SYMBOLS = {
    "partition": "SLURM_PARTITION",
    "account": "SLURM_ACCOUNT",
    "time": "SLURM_TIME",
    "signal": "SLURM_SIGNAL_S",
    "gpus-per-node": "SLURM_GPUS",
    "gpus": "SLURM_GPUS",
    "cpus-per-task": "SLURM_CPUS",
    "mem": "SLURM_MEM",
    "nodes": "SLURM_NODES",
}
"""Options of sbatch that a symbol of their own says."""

OURS = ("array", "output", "error", "open-mode", "requeue", "no-requeue", "job-name", "ntasks", "ntasks-per-node")
"""Options by which runs are started and found again."""

START_S = 120
"""Of a job's time that its start may take, and by how much Slurm's signal may come too early."""


@dataclass(frozen=True, kw_only=True)
class SlurmConfig:
    """What a job of Slurm, which trains one run, is given. None of it changes a number of the run."""

    partition: str
    """Empty: the cluster's default; so for `account` and `mem`."""

    account: str
    minutes: int
    """The time limit."""

    signal_s: int
    """So long before it the run is told to stop."""

    gpus: int
    """Over all nodes."""

    cpus: int
    """Of each node."""

    mem: str
    """Of each node."""

    nodes: int
    max_jobs: int
    """Jobs of an array that run at once; 0 for as many as the queue gives."""

    extra: Mapping[str, str | bool]
    """Further options of sbatch: long name -> value, True where it has none."""

    processes: int
    """That train a run together, over all nodes."""

    @property
    def processes_per_node(self) -> int:
        """Of each node."""
        return self.processes // self.nodes


def slurm_config(symbols: Symbols) -> SlurmConfig | None:
    """What is asked of Slurm; None where runs are trained on this machine.

    Raises UserError, naming the symbol, the value and what would be right.
    """
    if not symbols.get("LAUNCHER_SLURM"):
        return None
    text = {name: str(symbols[f"SLURM_{name}"]) for name in ("PARTITION", "ACCOUNT", "TIME", "MEM", "EXTRA")}
    gpus, nodes, signal_s = (int(symbols[f"SLURM_{name}"]) for name in ("GPUS", "NODES", "SIGNAL_S"))
    for name in ("PARTITION", "ACCOUNT"):
        _check(not text[name] or _NAME.fullmatch(text[name]), name, text[name], "is no name, such as gpu or gpu,long")
    _check(not text["MEM"] or _MEMORY.fullmatch(text["MEM"]), "MEM", text["MEM"], "write it as 64G or 64000M")
    minutes = _minutes(text["TIME"])
    _check(
        minutes * 60 >= signal_s + START_S,
        "TIME",
        text["TIME"],
        f"must be at least {-(-(signal_s + START_S) // 60)} minutes: a run starts, and stops SLURM_SIGNAL_S={signal_s} "
        "seconds before the end, to which Slurm may add a minute",
    )
    processes = int(symbols.get("PROCESSES_PER_RUN", max(gpus, nodes)))
    for name, value in ("GPUS", gpus), ("NODES", nodes):
        what = f"{processes} processes of a run and {gpus} GPUs cannot be spread evenly over {nodes} nodes"
        _check(gpus % nodes == 0 and processes % nodes == 0, name, value, what)
    _check(gpus in (0, processes), "GPUS", gpus, f"a run is {processes} processes: give it a GPU for each, or 0")
    return SlurmConfig(
        partition=text["PARTITION"],
        account=text["ACCOUNT"],
        minutes=minutes,
        signal_s=signal_s,
        gpus=gpus,
        cpus=int(symbols["SLURM_CPUS"]),
        mem=text["MEM"],
        nodes=nodes,
        max_jobs=int(symbols["SLURM_MAX_JOBS"]),
        extra=_options(text["EXTRA"]),
        processes=processes,
    )


def _minutes(text: str) -> int:
    """A time limit in minutes, rounded up."""
    match = _DAYS.fullmatch(text) or _NO_DAYS.fullmatch(text)
    if match is None:
        raise _refused("TIME", text, "write minutes, or D-HH:MM:SS, such as 90 or 1-12:00:00")
    days, hours, minutes, seconds = (int(match.groupdict().get(unit) or 0) for unit in "dhms")
    return math.ceil(((days * 24 + hours) * 60 + minutes) + seconds / 60)


def _options(text: str) -> dict[str, str | bool]:
    try:
        words = shlex.split(text)
    except ValueError as error:
        raise _refused("EXTRA", text, f"{error}") from None
    options: dict[str, str | bool] = {}
    for word in words:
        name, has_value, value = word.partition("=")
        if not _OPTION.fullmatch(name):
            raise _refused("EXTRA", text, f'"{shown(name)}" is no long option of sbatch, such as constraint=a100')
        if name in OF_SYMBOLS:
            raise _refused("EXTRA", text, f"{name}: {OF_SYMBOLS[name]} says this")
        if name in OURS:
            raise _refused("EXTRA", text, f"{name}: is set by the launcher")
        if name in options:
            raise _refused("EXTRA", text, f"{name}: is given twice")
        options[name] = value if has_value else True
    return options


def _check(condition: object, name: str, value: object, expected: str) -> None:
    if not condition:
        raise _refused(name, value, expected)


def _refused(name: str, value: object, expected: str) -> UserError:
    quoted = f'"{shown(value)}"' if isinstance(value, str) else str(value)
    return UserError(f"CONFIG_SLURM_{name}={quoted}: {expected}")
