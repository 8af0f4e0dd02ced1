"""Where configurations come from: `.config`, defconfigs, step fragments, and the command line of make.

make hands the variables of its command line to a recipe in MAKEFLAGS. They are read from there, so that neither make
nor a shell ever expands them: `make MODEL_NAME='$(shell date)'` is refused as a strange name, not run.
"""

from __future__ import annotations

import functools
import os
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from gpt2.assignments import Assignment, read_assignments
from gpt2.base.errors import UserError
from gpt2.base.files import ROOT
from gpt2.base.text import shown
from gpt2.dotconfig import Resolved, did_you_mean, is_removed, load, resolve, settable_symbols

DOTCONFIG = Path(".config")
"""The configuration that commands work on, in the directory they are run in."""

MAKE_VARIABLES = {
    "V": "1 shows the commands that make runs",
    "PYTHON": "a Python that has all packages; used as it is, and nothing is installed",
    "KCONFIG_SEED": "seed of randconfig, a whole number",
    "RESULTS": "directory of an experiment, for verify, report, plots and inspect; else the one of .config",
}
"""Variables of the Makefile's own, which are no settings."""

_STEP_NAME = re.compile(r"([0-9]+)-([a-z][\w.-]*)", re.ASCII | re.IGNORECASE)
"""Number and name. The name is found beside numbers and ranges of them, so it is none."""

_SIZE_NAME = re.compile(r"\w[\w.-]*", re.ASCII)

_WORD = re.compile(r"(?:[^\s\\]|\\.)+", re.DOTALL | re.ASCII)
_VARIABLE = re.compile(r"(\w+)=(.*)", re.DOTALL | re.ASCII)


@dataclass(frozen=True, kw_only=True)
class Step:
    """An ablation step: a fragment in defconfigs/steps/, such as `2-ra-v5-eager.config`."""

    number: int
    name: str
    path: Path
    settings: tuple[tuple[str, str], ...] = ()
    """What is asked of it besides, symbol and value: `ra-v5-eager@RA_V5_R=8`."""

    def assignments(self) -> list[Assignment]:
        """What its fragment sets."""
        return read_assignments(self.path)


SIZE = "STUDY_SIZE"
"""What says of a run which size it is, and labels its arm."""


@dataclass(frozen=True, kw_only=True)
class Size:
    """A rung of a ladder: a fragment in defconfigs/sizes/, such as `45m.config`."""

    name: str
    path: Path

    def assignments(self) -> list[Assignment]:
        """What the size sets, and that it is this one."""
        return [*read_assignments(self.path), Assignment(SIZE, self.name, "ABLATION_SIZES")]


def configuration(environ: Mapping[str, str] = os.environ) -> Resolved:
    """The `.config`, with the settings of make's command line over it. Raises UserError."""
    return overlay(load_dotconfig(), command_line_assignments(environ))


def load_dotconfig() -> Resolved:
    """The `.config` as it stands. Raises UserError, which says what to type if there is none."""
    if not DOTCONFIG.exists():
        raise UserError(
            f"there is no {DOTCONFIG}: `make list-defconfigs` lists configurations to start from, "
            "`make defconfig-NAME` takes one, `make menuconfig` makes your own"
        )
    return load(DOTCONFIG)


def load_old_dotconfig() -> Resolved:
    """The `.config` of an earlier version: symbols that there are no more are dropped, with a line on stderr each."""
    if not DOTCONFIG.exists():
        return load_dotconfig()
    kept = []
    for assignment in read_assignments(DOTCONFIG):
        if is_removed(assignment):
            dropped = f"there is no such symbol: dropped{did_you_mean(assignment.symbol, [])}"
            print(f"note: {assignment.origin}: {assignment}: {dropped}", file=sys.stderr)
        else:
            kept.append(assignment)
    return resolve(kept)


def overlay(base: Resolved, *layers: Sequence[Assignment]) -> Resolved:
    """Lay assignments over a complete configuration. What `base` has by default may follow the change."""
    return resolve(base.minimal(), *layers)


def list_defconfigs() -> list[Path]:
    """The shipped configurations."""
    return sorted(path for path in (ROOT / "defconfigs").glob("[!.]*") if path.is_file())


def find_defconfig(name: str) -> Path:
    """The shipped configuration of that name. Raises UserError."""
    paths = {path.name: path for path in list_defconfigs()}
    if name not in paths:
        raise UserError(f"there is no defconfigs/{name}{did_you_mean(name, list(paths))} (`make list-defconfigs`)")
    return paths[name]


def list_steps() -> list[Step]:
    """The ablation steps, by number. Raises UserError where a fragment's name is none of a step, or is taken."""
    steps: list[Step] = []
    taken: dict[str, Path] = {}
    for path, match in _fragments("steps", _STEP_NAME, "NUMBER-NAME.config, such as 2-ra-v5-eager.config"):
        step = Step(number=int(match[1]), name=match[2], path=path)
        for what, key in (("number", str(step.number)), ("name", step.name)):
            if key in taken:
                raise UserError(f"{_shown(path)}: its {what}, {key}, is that of {_shown(taken[key])}: take another")
            taken[key] = path
        steps.append(step)
    return sorted(steps, key=lambda step: step.number)


def find_step(step: str) -> Step:
    """The ablation step of that number or name. Raises UserError."""
    steps = {key: found for found in list_steps() for key in (str(found.number), found.name)}
    if step not in steps:
        raise UserError(f"there is no ablation step {step!r}{did_you_mean(step, list(steps))} (`make list-steps`)")
    return steps[step]


def list_sizes() -> list[Size]:
    """The sizes, by name. Raises UserError where a fragment's name is none of a size."""
    found = _fragments("sizes", _SIZE_NAME, "NAME.config, such as 45m.config, of letters, digits, dots, dashes")
    return [Size(name=path.stem, path=path) for path, _ in found]


def _fragments(folder: str, name: re.Pattern[str], expected: str) -> Iterator[tuple[Path, re.Match[str]]]:
    """The fragments in a folder of defconfigs/ with the match of their names, in order of these. Raises UserError."""
    for path in sorted((ROOT / "defconfigs" / folder).glob("[!.]*.config")):  # editors leave hidden ones
        match = name.fullmatch(path.stem)
        if match is None or not path.is_file():
            raise UserError(f"{_shown(path)}: expected a file {expected}")
        yield path, match


def _shown(path: Path) -> str:
    return shown(path.relative_to(ROOT))


def find_size(name: str) -> Size:
    """The size of that name. Raises UserError."""
    sizes = {size.name: size for size in list_sizes()}
    if name not in sizes:
        raise UserError(
            f"there is no defconfigs/sizes/{name}.config{did_you_mean(name, list(sizes))} (`make list-sizes`)"
        )
    return sizes[name]


def command_line_assignments(environ: Mapping[str, str] = os.environ) -> list[Assignment]:
    """The settings among the variables of make's command line, with or without CONFIG_.

    Raises UserError for a variable that is neither a symbol nor one of MAKE_VARIABLES, and for RESULTS, which those
    that read an experiment's directory take instead of settings. Of symbols in the environment, which are not read, a
    line on stderr says so.
    """
    assignments: dict[str, Assignment] = {}
    symbols = settable_symbols()
    variables = command_line_variables(environ)
    for symbol in symbols:
        for name in {symbol, f"CONFIG_{symbol}"} & environ.keys() - variables.keys():
            value = environ[name] if len(environ[name]) < 60 else f"{environ[name][:60]}..."
            note(f"{name}={value!r} in the environment is not read; as an argument it is: make {symbol}=...")
    for variable, value in variables.items():
        if variable == "RESULTS":
            raise UserError(
                f"command line: RESULTS={value!r}: is for verify, report, plots and inspect, without settings beside "
                "it; where runs go, RESULTS_DIR and MODEL_NAME say"
            )
        if variable in MAKE_VARIABLES:
            continue
        symbol = variable.removeprefix("CONFIG_")
        if symbol not in symbols:
            hint = did_you_mean(symbol.upper(), [*symbols, *MAKE_VARIABLES])
            own = ", ".join(MAKE_VARIABLES)
            raise UserError(f"command line: {variable}={value!r}: neither a symbol nor one of {own}{hint}")
        if symbol in assignments:
            raise UserError(f"command line: {symbol} is given twice, with and without CONFIG_")
        assignments[symbol] = Assignment(symbol, value, "command line")
    return list(assignments.values())


@functools.cache
def note(line: str) -> None:
    """Say something once, however often a command looks at its settings."""
    print(f"note: {line}", file=sys.stderr)


def assignment(text: str) -> Assignment:
    """A setting that a script was given as an argument, "SYMBOL=value", with or without CONFIG_. Raises UserError."""
    symbol, equals, value = text.partition("=")
    if not equals:
        raise UserError(f"command line: {text!r}: write SYMBOL=value")
    return Assignment(symbol.removeprefix("CONFIG_"), value, "command line")


def refuse_assignments(command: str, environ: Mapping[str, str] = os.environ, *, instead: str = "") -> None:
    """Raise UserError if make's command line has settings, which this command has no use for.

    `instead`: what to do about it, appended to the message.
    """
    if assignments := command_line_assignments(environ):
        names = ", ".join(assignment.symbol for assignment in assignments)
        raise UserError(f"make {command} takes no settings on its command line: {names}{instead}")


def named_experiment(environ: Mapping[str, str] = os.environ) -> Path | None:
    """The experiment's directory that make's command line names, RESULTS=results/NAME, or None. Raises UserError."""
    variables = command_line_variables(environ)
    path = variables.get("RESULTS")
    if path is None:
        return None
    if not variables.keys() <= MAKE_VARIABLES.keys():
        command_line_assignments(environ)  # which says what is wrong with it
    if not path or not Path(path).is_dir():
        raise UserError(f"command line: RESULTS={path!r}: there is no such directory; name one such as results/NAME")
    return Path(path)


def command_line_variables(environ: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Name -> value of the variables on make's command line, in no particular order.

    In MAKEFLAGS they come last, after `--`, with `$` doubled and a backslash before each blank and backslash.
    """
    words = _WORD.findall(environ.get("MAKEFLAGS", ""))
    variables = {}
    for word in words[words.index("--") + 1 :] if "--" in words else []:
        plain = re.sub(r"\\(.)", r"\1", word, flags=re.DOTALL).replace("$$", "$")
        match = _VARIABLE.fullmatch(plain)
        if match is None:
            raise UserError(f"command line: {plain!r}: write NAME=value")
        variables[match[1]] = match[2]
    return variables
