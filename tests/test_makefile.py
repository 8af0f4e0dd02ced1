"""The Makefile: thin, safe with any value, at home in any directory. And scripts/venv.py, which it sets up with."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from importlib.machinery import ModuleSpec
from pathlib import Path

import pytest

from gpt2.assignments import Assignment
from gpt2.base.errors import UserError
from gpt2.base.files import ROOT
from gpt2.dotconfig import load, resolve
from harness.configure.kconfig import MAKE_VARIABLES
from scripts import venv

PARTS = ["Kconfig", "Makefile", "constraints.txt", "defconfigs", "gpt2", "harness", "scripts"]


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the checkout, at a path with spaces."""
    copy = tmp_path_factory.mktemp("a path") / "with spaces"
    copy.mkdir()
    for part in PARTS:
        source = ROOT / part
        if source.is_dir():
            shutil.copytree(source, copy / part, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, copy / part)
    return copy


def make(checkout: Path, *arguments: str, python: str | None = sys.executable) -> subprocess.CompletedProcess[str]:
    """make in the copy, with PYTHON in the environment unless it is None."""
    environ = {"PATH": os.environ["PATH"], **({"PYTHON": python} if python else {})}
    return subprocess.run(["make", *arguments], cwd=checkout, env=environ, capture_output=True, text=True)


def errors(result: subprocess.CompletedProcess[str]) -> list[str]:
    """What went to stderr, without make's own closing line."""
    return [line for line in result.stderr.splitlines() if not line.startswith("make: ***")]


def test_help_needs_neither_python_nor_dotconfig(checkout: Path) -> None:
    result = make(checkout, "help", python=None)
    assert (result.returncode, result.stderr) == (0, "")
    assert not (checkout / ".venv").exists()
    assert max(map(len, result.stdout.splitlines())) <= 80
    targets = set(re.findall(r"^  ([a-z-]+(?:NAME)?) ", result.stdout, re.MULTILINE))
    assert {"all", "check", "continue", "defconfig-NAME", "menuconfig", "quickstart", "test"} <= targets
    assert set(re.findall(r"^  ([A-Z_]+)=", result.stdout, re.MULTILINE)) == {"MAX_ITERS", *MAKE_VARIABLES}


def test_every_target_has_its_script(checkout: Path) -> None:
    targets = re.findall(r"^([a-z][a-z-]*):.*## ", (ROOT / "Makefile").read_text(), re.MULTILINE)
    for target in targets:
        planned = make(checkout, "--dry-run", target).stdout
        for module in re.findall(r"-m (scripts\.\w+)", planned):
            assert (ROOT / module.replace(".", "/")).with_suffix(".py").exists(), (target, module)


def test_the_makefile_reads_no_variables_but_its_documented_ones() -> None:
    text = (ROOT / "Makefile").read_text()
    ours = {"CONFIGURE", "ENV", "Q", "RUN"}
    assert set(re.findall(r"\$\(([A-Z_]+)\)", text)) == ours
    # What others may set is read as it stands, and what is ours nobody else sets.
    assert set(re.findall(r"\$\(value \.?([A-Z_]+)\)", text)) == {
        *("FEATURES", "MAKEOVERRIDES", "MAKE_VERSION", "PYTHON", "V"),
    }
    assigned = re.findall(r"^((?:override )?)(?:define )?([\w.]+)(?: :?=|$)", text, re.MULTILINE)
    assert ours < {name for _, name in assigned}
    assert {prefix for prefix, name in assigned if name not in ("endif", "endef", "else")} == {"override "}
    assert not re.search(r"^-?include|^export", text, re.MULTILINE)


def test_the_two_spellings_of_a_defconfig(checkout: Path) -> None:
    for target in ("defconfig-gpt2-baseline", "gpt2-baseline_defconfig"):
        result = make(checkout, target)
        assert (result.stdout, result.stderr) == ("Wrote .config from defconfigs/gpt2-baseline\n", "")
        assert load(checkout / ".config").symbols["MODEL_NAME"] == "gpt2-baseline"


def test_v_shows_the_command_and_python_may_come_on_the_command_line(checkout: Path) -> None:
    result = make(checkout, "V=1", f"PYTHON={sys.executable}", "list-steps", python=None)
    assert result.stdout.startswith(f"'{sys.executable}' -m scripts.list_steps\n")
    assert not (checkout / ".venv").exists()


def test_targets_run_in_the_order_given_even_with_jobs(checkout: Path) -> None:
    result = make(checkout, "-j4", "defconfig-gpt2-ra-v5-quickstart", "olddefconfig", "savedefconfig")
    assert result.stdout.splitlines() == [
        "Wrote .config from defconfigs/gpt2-ra-v5-quickstart",
        "Wrote .config from .config",
        "Wrote defconfig",
    ]


INJECTIONS = [
    "$(shell touch pwned)",
    "`touch pwned`",
    "; touch pwned;",
    '"; touch pwned; "',
    "'; touch pwned; '",
    "$$(touch pwned)",
]


@pytest.mark.parametrize("value", INJECTIONS)
def test_no_value_is_ever_expanded(checkout: Path, value: str) -> None:
    taken = make(checkout, "defconfig-gpt2-baseline", f"INIT_FROM={value}")
    assert taken.returncode == 0
    assert load(checkout / ".config").symbols["INIT_FROM"] == value
    for again in ("olddefconfig", "savedefconfig", "listnewconfig"):
        assert make(checkout, again).returncode == 0
    assert load(checkout / "defconfig").symbols["INIT_FROM"] == value
    before = (checkout / ".config").read_bytes()
    refused = make(checkout, "olddefconfig", f"MODEL_NAME={value}")
    assert errors(refused) == [
        f"error: command line: CONFIG_MODEL_NAME={value!r}: use letters, digits, '.', '_' and '-'"
    ]
    assert (checkout / ".config").read_bytes() == before
    for command in ("help", "list-defconfigs", "list-steps", "savedefconfig", "--dry-run all"):
        make(checkout, *command.split(), f"MODEL_NAME={value}")
    assert not list(checkout.glob("pwned*"))


OURS = ["V", "Q", "RUN", "ENV", "PYTHON", "quote", "newline", "variable", "CONFIGURE"]
MAKES = [
    *(
        "SHELL",
        ".SHELLFLAGS",
        "VPATH",
        "GPATH",
        "SUFFIXES",
        "MAKE",
        "MAKEOVERRIDES",
        "MFLAGS",
        "MAKELEVEL",
        "MAKECMDGOALS",
    ),
    *("CURDIR", ".VARIABLES", ".FEATURES", "MAKE_VERSION", ".DEFAULT_GOAL", ".RECIPEPREFIX"),
]
ANYBODYS = ["KCONFIG_SEED", "MODEL_NAME", "CONFIG_MODEL_NAME", "FOO", "IN"]

EXPANDED = "$(file >pwned)${shell touch pwned}$(eval $(shell touch pwned))"
"""What make runs. `file` needs no shell, which may be part of what was changed."""


@pytest.mark.parametrize("name", [*OURS, *MAKES, *ANYBODYS])
@pytest.mark.parametrize("value", [EXPANDED, f"1 {EXPANDED}", *INJECTIONS[1:], "x\ntouch pwned\n", "'\ntouch pwned\n'"])
def test_no_variable_is_ever_expanded(checkout: Path, name: str, value: str) -> None:
    goals = ["help", "list-steps", "defconfig-none", "lint"]
    environ = {"PATH": os.environ["PATH"], "PYTHON": "/bin/true"}
    for command, environment in [
        (["make", f"{name}={value}"], environ),
        (["make"], environ | {name: value}),
        (["make", "--environment-overrides"], environ | {name: value}),
        (["make"], environ | {"MAKEFLAGS": f" -- {name}={escaped(value)}"}),
    ]:
        subprocess.run([*command, "-k", *goals], cwd=checkout, env=environment, capture_output=True, timeout=20)
        assert not (checkout / "pwned").exists(), command


def escaped(value: str) -> str:
    """A value as make writes it to MAKEFLAGS for the makes below it."""
    return re.sub(r"([\s\\])", r"\\\1", value).replace("$", "$$")


@pytest.mark.parametrize(
    "name", ["a python", "it's", 'a "python"', "$(python)", "a`b`", "a\\b", "a;b", "a#b", "a,b)", "$x"]
)
@pytest.mark.parametrize("where", ["command line", "environment"])
def test_a_python_of_any_name_is_run_as_it_is(checkout: Path, tmp_path: Path, name: str, where: str) -> None:
    python = tmp_path / name
    python.write_text('#!/bin/sh\nprintf \'%s|\' "$0" "$@"\n')
    python.chmod(0o755)
    given = [f"PYTHON={python}"] if where == "command line" else []
    result = make(checkout, "list-steps", *given, python=None if given else str(python))
    assert (result.stdout, result.stderr) == (f"{python}|-m|scripts.list_steps|", "")


def test_a_line_break_in_a_name_is_one_line(checkout: Path) -> None:
    for arguments, python in ((["list-steps"], "a\ntouch pwned"), (["defconfig-a\ntouch pwned"], sys.executable)):
        result = make(checkout, *arguments, python=python)
        assert result.returncode == 2
        assert "a line break in 'a" in result.stderr
        assert not (checkout / "pwned").exists()


@pytest.mark.parametrize("name", ["'; touch pwned; '", "`touch pwned`", "$$(touch pwned)", '"; touch pwned; "'])
def test_no_name_is_ever_expanded(checkout: Path, name: str) -> None:
    result = make(checkout, f"defconfig-{name}")
    assert errors(result) == [f"error: there is no defconfigs/{name} (`make list-defconfigs`)"]
    assert not (checkout / "pwned").exists()


@pytest.mark.parametrize("target", ["all", "olddefconfig", "savedefconfig"])
def test_without_dotconfig_one_line_says_what_to_type(checkout: Path, target: str) -> None:
    (checkout / ".config").unlink(missing_ok=True)
    result = make(checkout, target)
    assert result.returncode == 2
    assert len(errors(result)) == 1
    assert errors(result)[0].startswith("error: there is no .config: ")


@pytest.mark.parametrize("target", ["check", "list-steps", "defconfig-gpt2-baseline"])
def test_a_misspelt_setting_is_refused(checkout: Path, target: str) -> None:
    assert make(checkout, "defconfig-gpt2-ra-v5-quickstart").returncode == 0
    result = make(checkout, target, "MAX_ITER=1")
    assert result.returncode == 2
    assert len(errors(result)) == 1
    assert "MAX_ITER='1': neither a symbol nor one of" in errors(result)[0]


@pytest.mark.parametrize(
    ("target", "meant"),
    [
        ("menuconfg", "menuconfig"),
        ("Menuconfig", "menuconfig"),
        ("trian", None),
        ("chek", "check"),
        ("contiune", "continue"),
        ("defconfig", "defconfig-NAME"),
        ("gpt2-baseline", "defconfig-gpt2-baseline"),
        ("mr-proper", "mrproper"),
        ("xyzzy", None),
    ],
)
@pytest.mark.parametrize("python", [sys.executable, None], ids=["PYTHON", "no .venv"])
def test_an_unknown_target_gets_the_one_that_was_meant(
    checkout: Path, target: str, meant: str | None, python: str | None
) -> None:
    result = make(checkout, target, python=python)
    hint = f"; did you mean {meant}?" if meant else ""
    assert result.returncode == 2
    assert errors(result) == [f"error: No rule to make target {target!r}{hint} (`make help`)"]
    assert not (checkout / ".venv").exists()


@pytest.mark.parametrize(
    "target", ["$(shell touch pwned)", "`touch pwned`", "'; touch pwned; '", "$$(touch pwned)", "%"]
)
def test_no_unknown_target_is_ever_expanded(checkout: Path, target: str) -> None:
    result = make(checkout, target)
    assert result.returncode == 2
    assert len(errors(result)) == 1
    assert not list(checkout.glob("pwned*"))


def test_continue_never_trains_the_defaults(checkout: Path) -> None:
    """Whatever has become of the experiment's configuration, or of the note which experiment it was."""
    experiment = checkout / "results" / "mine"
    experiment.mkdir(parents=True, exist_ok=True)
    (checkout / ".last-experiment").write_text("results/mine\n")
    config = resolve([Assignment("MODEL_NAME", "mine", "test")]).text()
    lines = config.splitlines(keepends=True)
    damaged = {
        "": "says nothing of",
        "# nothing\n": "says nothing of",
        config[: len(config) // 2]: "",
        config.replace("CONFIG_MAX_ITERS=5000\n", ""): "says nothing of 1 of",
        config.replace("MAX_ITERS=5000", "MAX_ITERS=5e3"): "must be a whole number",
        "".join(reversed(lines)) + "CONFIG_MAX_": "is not CONFIG_NAME=value",
        "\0" * 100: "control character",
    }
    for text, message in damaged.items():
        (experiment / "config").write_text(text)
        result = make(checkout, "continue")
        assert (result.returncode, len(errors(result))) == (2, 1)
        assert errors(result)[0].startswith("error: results/mine/config")
        assert message in errors(result)[0]
    (experiment / "config").unlink()
    assert errors(make(checkout, "continue")) == [
        "error: results/mine/config: cannot be read: No such file or directory"
    ]
    (checkout / ".last-experiment").write_text("")
    assert errors(make(checkout, "continue"))[0].startswith("error: .last-experiment: is empty")
    assert sorted(path.name for path in experiment.parent.iterdir()) == ["mine"]
    assert list(experiment.iterdir()) == []
    (checkout / ".last-experiment").unlink()
    experiment.rmdir()


def test_an_old_python_is_told_so() -> None:
    script = "import sys; sys.version_info = (3, 9, 18); import scripts"
    result = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 1
    assert re.fullmatch(r"error: Python 3\.10 or newer is needed, and .+ is \S+\n", result.stderr)


SCRIPTS = {path.stem for path in (ROOT / "scripts").glob("[!_]*.py")}
BY_THEMSELVES = {"audit", "no_such_target", "reference", "venv"}
"""These import nothing that could be missing."""


@pytest.mark.parametrize("script", sorted(SCRIPTS - BY_THEMSELVES))
def test_a_python_that_lacks_packages_is_told_which(script: str) -> None:
    # -S: no site-packages, as of a Python that has nothing installed.
    command = [sys.executable, "-S", "-m", f"scripts.{script}", "--help"]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    result = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert result.returncode == 1
    said = r"error: \S+: the package \w+ is not installed; `make` without PYTHON .+\n"
    assert re.fullmatch(said, result.stderr)


def test_constraints_pin_every_dependency() -> None:
    pins = (ROOT / "constraints.txt").read_text()
    project = (ROOT / "pyproject.toml").read_text().partition("tracking = [")[0]
    for package in re.findall(r'^    "([\w-]+)', project, re.MULTILINE):
        assert re.search(rf"^{package}==\S+", pins, re.MULTILINE), package


@pytest.mark.slow
def test_a_venv_is_complete_or_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    Path("constraints.txt").write_text("./there_is_no_such-1.0-py3-none-any.whl\n")
    with pytest.raises(UserError, match=r"pip could not install what constraints\.txt names"):
        venv.main()
    assert not venv.INSTALLED.exists()
    (venv.VENV / "left over").touch()
    Path("constraints.txt").write_text("# nothing\n")
    venv.main()
    assert venv.INSTALLED.read_text() == "# nothing\n"
    assert not (venv.VENV / "left over").exists()
    # The same text under a newer date is no reason to build anything.
    (venv.VENV / "mark").touch()
    os.utime(venv.INSTALLED, (0, 0))
    venv.main()
    assert (venv.VENV / "mark").exists()
    assert venv.INSTALLED.stat().st_mtime > 0


def test_a_python_without_ensurepip_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("constraints.txt").write_text("")

    def find_spec(name: str) -> ModuleSpec | None:
        return None

    monkeypatch.setattr("importlib.util.find_spec", find_spec)
    with pytest.raises(UserError, match=r"^this Python cannot make virtual environments: .*python3-venv.*PYTHON="):
        venv.main()
    assert os.listdir() == ["constraints.txt"]


@pytest.mark.parametrize(
    "name", ["python", "a python", "python's", "python$HOME", 'python"3"', "python;true", "python~*"]
)
def test_no_shell_stands_between_make_and_a_command(tmp_path: Path, name: str) -> None:
    """SIGTERM to make alone is passed on to its children, and a shell among them would die of it without a word."""
    python = tmp_path / name
    python.write_text("#!/bin/sh\ncat /proc/$PPID/comm\n")
    python.chmod(0o755)
    result = make(ROOT, "all", python=str(python))
    assert (result.returncode, result.stdout) == (0, "make\n")
