"""harness/configure/: kconfig.py, menus.py and randconfig.py: make's command line, and what writes `.config`."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gpt2.assignments import Assignment, parse_assignments
from gpt2.base.errors import UserError
from gpt2.base.files import ROOT
from gpt2.dotconfig import load, parse_tree, resolve
from harness.configure import kconfig
from harness.configure.kconfig import command_line_assignments, command_line_variables, named_experiment, overlay
from harness.configure.menus import Editor, new_settings
from harness.configure.randconfig import random_configuration, random_seed

TINY_MAKEFILE = """\
$(foreach v,$(.VARIABLES),$(if $(filter command,$(origin $v)),$(eval unexport $v)))
all: ; @printf '%s' "$$MAKEFLAGS"
"""


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty current directory."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def command(*arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    """`python -m scripts.kconfig` in the current directory, without terminal and display."""
    return subprocess.run(
        [sys.executable, "-m", "scripts.kconfig", *arguments],
        env={"PYTHONPATH": str(ROOT), "PATH": os.environ["PATH"], **environ},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )


def makeflags(directory: Path, *arguments: str) -> str:
    """MAKEFLAGS as the recipes of a real make see it."""
    (directory / "Makefile").write_text(TINY_MAKEFILE)
    result = subprocess.run(["make", "-s", *arguments], cwd=directory, capture_output=True, check=True)
    return os.fsdecode(result.stdout)


NASTY = [
    "$(shell touch pwned)",
    "${HOME}$$x$",
    "`touch pwned`",
    '"; touch pwned; "',
    "it's",
    "a b\tc",
    "back\\slash \\\\ \\ end\\",
    "a=b -- c=d",
    "# no comment",
    "",
    "naïve \U0001f600",
]


@pytest.mark.parametrize("value", NASTY)
def test_a_value_on_makes_command_line_arrives_as_it_was(value: str, tmp_path: Path) -> None:
    flags = makeflags(tmp_path, "-k", "-j2", f"MODEL_NAME={value}", "V=1")
    assert command_line_variables({"MAKEFLAGS": flags}) == {"MODEL_NAME": value, "V": "1"}
    assert not (tmp_path / "pwned").exists()


@settings(max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.text(st.characters(codec="utf-8", exclude_categories=["Cc"])))
def test_any_value_on_makes_command_line_arrives_as_it_was(tmp_path: Path, value: str) -> None:
    # make itself drops blanks before a value.
    flags = makeflags(tmp_path, f"INIT_FROM={value}")
    assert command_line_variables({"MAKEFLAGS": flags}) == {"INIT_FROM": value.lstrip(" ")}


def test_settings_with_and_without_prefix() -> None:
    environ = {"MAKEFLAGS": "k -j4 -- MAX_ITERS=50 CONFIG_LEARNING_RATE=3e-4 V=1 PYTHON=/usr/bin/python3"}
    assert {(a.symbol, a.value, a.origin) for a in command_line_assignments(environ)} == {
        ("MAX_ITERS", "50", "command line"),
        ("LEARNING_RATE", "3e-4", "command line"),
    }
    assert command_line_assignments({}) == []
    assert command_line_assignments({"MAKEFLAGS": "ks"}) == []


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (
            " -- MAX_ITER=50",
            "MAX_ITER='50': neither a symbol nor one of V, PYTHON, KCONFIG_SEED, RESULTS; did you mean MAX_ITERS?",
        ),
        (" -- max_iters=50", "did you mean MAX_ITERS?"),
        (" -- PYTON=/x", "did you mean PYTHON?"),
        (" -- CONFIG_V=1", "CONFIG_V='1': neither"),
        (" -- SEVERAL_ARMS=y", "SEVERAL_ARMS='y': neither"),
        (" -- SEED=1 CONFIG_SEED=2", "SEED is given twice"),
        (" -- SEED:=1", "'SEED:=1': write NAME=value"),
    ],
)
def test_a_variable_that_is_no_setting_is_refused_by_name(flags: str, message: str) -> None:
    with pytest.raises(UserError) as caught:
        command_line_assignments({"MAKEFLAGS": flags})
    assert str(caught.value).startswith("command line: ")
    assert message in str(caught.value)


def test_overlaying_a_complete_configuration_lets_defaults_follow() -> None:
    base = resolve(parse_assignments(load(kconfig.find_defconfig("gpt2-ra-v5-ablation")).text(), ".config"))
    resolved = overlay(base, [Assignment("MODEL_GPT2_MEDIUM", "y", "command line")])
    assert (resolved.symbols["N_LAYER"], resolved.symbols["DATASET_FINEWEBEDU"]) == (24, True)


def test_names_that_do_not_exist() -> None:
    with pytest.raises(UserError, match=r"no defconfigs/gpt2-basline; did you mean gpt2-baseline\?"):
        kconfig.find_defconfig("gpt2-basline")
    with pytest.raises(UserError, match=r"no defconfigs/\.\./Kconfig"):
        kconfig.find_defconfig("../Kconfig")
    with pytest.raises(UserError, match=r"no ablation step 'ra-v5-eagre'; did you mean ra-v5-eager\?"):
        kconfig.find_step("ra-v5-eagre")


def test_a_step_by_number_and_by_name() -> None:
    assert kconfig.find_step("3") == kconfig.find_step("ra-v5-compiled")
    assert [step.number for step in kconfig.list_steps()] == list(range(1, 22))


def test_without_dotconfig_it_says_what_to_type(work: Path) -> None:
    with pytest.raises(UserError, match=r"^there is no \.config: .*make defconfig-NAME"):
        kconfig.configuration({})


def test_settings_of_the_command_line_go_into_the_file_and_are_reported(work: Path) -> None:
    result = command("defconfig", "gpt2-baseline", MAKEFLAGS=" -- LEARNING_RATE=3e-4 MAX_ITERS=50")
    assert result.stdout == "Wrote .config from defconfigs/gpt2-baseline, with LEARNING_RATE=3e-4, MAX_ITERS=50\n"
    assert load(Path(".config")).symbols["LEARNING_RATE"] == "3e-4"


@pytest.mark.parametrize(
    ("arguments", "flags", "message"),
    [
        (
            ["olddefconfig"],
            "MAX_ITERS=0",
            "command line: CONFIG_MAX_ITERS=0: out of range: must be from 1 to 100000000",
        ),
        (["olddefconfig"], "BETA1=1.5", "command line: CONFIG_BETA1=1.5: must be from 0 to below 1"),
        (
            ["olddefconfig"],
            "LEARNING_RATE=$$(shell\\ id)",
            'command line: CONFIG_LEARNING_RATE="$(shell id)": is not a',
        ),
        (["olddefconfig"], "MODEL_NAME=../x", "command line: CONFIG_MODEL_NAME='../x': use letters"),
        (["alldefconfig"], "N_LAYER=3", "command line: CONFIG_N_LAYER=3: depends on MODEL_CUSTOM, but MODEL_CUSTOM=n"),
        (["defconfig", "gpt2-baseline"], "MAX_ITER=1", "command line: MAX_ITER='1': neither"),
        (["savedefconfig"], "SEED=1", "make savedefconfig takes no settings on its command line: SEED"),
        (["menuconfig"], "SEED=1", "make menuconfig takes no settings on its command line: SEED"),
        (["randconfig"], "KCONFIG_SEED=x", "KCONFIG_SEED='x': must be a whole number"),
        (["defconfig", "nope"], "V=1", "there is no defconfigs/nope"),
        (["menuconfig"], "", "menuconfig needs a terminal"),
        (["nconfig"], "", "menuconfig needs a terminal"),
        (["oldconfig"], "", "oldconfig needs a terminal"),
        (["guiconfig"], "", "guiconfig "),
    ],
)
def test_a_refusal_is_one_line_and_leaves_dotconfig_alone(work: Path, arguments, flags: str, message: str) -> None:
    resolve([Assignment("SEED", "7", "test")]).write(Path(".config"))
    before = Path(".config").read_bytes()
    result = command(*arguments, MAKEFLAGS=f" -- {flags}")
    assert result.returncode == 2
    assert result.stdout == ""
    assert result.stderr.startswith(f"error: {message}")
    assert result.stderr.count("\n") == 1
    assert Path(".config").read_bytes() == before
    assert os.listdir() == [".config"]


@pytest.mark.parametrize("name", ["savedefconfig", "listnewconfig"])
def test_an_old_dotconfig_with_unknown_symbols_is_refused(work: Path, name: str) -> None:
    Path(".config").write_text("CONFIG_RA_ALPHA=3\nCONFIG_MAX_ITERS=5\nCONFIG_RA_BETA=4\n")
    result = command(name)
    assert result.returncode == 2
    assert result.stderr == "error: .config:1: CONFIG_RA_ALPHA=3: no such symbol (refused as well: RA_BETA)\n"


REMOVED = 'CONFIG_RA_ALPHA=3\nCONFIG_MAX_ITERS=500\n# CONFIG_RA_GAMMA is not set\nCONFIG_RA_BETA="x"\n'
NOTICES = [
    f"note: .config:{where} there is no such symbol: dropped"
    for where in ("1: CONFIG_RA_ALPHA=3:", "3: CONFIG_RA_GAMMA=n:", '4: CONFIG_RA_BETA="x":')
]


def test_olddefconfig_drops_what_there_is_no_more_and_says_so(work: Path) -> None:
    Path(".config").write_text(REMOVED)
    result = command("olddefconfig")
    assert (result.returncode, result.stderr.splitlines()) == (0, NOTICES)
    assert Path(".config").read_text() == resolve([Assignment("MAX_ITERS", "500", "test")]).text()
    assert Path(".config.old").read_text() == REMOVED


def test_oldconfig_drops_what_there_is_no_more_and_says_so(work: Path) -> None:
    text = resolve().text()
    Path(".config").write_text(text + "CONFIG_RA_ALPHA=3\n")
    terminal, theirs = pty.openpty()
    arguments = [sys.executable, "-m", "scripts.kconfig", "oldconfig"]
    environment = {"PYTHONPATH": str(ROOT)}
    result = subprocess.run(arguments, env=environment, stdin=theirs, stdout=theirs, stderr=subprocess.PIPE, text=True)
    os.close(theirs)
    os.close(terminal)
    assert result.returncode == 0
    assert result.stderr.endswith("CONFIG_RA_ALPHA=3: there is no such symbol: dropped\n")
    assert Path(".config").read_text() == text


@pytest.mark.parametrize(
    "flags",
    [
        "ATTENTION_RA_V5=y RA_V5_R=64",
        "RA_MLA_ABLATION_MODE=y RA_MLA_ABLATION_STEPS=1,99",
        "RA_MLA_ABLATION_MODE=y N_LAYER=2 MODEL_CUSTOM=y N_HEAD=64 N_EMBD=64",
        "ABLATION_SEEDS=a,b",
        "ABLATION_SWEEP=LOG_INTERVAL=1,2",
        "ABLATION_SWEEP=RA_V5_R=4,8",
        "RESULTS_DIR=~",
        "SEED=7",
        "SEED=1",
    ],
)
def test_what_could_not_be_run_is_not_saved(work: Path, flags: str) -> None:
    result = command("alldefconfig", MAKEFLAGS=f" -- {flags}")
    assert (result.returncode, result.stdout, result.stderr.count("\n")) == (2, "", 1)
    assert result.stderr.startswith("error: ")
    assert os.listdir() == []
    settings = [setting.split("=", 1) for setting in flags.split()]
    if settings != [["SEED", "1"]]:  # which is the default, and in a menu nobody asked for it
        editor: Editor = parse_tree(Editor)
        for symbol, value in settings:
            editor.syms[symbol].set_value(value)
        with pytest.raises(OSError, match=r"CONFIG_\w+=|ABLATION_S|RESULTS_DIR"):
            editor.write_config()
        assert os.listdir() == []


def test_settings_in_the_environment_get_a_line(work: Path) -> None:
    result = command("defconfig", "gpt2-baseline", MAX_ITERS="5", CONFIG_BETA1="0.8", EVAL_TOKENS="3", PAGER="less")
    assert result.returncode == 0
    notes = [f"note: {given} in the environment is not read; " for given in ("MAX_ITERS='5'", "CONFIG_BETA1='0.8'")]
    for note in notes:
        assert sum(line.startswith(note) for line in result.stderr.splitlines()) == 1
    assert result.stderr.count("\n") == 3
    assert load(Path(".config")).symbols["MAX_ITERS"] == 5000
    both = command("defconfig", "gpt2-baseline", MAX_ITERS="5", MAKEFLAGS=" -- MAX_ITERS=6")
    assert both.stderr == ""


def test_what_is_replaced_is_kept_as_old(work: Path) -> None:
    resolve([Assignment("SEED", "7", "test")]).write(Path(".config"))
    before = Path(".config").read_bytes()
    for _ in range(2):  # writing the same again does not lose it
        assert command("alldefconfig").returncode == 0
    assert Path(".config.old").read_bytes() == before
    assert Path(".config").read_text() == resolve().text()


def test_savedefconfig_gives_back_a_defconfig(work: Path) -> None:
    assert command("defconfig", "gpt2-ra-v5-quickstart").returncode == 0
    assert command("savedefconfig").returncode == 0
    assert load(Path("defconfig")).text() == Path(".config").read_text()


def test_new_settings_are_listed(work: Path) -> None:
    text = resolve().text()
    Path(".config").write_text(text.replace('CONFIG_BETA2="0.95"\n', ""))
    assert new_settings() == ['CONFIG_BETA2="0.95"']
    Path(".config").write_text(text)
    assert command("listnewconfig").stdout == ""


def test_oldconfig_asks_for_what_is_missing(work: Path) -> None:
    text = resolve().text()
    Path(".config").write_text(text.replace('CONFIG_BETA2="0.95"\n', ""))
    terminal, theirs = pty.openpty()
    arguments = [sys.executable, "-m", "scripts.kconfig", "oldconfig"]
    with subprocess.Popen(
        arguments, env={"PYTHONPATH": str(ROOT)}, stdin=theirs, stdout=theirs, stderr=theirs
    ) as asking:
        os.write(terminal, b"0.99\n")
        assert asking.wait() == 0
    os.close(theirs)
    os.close(terminal)
    assert Path(".config").read_text() == text.replace('CONFIG_BETA2="0.95"', 'CONFIG_BETA2="0.99"')


def test_the_editors_save_only_what_makes_a_run(work: Path) -> None:
    editor: Editor = parse_tree(Editor)
    assert editor.load_config() == "No .config yet: starting from the defaults"
    editor.syms["DROPOUT"].set_value("0.1")
    assert editor.write_config() == "Saved .config"
    before = Path(".config").read_bytes()
    editor.syms["DROPOUT"].set_value("much")
    with pytest.raises(OSError, match='this menu: CONFIG_DROPOUT="much": is not a number'):
        editor.write_config(".config")
    assert Path(".config").read_bytes() == before
    editor.load_config()
    assert editor.syms["DROPOUT"].str_value == "0.1"
    Path("bad").write_text("CONFIG_FOO=y\n")
    with pytest.raises(OSError, match="bad:1: CONFIG_FOO=y: no such symbol"):
        editor.load_config("bad")
    assert editor.write_min_config("small") == "Saved small"
    assert Path("small").read_text() == 'CONFIG_DROPOUT="0.1"\n'


def check_random_configuration(seed: int) -> None:
    resolved = random_configuration(seed)
    resolved.run_config()
    assert resolve(parse_assignments(resolved.text(), "again")).text() == resolved.text()


@pytest.mark.parametrize("seed", range(20))
def test_a_random_configuration_makes_a_run(seed: int) -> None:
    check_random_configuration(seed)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1000, 1200))
def test_any_random_configuration_makes_a_run(seed: int) -> None:
    check_random_configuration(seed)


def test_random_configurations_differ_and_repeat(work: Path) -> None:
    texts = {random_configuration(seed).text() for seed in range(10)}
    assert len(texts) == 10
    result = command("randconfig", KCONFIG_SEED="3")
    assert result.stdout == "Wrote .config from KCONFIG_SEED=3\n"
    assert Path(".config").read_text() == random_configuration(3).text()
    assert random_seed({"KCONFIG_SEED": "3", "MAKEFLAGS": " -- KCONFIG_SEED=4"}) == 4


def test_results_names_an_experiment_to_those_that_read_one(tmp_path: Path) -> None:
    assert named_experiment({}) is None
    assert named_experiment({"MAKEFLAGS": "-- MAX_ITERS=5"}) is None
    assert named_experiment({"MAKEFLAGS": f"-- RESULTS={tmp_path} V=1"}) == tmp_path


@pytest.mark.parametrize("value", ["", "/no/such/directory", "-rf"])
def test_results_that_are_not_there_are_refused(value: str) -> None:
    with pytest.raises(UserError, match=r"command line: RESULTS='.*': there is no such directory"):
        named_experiment({"MAKEFLAGS": f"-- RESULTS={value}"})


def test_results_goes_with_no_setting_and_with_no_other_command(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"RESULTS=.*without settings beside it"):
        named_experiment({"MAKEFLAGS": f"-- RESULTS={tmp_path} MAX_ITERS=5"})
    with pytest.raises(UserError, match=r"RESULTS=.*is for verify, report, plots and inspect"):
        command_line_assignments({"MAKEFLAGS": f"-- RESULTS={tmp_path}"})
