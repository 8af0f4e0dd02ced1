"""The arms of an experiment: what each lays over the configuration, and the name of its directory.

An arm is a step, at a size, with swept values: `ra-v5-eager@STUDY_SIZE=small@RA_V5_R=8`. Beside those that are compared
there are, of what they are compared with, other lengths (`baseline@MAX_ITERS=96`) and reruns (`baseline@RERUN=1`).
"""

from __future__ import annotations

import functools
import hashlib
import itertools
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from gpt2.assignments import Assignment
from gpt2.base.errors import UserError
from gpt2.base.text import shown
from gpt2.config import DATA_PATHS, RunConfig, is_of_a_run
from gpt2.dotconfig import Resolved, did_you_mean, file_of, resolve
from harness.configure.kconfig import SIZE, Size, Step, list_steps, note, overlay
from harness.configure.study import StudyConfig, Sweep

PATHS = (*DATA_PATHS, "INIT_FROM")
"""Settings whose values are paths, and what is found there other data or another start."""

COMPILED = Assignment("COMPILE_MODEL", "y", "STUDY_COMPILE")
"""What STUDY_COMPILE lays over every step."""

MAX_NAME_BYTES = 255
"""Of a directory's name, on the file systems there are."""


@dataclass(frozen=True, kw_only=True)
class Arm:
    """Runs that differ in nothing but their seed."""

    name: str
    """Of its directory."""

    layers: tuple[tuple[Assignment, ...], ...]
    """What it lays over the configuration, later ones on top."""

    def with_settings(self, *assignments: Assignment, label: str = "") -> Arm:
        """This arm with other settings over its own, and `label` behind its name."""
        return Arm(name=self.name + label, layers=(*self.layers, assignments))


def compared_arms(base: Resolved, steps: Sequence[Step], sizes: Sequence[Size], sweep: Sweep) -> list[Arm]:
    """The arms that are compared with each other: every step at every size with every swept value that it depends on.

    Raises UserError where a swept value makes no difference to any of them.
    """
    arms: list[Arm] = []
    parts: list[Step | Size] = [*sizes, *steps]
    for of in parts:
        _refuse_what_is_no_arms(of)
    for size in sizes or (None,):
        for step in steps or (None,):
            arm = Arm(name="", layers=tuple(tuple(part.assignments()) for part in (size, step) if part))
            name = step.name if step else overlay(base, *arm.layers).run_config().model.attention.replace("_", "-")
            if base.symbols.get("STUDY_COMPILE"):
                arm = arm.with_settings(COMPILED)
            arm = replace(arm, name=name + (f"@{SIZE}={size.name}" if size else ""))
            if step and step.settings:
                arm = _as_asked(base, arm, step)
            arms += swept(base, arm, sweep, "ABLATION_SWEEP")
    for symbol, values in sweep:
        if len(values) > 1 and not any(f"@{symbol}=" in arm.name for arm in arms):
            raise UserError(
                f'ABLATION_SWEEP="{symbol}={",".join(values)}": {symbol} does nothing in any of the runs: '
                f"{', '.join(arm.name for arm in arms)}"
            )
    return arms


def _refuse_what_is_no_arms(of: Step | Size) -> None:
    """Raise UserError for what a fragment sets that makes no arm, or where it names a step that there is not."""
    known = [step.name for step in list_steps()]
    for a in of.assignments():
        if a.symbol in ("STEP_REFERENCE", "STEP_BESIDE"):
            for name in step_names(a.value):
                if name not in known:
                    raise UserError(f"{a.origin}: {a}: there is no step {shown(name)}{did_you_mean(name, known)}")
        elif a.symbol == SIZE or (isinstance(of, Step) and a.symbol.startswith("STEP_")):
            continue
        elif a.symbol in ("SEED", "RERUN") or file_of(a.symbol) in ("Kconfig", "harness/Kconfig"):
            raise UserError(f"{a.origin}: {a}: is of no single arm: it belongs into the experiment's own configuration")


def _as_asked(base: Resolved, arm: Arm, step: Step) -> Arm:
    """A step's arm with what is asked of it besides. UserError where one of that makes no other run of it."""
    run = _what_is_run(overlay(base, *arm.layers).run_config())
    for symbol, value in step.settings:
        said = f"@{symbol}={label(symbol, value)}"
        arm = arm.with_settings(Assignment(symbol, value, "RA_MLA_ABLATION_STEPS"), label=said)
        without, run = run, _what_is_run(overlay(base, *arm.layers).run_config())
        if run == without:
            raise UserError(f"RA_MLA_ABLATION_STEPS: {step.name}{said}: is the same run without {said}: leave it out")
    return arm


def swept(base: Resolved, arm: Arm, sweep: Sweep, setting: str) -> list[Arm]:
    """An arm once for each combination of the swept values that it depends on. `setting`: what asks for them."""
    runs: dict[tuple[str, ...], dict[str, Any]] = {}
    made: dict[tuple[str, ...], Arm] = {}
    for values in itertools.product(*(values for _, values in sweep)):
        settings = [Assignment(symbol, value, setting) for (symbol, _), value in zip(sweep, values, strict=True)]
        made[values] = arm.with_settings(*settings)  # a swept value wins over the fragment's own
        runs[values] = _what_is_run(overlay(base, *made[values].layers).run_config())

    def matters(i: int, values: tuple[str, ...]) -> bool:
        """Whether another value of the i-th swept symbol would make another run of these."""
        others = ((*values[:i], other, *values[i + 1 :]) for other in sweep[i][1])
        return any(runs[other] != runs[values] for other in others)

    arms: dict[str, tuple[str, ...]] = {}
    for values in made:
        name = arm.name + "".join(
            f"@{symbol}={label(symbol, value)}"
            for i, ((symbol, _), value) in enumerate(zip(sweep, values, strict=True))
            if matters(i, values)
        )
        if len(name.encode()) > MAX_NAME_BYTES:
            raise UserError(f"{setting}: {name[:60]}...: too long to name a directory: sweep less at a time")
        for known, of_known in arms.items():
            if known != name and runs[of_known] == runs[values]:
                raise UserError(f"{setting}: {known} and {name} would be the same run: name each value once")
        arms.setdefault(name, values)
    return [replace(made[values], name=name) for name, values in arms.items()]


def labels(name: str) -> dict[str, str]:
    """Symbol -> value as the name of an arm's directory says; of a path it says `label`."""
    return dict(part.split("=", 1) for part in name.split("@")[1:] if "=" in part)


def promised(name: str, settings: Mapping[str, str]) -> list[Sequence[Assignment]]:
    """What a directory of that name promises of the configuration in it, in layers: what its step sets, what the study
    lays over every step, and what the name says. Where there are no steps, arms are called by their attention.

    Of the study's settings not all are in the name: STUDY_COMPILE is not, and of swept and tuned ones neither paths nor
    what the arm alone got. The values of these are taken from `settings`, the configuration's own.
    """
    free = {
        part.partition("=")[0].strip().removeprefix("CONFIG_")
        for study in ("ABLATION_SWEEP", "STUDY_TUNE")
        for part in settings.get(study, "").split(";")
    }
    said = {symbol: value for symbol, value in labels(name).items() if symbol not in PATHS}
    base = name.partition("@")[0]
    attention = f"ATTENTION_{base.replace('-', '_').upper()}"
    of_attention = [Assignment(attention, "y", "the directory's name")] if attention in settings else []
    return [
        [Assignment("RERUN", "0", "the directory's name")] if "RERUN" in settings else [],
        of_attention if settings.get("RA_MLA_ABLATION_MODE") == "n" else fragment(base),
        [COMPILED] if settings.get("STUDY_COMPILE") == "y" else (),
        [Assignment(symbol, settings[symbol], "config") for symbol in sorted(free & settings.keys())],
        [Assignment(symbol, value, "the directory's name") for symbol, value in said.items()],
    ]


@functools.cache
def fragment(name: str) -> tuple[Assignment, ...]:
    """What the step of that name sets; nothing where there is no such step."""
    return tuple(a for step in list_steps() if step.name == name for a in step.assignments())


def beside(base: Resolved, arms: Sequence[Arm], study: StudyConfig) -> list[Arm]:
    """The other lengths, and the reruns, of the arms that others are compared with and that have no reference."""
    steps = {arm.name.partition("@")[0] for arm in arms}
    found: list[Arm] = []
    for arm in arms if study.lengths or study.reruns else ():
        resolved = overlay(base, *arm.layers)
        own = arm.name.partition("@")[0]
        if any(name in steps and name != own for name in references(resolved)):
            continue
        iters = int(resolved.symbols["MAX_ITERS"])
        lengths = {share: max(1, round(share * iters)) for share in study.lengths}
        if len({iters, *lengths.values()}) <= len(lengths):
            asked = ", ".join(f"{share:g} is {n}" for share, n in lengths.items())
            raise UserError(f"STUDY_LENGTHS: of MAX_ITERS={iters} {asked}: too few steps to tell them apart")
        for n in lengths.values():
            length = Assignment("MAX_ITERS", str(n), "STUDY_LENGTHS")
            found.append(arm.with_settings(length, label=f"@MAX_ITERS={n}"))
        for i in range(1, study.reruns + 1):
            found.append(arm.with_settings(Assignment("RERUN", str(i), "STUDY_RERUNS"), label=f"@RERUN={i}"))
    return found


def references(resolved: Resolved) -> tuple[str, ...]:
    """The steps that a configuration's runs may be compared with, best first."""
    return step_names(str(resolved.symbols["STEP_REFERENCE"]))


def references_of(arm: str) -> tuple[str, ...]:
    """The same of an arm of that name, by its step; none where there is no such step."""
    settings = fragment(arm.partition("@")[0])
    return references(resolve(settings)) if settings else ()


def step_names(text: str) -> tuple[str, ...]:
    """The names in a text such as "mla,baseline", each once."""
    return tuple(dict.fromkeys(name for name in map(str.strip, text.split(",")) if name))


def fitting(step: str, arm: str, names: Iterable[str]) -> str | None:
    """Which of these arms is the one of a step that an arm may be compared with; None where none is.

    Where values are swept, they have to agree in what both sweep: ra-v5@LEARNING_RATE=1e-3@RA_V5_R=8 is compared with
    baseline@LEARNING_RATE=1e-3. Sizes are never mixed.
    """

    def swept_in(name: str) -> set[str]:
        return set(name.split("@")[1:])

    def size(name: str) -> set[str]:
        return {said for said in swept_in(name) if said.startswith(f"{SIZE}=")}

    of_step = [name for name in names if name.partition("@")[0] == step]
    found = [name for name in of_step if swept_in(name) <= swept_in(arm) and size(name) == size(arm)]
    return max(found, key=lambda name: len(swept_in(name)), default=None)


def reference_among(arm: str, steps: Iterable[str], names: Collection[str]) -> str | None:
    """The arm, among these, that an arm is compared with. `steps`: its references, best first."""
    own = arm.partition("@")[0]
    return next(filter(None, (fitting(step, arm, names) for step in steps if step != own)), None)


def refuse_sweep(setting: str, symbol: str, values: Sequence[str]) -> None:
    """Raise UserError for a symbol that does not make runs different, or a value that cannot name a directory."""
    where = f'{setting}="{symbol}={",".join(values)}"'
    for value in values:
        if symbol not in PATHS and any(c in "/\\@" or not c.isprintable() for c in value):
            raise UserError(f"{where}: {value!r} cannot be part of a directory's name")
    if symbol == "SEED":
        raise UserError(f"{where}: SEED cannot be swept: ABLATION_SEEDS={','.join(values)} says the seeds")
    if file_of(symbol) in ("Kconfig", "harness/Kconfig"):
        raise UserError(f"{where}: {symbol} cannot be swept: it names or plans the experiment, and is of no single run")
    if symbol not in PATHS and not is_of_a_run(symbol):
        raise UserError(
            f"{where}: {symbol} cannot be swept: a name, a place or a pace of logging, it changes no number of a run"
        )


def refuse_the_same_twice(configs: Mapping[str, RunConfig]) -> None:
    """Raise UserError where two arms of one step would be the same run. Of two steps it is said: it may be meant so."""
    runs: dict[str, str] = {}
    for name, config in configs.items():
        run = repr(sorted(_what_is_run(config).items()))
        if run in runs:
            if runs[run].partition("@")[0] == name.partition("@")[0]:
                raise UserError(f"RA_MLA_ABLATION_STEPS: {runs[run]} and {name} would be the same run: name each once")
            note(f"{runs[run]} and {name} are the same run under two names")
        runs.setdefault(run, name)


def _what_is_run(config: RunConfig) -> dict[str, Any]:
    """What makes a run another one, as far as can be told without opening its data."""
    return config.identity() | {"DATASET_TEXT_PATHS": config.data.text_paths, "DATASET_BIN_DIR": config.data.bin_dir}


def label(symbol: str, value: str) -> str:
    """A swept value as part of a directory's name. Of a path the last component, and a hash of the whole."""
    if symbol not in PATHS:
        return value
    last = re.sub(r"[^A-Za-z0-9._+-]+", "-", Path(value).name).strip("-.")[:40]
    return f"{last or 'path'}-{hashlib.sha256(value.encode()).hexdigest()[:8]}"
