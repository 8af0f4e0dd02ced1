"""The configuration fuzz: whatever is asked for holds, or is refused in one line that names it; `.config` is safe."""

from __future__ import annotations

import contextlib
import io
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from hypothesis import example, given, settings
from hypothesis import strategies as st

from gpt2.assignments import Assignment
from gpt2.base.errors import UserError
from gpt2.dotconfig import load, load_complete, resolve, settable_symbols
from harness.configure.kconfig import DOTCONFIG, find_defconfig, list_defconfigs
from harness.configure.plan import configured_plan, plan_with
from scripts.kconfig import defconfig, olddefconfig

SYMBOLS = settable_symbols()

PLAUSIBLE = [
    *("y", "n", "0", "1", "2", "4", "8", "12", "64", "768", "5000", "-1", "0.0", "0.1", "0.5", "1e-4", "3e-4", "1.0"),
    *("1,2", "1-3", "3-1", "1,1", "a,b", "baseline", "baseline,mla", "1-4", "1-99", "RA_V5_R=2,4", "SEED=1,2"),
    *("BATCH_SIZE=1,2;MAX_ITERS=5", "LEARNING_RATE=1e-3,0.001", "name", "../x", "~", "-rf", "a b", "data", "", " "),
]
ANYTHING = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
"""As an argument of a command can be: no surrogates, and no NUL, which make could not be given either."""

values = st.sampled_from(PLAUSIBLE) | ANYTHING.filter(lambda text: "\0" not in text)
names = st.sampled_from(SYMBOLS) | st.sampled_from(["NO_SUCH", "max_iters", "SEVERAL_ARMS", "MAX_ITERS ", ""])
DEFAULTS = resolve()


def _near(symbol: str) -> st.SearchStrategy[tuple[str, str]]:
    """The symbol with a value of its kind."""
    default = DEFAULTS.value(symbol)
    if default in ("y", "n"):
        return st.tuples(st.just(symbol), st.sampled_from("yn"))
    if default.isdigit():
        return st.tuples(st.just(symbol), st.sampled_from(["1", "2", "4", "8", "16", "64", "128"]))
    try:
        numbers = [str(float(default) * factor) for factor in (0.5, 1, 1.5)]
    except ValueError:
        numbers = ["name", "1", "1-3", "baseline,mla"]
    return st.tuples(st.just(symbol), st.sampled_from(numbers))


near = st.sampled_from(SYMBOLS).flatmap(_near)
assignments = st.lists(near | st.tuples(names, values), max_size=4)
bases = st.sampled_from([path.name for path in list_defconfigs()])


def makeflags(asked: list[tuple[str, str]]) -> str:
    """What make puts into MAKEFLAGS for variables of its command line: it drops blanks before a value."""
    words = [f"{name}={value.lstrip(' ')}" for name, value in asked]
    escaped = ["".join(f"\\{c}" if c.isspace() or c == "\\" else c for c in word).replace("$", "$$") for word in words]
    return " -- " + " ".join(escaped)


@contextlib.contextmanager
def work(flags: str) -> Iterator[None]:
    """A current directory of one example's own, with MAKEFLAGS set."""
    before, place = os.environ.pop("MAKEFLAGS", None), Path.cwd()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        os.environ["MAKEFLAGS"] = flags
        try:
            with contextlib.redirect_stdout(io.StringIO()):
                yield
        finally:
            os.chdir(place)
            del os.environ["MAKEFLAGS"]
            if before is not None:
                os.environ["MAKEFLAGS"] = before


def check_refusal(error: UserError, asked: list[tuple[str, str]]) -> None:
    """One line that names something of what was asked for."""
    message = str(error)
    assert "\n" not in message
    assert any(name.strip() in message or not name for name, _ in asked) or any(v and v in message for _, v in asked)


def check_taken(base: str, asked: list[tuple[str, str]]) -> None:
    """Everything asked for holds in `.config`, which is whole and can be planned again; the rest followed a default."""
    saved = load_complete(DOTCONFIG)
    for name, value in asked:
        assert saved.value(name.removeprefix("CONFIG_")) == value
    expected = plan_with(load(find_defconfig(base)), [Assignment(name, value, "again") for name, value in asked])
    assert expected.base.text() == DOTCONFIG.read_text()
    for name, value in asked:  # in a run, too, or it is of the experiment
        assert any(run.resolved.value(name) == value for run in expected.runs) or name in expected.base.symbols


@settings(max_examples=100)
@given(bases, assignments)
@example("gpt2-baseline", [("ATTENTION_RA_V5", "y"), ("RA_V5_R", "64")])
@example("gpt2-baseline", [("RA_MLA_ABLATION_MODE", "y"), ("RA_MLA_ABLATION_STEPS", "1,99")])
@example("gpt2-baseline", [("ABLATION_SEEDS", "a,b")])
@example("gpt2-ra-v5-r-sweep", [("SEED", "7")])
@example("gpt2-baseline", [("STUDY_TUNE", " ")])
def test_a_configuration_holds_what_was_asked_for_or_is_not_written(base: str, asked: list[tuple[str, str]]) -> None:
    with work(makeflags(asked)):
        try:
            defconfig(base)
        except UserError as error:
            check_refusal(error, asked)
            assert os.listdir() == []
        else:
            # make takes the last of several values of one variable, and drops blanks before a value.
            check_taken(base, [(name, value.lstrip(" ")) for name, value in dict(asked).items()])


@settings(max_examples=100)
@given(bases, st.lists(near, max_size=1), assignments)
def test_settings_over_a_configuration_hold_or_leave_it_alone(
    base: str, first: list[tuple[str, str]], asked: list[tuple[str, str]]
) -> None:
    with work(" -- "):
        try:
            before = plan_with(load(find_defconfig(base)), [Assignment(n, v, "first") for n, v in first]).base
        except UserError:
            return
        before.write(DOTCONFIG)
        os.environ["MAKEFLAGS"] = makeflags(asked)
        try:
            plan = configured_plan()
        except UserError as error:
            check_refusal(error, asked)
            refused = True
        else:
            refused = False
            for name, value in dict(asked).items():
                assert plan.base.value(name.removeprefix("CONFIG_")) == value.lstrip(" ")
        assert DOTCONFIG.read_text() == before.text()
        try:
            olddefconfig()
        except UserError:
            assert refused
            assert DOTCONFIG.read_text() == before.text()
        else:
            assert not refused
            assert Path(".config").read_text() == plan.base.text()


LINES = st.lists(
    st.one_of(
        st.builds(lambda n, v: f"CONFIG_{n}={v}", names, values),
        st.builds(lambda n, v: f'CONFIG_{n}="{v}"', names, values),
        st.builds(lambda n: f"# CONFIG_{n} is not set", names),
        ANYTHING,
    ),
    max_size=6,
)


@settings(max_examples=100)
@given(LINES)
def test_any_file_is_loaded_as_it_says_or_refused_with_its_line(lines: list[str]) -> None:
    with work(" -- "):
        DOTCONFIG.write_text("\n".join(lines), encoding="utf-8", newline="")
        before = DOTCONFIG.read_bytes()
        try:
            plan = configured_plan()
        except UserError as error:
            message = str(error)
            assert "\n" not in message
            assert message.startswith((".config:", "default: CONFIG_", "RESULTS_DIR=")) or "ABLATION_S" in message
        else:
            asked = dict(line.removeprefix("CONFIG_").split("=", 1) for line in lines if line.startswith("CONFIG_"))
            # A bool that has nothing to say is n, and in no file.
            assert {symbol for symbol, value in asked.items() if value != "n"} <= {*plan.base.symbols}
        assert DOTCONFIG.read_bytes() == before
