"""The efficiency of ablations: the share of the devices' time that goes into training steps.

    bench = Bench(code=ROOT, work=Path("bench"), defconfig="gpt2-ra-v5-quickstart", settings=["N_LAYER=6"])
    bench.measure(seconds=15, gpus=1, cache="warm")

What is measured is a checkout that is named, of this commit or another, by what all commits keep: make, its settings,
and the files of a run (docs/results.md).
"""

from __future__ import annotations

import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from gpt2.base.errors import UserError
from gpt2.run.records import read_provenance, read_summary
from harness.evidence.launches import read_launches

CACHES = ("cold", "warm")
TRIAL_ITERS = 60


@dataclass(frozen=True, kw_only=True)
class Case:
    """An ablation that was measured."""

    seconds: int
    """Of training steps that a run was to have, on average over arms."""

    gpus: int
    slots: int
    """Runs that could be trained side by side."""

    cache: str
    runs: int
    iters: int
    train_s: float
    """Training steps of all runs, by the median of their clean lines."""

    eval_s: float
    checkpoint_s: float
    """For which the training waited."""

    wall_s: float
    """Of `make`, from its start to its end."""

    startup_s: list[float]
    """Of each run, in the order in which they started: until it was ready for its first step."""

    ready_s: float | None
    """Of wall_s, what passed before any run trained; None where the code does not say."""

    clean: float
    """Share of the lines of the log during which nobody else used the device."""

    @property
    def efficiency(self) -> float:
        """Training steps' time / (slots x wall time)."""
        return self.train_s / (self.slots * self.wall_s)

    def _in_the_middle(self) -> str:
        if self.ready_s is None:
            return ""
        return f", {self.train_s / (self.slots * (self.wall_s - self.ready_s)):.3f} from {self.ready_s:.0f} s on"

    def describe(self) -> str:
        """One line."""
        mean = statistics.fmean(self.startup_s)
        return (
            f"{self.slots} x {self.runs // self.slots} runs of {self.train_s / self.runs:.1f} s, {self.cache} cache: "
            f"efficiency {self.efficiency:.3f}{self._in_the_middle()} ({self.train_s:.0f} s of steps, "
            f"{self.wall_s:.0f} s; evaluation {self.eval_s:.1f} s, checkpoints {self.checkpoint_s:.1f} s; ready after "
            f"{self.startup_s[0]:.0f} s, {mean:.0f} s on average; {self.clean:.0%} of lines clean)"
        )


class Bench:
    """Ablations of one checkout, in a directory of their own."""

    def __init__(
        self, *, code: Path, work: Path, defconfig: str, settings: Sequence[str], ms_per_step: float | None = None
    ) -> None:
        if not (code / "Makefile").is_file():
            raise UserError(f"--code {code}: is no checkout of this project: it has no Makefile")
        self._code, self._work = code.resolve(), work.resolve()
        if self._work.exists() and any(self._work.iterdir()):
            raise UserError(f"--work {work}: is not empty: name a new directory")
        self._work.mkdir(parents=True, exist_ok=True)
        self._defconfig = defconfig
        self._settings = [f"RESULTS_DIR={self._work / 'results'}", *settings]
        self._ms = ms_per_step
        """ms per step, mean over the arms."""
        self._device: dict[str, Any] = {}

    def measure(self, *, seconds: int, gpus: int | None, cache: str) -> Case:
        """Run an ablation. UserError where it fails."""
        if self._ms is None:
            trial = self._make("trial", gpus, f"MAX_ITERS={TRIAL_ITERS}", "ABLATION_SEEDS=1")
            self._ms = statistics.fmean(summary["ms_per_step"] for summary in trial[1])
        iters = max(1, round(1000 * seconds / self._ms))
        if cache == "cold":
            shutil.rmtree(self._work / "results" / ".compiled", ignore_errors=True)
        name = f"{cache}-{seconds}-{gpus or 1}"
        wall_s, summaries = self._make(name, gpus, f"MAX_ITERS={iters}")
        launches = read_launches(self._work / "results" / name)  # which older code has not
        timed = [summary.get("timed", {"lines": 1, "shared": 0}) for summary in summaries]
        return Case(
            seconds=seconds,
            gpus=gpus or 1,
            slots=(launches[-1].slots if launches else None) or gpus or 1,
            cache=cache,
            runs=len(summaries),
            iters=iters,
            train_s=sum(summary["iters"] * summary["ms_per_step"] / 1000 for summary in summaries),
            eval_s=sum(summary["eval_time_s"] for summary in summaries),
            checkpoint_s=sum(summary["checkpoint_time_s"] for summary in summaries),
            wall_s=wall_s,
            ready_s=launches[-1].ready_s if launches else None,
            startup_s=[summary["startup_s"] for summary in summaries],
            clean=1 - sum(t["shared"] for t in timed) / sum(t["lines"] for t in timed),
        )

    def report(self, cases: Sequence[Case]) -> dict[str, Any]:
        """For a file."""
        return {
            **self._device,
            "defconfig": self._defconfig,
            "settings": [s for s in self._settings if not s.startswith("RESULTS_DIR=")],
            "ms_per_step": self._ms,
            "cases": [asdict(case) | {"efficiency": case.efficiency} for case in cases],
        }

    def _make(self, name: str, gpus: int | None, *settings: str) -> tuple[float, list[dict[str, Any]]]:
        """Run an ablation of that name. Returns its seconds, and the summaries of its runs as they were started."""
        settings = (*self._settings, *settings, f"MODEL_NAME={name}")
        self._run("defconfig", f"defconfig-{self._defconfig}", *settings, gpus=gpus)
        began = time.monotonic()
        self._run(name, "all", gpus=gpus)
        wall_s = time.monotonic() - began
        runs = sorted(
            (self._work / "results" / name).glob("*/seed-*"), key=lambda run: (run / "provenance.json").stat().st_mtime
        )
        if not runs:
            raise UserError(f"{self._work / 'results' / name}: holds no runs")
        provenance = read_provenance(runs[0] / "provenance.json")
        self._device = {key: provenance[key] for key in ("hardware", "versions", "code")}
        for long in ("diff", "untracked"):
            self._device["code"].pop(long, None)
        return wall_s, [read_summary(run / "summary.json") for run in runs]

    def _run(self, name: str, *arguments: str, gpus: int | None) -> None:
        """make, in the work directory, with the code's Makefile."""
        environment = {k: v for k, v in os.environ.items() if k not in ("MAKEFLAGS", "MFLAGS", "MAKELEVEL")}
        environment["PYTHONPATH"] = os.pathsep.join([str(self._code), *filter(None, [environment.get("PYTHONPATH")])])
        if gpus is not None:
            visible = environment.get("CUDA_VISIBLE_DEVICES", "").split(",")
            here = visible if visible != [""] else [str(i) for i in range(gpus)]
            environment["CUDA_VISIBLE_DEVICES"] = ",".join(here[:gpus])
        log = self._work / f"{name}.log"
        with log.open("a") as file:
            done = subprocess.run(
                ["make", "-f", str(self._code / "Makefile"), f"PYTHON={sys.executable}", *arguments],
                cwd=self._work,
                env=environment,
                stdout=file,
                stderr=subprocess.STDOUT,
            )
        if done.returncode:
            lines = log.read_text().strip().splitlines()
            raise UserError(f"make {arguments[0]} ended with {done.returncode}: {(lines or [''])[-1]} ({log})")
