"""Training with the code of other commits, each in a directory of its own that does not stay.

    with checked_out("HEAD~1") as side:
        for run, directory in train(side, {"MAX_ITERS": "20"}, {}).items(): ...

Nothing of a commit is imported. What is relied on is what all commits keep: make and its settings, the trainer's
command line, how steps are named, and the files of a run (docs/results.md). The command: `scripts/compare_commits.py`.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from gpt2.base.errors import UserError
from gpt2.base.files import ROOT
from gpt2.dotconfig import did_you_mean
from gpt2.run.records import read_metrics

DEFCONFIG = "gpt2-ra-v5-quickstart"

_TRIES = 5


@dataclass(frozen=True, kw_only=True)
class Side:
    """A commit, checked out."""

    name: str
    """Its short id."""

    title: str
    """Its subject."""

    path: Path
    """Where it is checked out."""

    @cached_property
    def steps(self) -> dict[str, str]:
        """Name -> number of the ablation steps that it ships, by number."""
        stems = [path.stem.partition("-") for path in (self.path / "defconfigs" / "steps").glob("*.config")]
        return {name: number for number, _, name in sorted(stems, key=lambda parts: int(parts[0]))}

    @cached_property
    def symbols(self) -> set[str]:
        """Names in its Kconfig tree."""
        texts = [path.read_text(encoding="utf-8") for path in self.path.rglob("Kconfig")]
        return {name for text in texts for name in re.findall(r"^\s*(?:menu)?config (\w+)", text, re.MULTILINE)}

    def known(self, settings: Mapping[str, str]) -> dict[str, str]:
        """Those of the settings that it has."""
        return {symbol: value for symbol, value in settings.items() if symbol in self.symbols}


@contextmanager
def checked_out(commit: str) -> Iterator[Side]:
    """A commit of this checkout's repository in a temporary worktree, which is removed however this is left.

    Raises UserError where there is no such commit.
    """
    found = _git("rev-parse", "--verify", "--quiet", "--end-of-options", f"{commit}^{{commit}}")
    if found.returncode:
        raise UserError(f"{commit!r}: {found.stderr.strip() or 'no such commit'}; `git log` lists them")
    full = found.stdout.strip()
    name, title = _git("show", "--no-patch", "--format=%h%n%s", full).stdout.splitlines()
    with tempfile.TemporaryDirectory(prefix="compare-commits-") as folder:
        path = Path(folder).resolve() / "code"
        try:
            added = _git("worktree", "add", "--quiet", "--detach", str(path), full)
            if added.returncode:
                raise UserError(f"{commit}: git worktree add: {added.stderr.strip()}")
            yield Side(name=name, title=title, path=path)
        finally:
            # A second, impatient Ctrl-C has to wait until git has forgotten the worktree.
            held = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
            _git("worktree", "remove", "--force", str(path))
            signal.pthread_sigmask(signal.SIG_SETMASK, held)


def common_steps(a: Side, b: Side, asked: str | None) -> list[str]:
    """Names of the steps that both commits ship, or of those of them that are asked for by name or number.

    Raises UserError for one that they do not both have.
    """
    both = [name for name in a.steps if name in b.steps]
    if not both:
        raise UserError(f"{a.name} and {b.name} have no ablation step in common")
    if asked is None:
        return both
    names = {name: name for name in both}
    names |= {a.steps[name]: name for name in both if a.steps[name] == b.steps[name]}
    wanted = asked.split(",")
    for name in wanted:
        if name not in names:
            raise UserError(f"--steps: {name!r} is no step of both commits{did_you_mean(name, both)}; there are {both}")
    return [names[name] for name in wanted]


def refuse_unknown(settings: Mapping[str, str], sides: Sequence[Side]) -> None:
    """Raise UserError for a setting that none of the commits has."""
    symbols = sorted(set().union(*(side.symbols for side in sides)))
    for symbol, value in settings.items():
        if symbol not in symbols:
            raise UserError(f"command line: {symbol}={value}: no commit has it{did_you_mean(symbol.upper(), symbols)}")


def train(side: Side, base: Mapping[str, str], given: Mapping[str, str]) -> dict[str, Path]:
    """Train with the code of a commit what the quick start asks for, with `base` and then `given` laid over it.

    It prepares its own data and compiles for itself: how it does so is part of what it is. Returns the directories of
    the runs by `<step>/seed-<seed>`. Raises UserError, with the line that says why, if a run is not done in the end.
    """
    _make(side, f"defconfig-{DEFCONFIG}", {**base, "MODEL_NAME": "undisturbed"})
    _make(side, "all", given)
    return _runs(side, "undisturbed")


def interrupt(side: Side, run: str, at_step: int) -> None:
    """Train a run that `side` has done once more, and interrupt it (SIGINT) after `at_step`, for `go_on`.

    Raises UserError if it fails, or is done each time before it can be interrupted.
    """
    out = _experiment(side, "interrupted") / run
    config = _experiment(side, "undisturbed") / run / "config"
    command = [sys.executable, "gpt2/train_ra_mla.py", "--config", str(config), "--out", str(out)]
    for _ in range(_TRIES):
        shutil.rmtree(out, ignore_errors=True)
        out.mkdir(parents=True)
        with (out / "train.log").open("w") as log, _started(command, side, stdout=log) as process:
            while process.poll() is None:
                lines = read_metrics(out / "metrics.jsonl")
                if any(line["kind"] == "train" and line["step"] >= at_step for line in lines):
                    process.send_signal(signal.SIGINT)
                    process.wait()
                time.sleep(0.001)
        if process.returncode == 130:
            return
        if process.returncode:
            raise UserError(f"{side.name}: {run}: {_reason((out / 'train.log').read_text())}")
    raise UserError(f"{side.name}: {run}: is done before it can be interrupted; give more --iters")


def go_on(side: Side, other: Side, given: Mapping[str, str]) -> dict[str, Path]:
    """Let a commit go on with copies of the runs in which the `other` was interrupted. Returns what `train` returns.

    Raises UserError if it does not: if they are other runs to it, for one.
    """
    shutil.copytree(_experiment(other, "interrupted"), _experiment(side, "interrupted"))
    _make(side, "all", {**given, "MODEL_NAME": "interrupted"})
    return _runs(side, "interrupted")


def _experiment(side: Side, name: str) -> Path:
    return side.path / "results" / name


def _runs(side: Side, experiment: str) -> dict[str, Path]:
    """By the number of the step."""
    steps = list(side.steps)
    paths = _experiment(side, experiment).glob("*/seed-*")
    ordered = sorted(paths, key=lambda path: (steps.index(path.parent.name.partition("@")[0]), path))
    return {f"{path.parent.name}/{path.name}": path for path in ordered}


def _make(side: Side, target: str, settings: Mapping[str, str]) -> None:
    """make in a checked-out commit. Raises UserError, with the line that says why, if it fails."""
    words = [f"{symbol}={value}" for symbol, value in settings.items()]
    with _started(["make", f"PYTHON={sys.executable}", target, *words], side, stdout=subprocess.PIPE) as process:
        output, _ = process.communicate()
    if process.returncode:
        raise UserError(f"{side.name}: make {target}: {_reason(output)}")


@contextmanager
def _started(command: Sequence[str], side: Side, *, stdout: Any) -> Iterator[subprocess.Popen[str]]:
    """A process in a checked-out commit, on one thread, with a cache of compiled code that the other side does not see.

    In a session of its own: Ctrl-C reaches this process alone, which stops it (with SIGTERM, as SIGINT may be ignored
    where this was started) and waits for it; a second one kills.
    """
    environment = {
        name: value for name, value in os.environ.items() if name not in ("MAKEFLAGS", "MFLAGS", "MAKELEVEL")
    }
    environment |= {"OMP_NUM_THREADS": "1", "TORCHINDUCTOR_CACHE_DIR": str(side.path / "results" / ".compiled")}
    process = subprocess.Popen(
        command,
        cwd=side.path,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=stdout,
        stderr=subprocess.STDOUT,
        start_new_session=True,
        text=True,
        errors="replace",
    )
    try:
        yield process
    finally:
        for number in (signal.SIGTERM, signal.SIGKILL):
            if process.poll() is None:
                os.killpg(process.pid, number)
                with suppress(KeyboardInterrupt):
                    process.wait()


def _reason(output: str) -> str:
    """The line of a failed command's output that says why."""
    lines = [line.strip() for line in output.splitlines() if line.strip() and not line.startswith("make: ")]
    telling = [line for line in lines if "error: " in line or "FAILED" in line]
    return (telling or lines or ["printed nothing"])[-1].removeprefix("error: ")


def _git(*arguments: str) -> subprocess.CompletedProcess[str]:
    """git in this checkout, without its hooks."""
    command = ["git", "-c", f"core.hooksPath={os.devnull}", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
