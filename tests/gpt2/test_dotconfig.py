"""gpt2/dotconfig.py: everything asked for is taken, or refused by name; and values are data, whatever is in them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import kconfiglib
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpt2.assignments import Assignment, parse_assignments, read_assignments
from gpt2.base.errors import UserError
from gpt2.base.files import ROOT
from gpt2.dotconfig import load, load_complete, parse_tree, resolve

DEFCONFIGS = sorted(path for path in (ROOT / "defconfigs").iterdir() if path.is_file())
STEPS = sorted((ROOT / "defconfigs" / "steps").glob("*.config"))

PLAIN_TEXT = st.text(st.characters(codec="utf-8", exclude_categories=["Cc"]))

NASTY = [
    "$(shell touch pwned)",
    "`touch pwned`",
    '"; touch pwned; echo "',
    "'\\''",
    "a # b",
    "\\",
    'ends with \\"',
    "# CONFIG_BIAS is not set",
    "naïve café \u2028 \U0001f600",
    "  blanks  ",
    "",
]


def asked(origin: str = "test", **settings: str) -> list[Assignment]:
    return [Assignment(symbol, value, origin) for symbol, value in settings.items()]


def text_of(value: str) -> str:
    """A file that sets one string symbol."""
    return resolve(asked(INIT_FROM=value)).text()


@pytest.mark.parametrize("value", NASTY)
def test_a_string_comes_back_as_it_was(value: str) -> None:
    again = resolve(parse_assignments(text_of(value), "again"))
    assert again.symbols["INIT_FROM"] == value
    assert again.text() == text_of(value)


@given(PLAIN_TEXT)
def test_any_plain_text_comes_back_as_it_was(value: str) -> None:
    assert resolve(parse_assignments(text_of(value), "again")).symbols["INIT_FROM"] == value


@pytest.mark.parametrize("value", NASTY)
def test_kconfiglib_reads_what_we_write(value: str, tmp_path: Path) -> None:
    (tmp_path / "config").write_text(text_of(value), encoding="utf-8")
    tree = parse_tree()
    tree.load_config(str(tmp_path / "config"))
    assert tree.warnings == []
    assert tree.syms["INIT_FROM"].str_value == value


@given(st.integers(1, 10**8))
def test_a_number_in_range_is_taken(number: int) -> None:
    assert resolve(asked(MAX_ITERS=str(number))).symbols["MAX_ITERS"] == number


@given(st.dictionaries(st.sampled_from(["MAX_ITERS", "MODEL_NAME", "BIAS"]), PLAIN_TEXT, min_size=1))
def test_a_value_is_taken_or_refused_by_name(settings: dict[str, str]) -> None:
    try:
        symbols = resolve(asked(**settings)).symbols
    except UserError as error:
        assert any(f"CONFIG_{symbol}=" in str(error) for symbol in settings)
    else:
        as_text = {True: "y", False: "n"}
        for symbol, value in settings.items():
            result = symbols[symbol]
            assert (as_text[result] if isinstance(result, bool) else str(result)) == value


@pytest.mark.parametrize("path", DEFCONFIGS, ids=lambda path: path.name)
def test_a_defconfig_is_minimal_and_says_the_same_in_full(path: Path) -> None:
    resolved = load(path)
    # What an experiment is made of may be said even where it is the default.
    spelled_out = {"RA_MLA_ABLATION_STEPS", "ABLATION_SEEDS"}
    given = {assignment.symbol for assignment in read_assignments(path)}
    assert given - {assignment.symbol for assignment in resolved.minimal()} <= spelled_out
    assert resolved.symbols["MODEL_NAME"] == path.name
    for text in (resolved.text(), resolved.defconfig()):
        assert resolve(parse_assignments(text, "again")).text() == resolved.text()


@pytest.mark.parametrize("step", STEPS, ids=lambda path: path.stem)
@pytest.mark.parametrize("path", DEFCONFIGS, ids=lambda path: path.name)
def test_every_step_lies_on_every_defconfig(path: Path, step: Path) -> None:
    layer = read_assignments(step)
    resolved = resolve(load(path).minimal(), layer)
    values = {True: "y", False: "n"}
    for assignment in layer:
        value = resolved.symbols[assignment.symbol]
        assert (values[value] if isinstance(value, bool) else str(value)) == assignment.value
    config = resolved.run_config()
    assert config.name == path.name


def test_later_layers_win_and_a_new_choice_drops_the_old() -> None:
    base = asked(MODEL_GPT2_LARGE="y", MAX_ITERS="7", BIAS="n")
    symbols = resolve(base, asked(MODEL_GPT2_MEDIUM="y", MAX_ITERS="8")).symbols
    assert (symbols["MODEL_GPT2_MEDIUM"], symbols["MODEL_GPT2_LARGE"]) == (True, False)
    assert (symbols["N_LAYER"], symbols["MAX_ITERS"], symbols["BIAS"]) == (24, 8, False)


def test_minimal_keeps_what_differs_and_where_it_came_from() -> None:
    resolved = resolve(asked("file:1", MAX_ITERS="5000", BATCH_SIZE="8"), asked("command line", SEED="3"))
    assert resolved.minimal() == [*asked("file:1", BATCH_SIZE="8"), *asked("command line", SEED="3")]


def test_a_derived_symbol_may_be_asked_for_the_value_it_has() -> None:
    assert resolve(asked(N_LAYER="12", SEVERAL_ARMS="n")).minimal() == []


BAD_LINES = {
    'CONFIG_RA_MLA_ABLATION_MODE="y"': "a bool is written without quotes: CONFIG_RA_MLA_ABLATION_MODE=y",
    'CONFIG_MAX_ITERS="5"': "a number is written without quotes: CONFIG_MAX_ITERS=5",
    "CONFIG_LEARNING_RATE=6e-4": 'text is written in quotes: CONFIG_LEARNING_RATE="6e-4"',
    'CONFIG_MODEL_NAME="a': "malformed value",
    'CONFIG_MODEL_NAME="a"b"': "malformed value",
    'CONFIG_MODEL_NAME="a\\"': "malformed value",
    'CONFIG_MODEL_NAME="a" # why': "malformed value",
    "CONFIG_BIAS=y # why": "malformed value",
    "CONFIG_MAX_ITERS=": "malformed value",
    "CONFIG_BIAS=y ": "malformed value",
    "CONFIG_BIAS=Y": "must be y or n",
    "CONFIG_BIAS=m": "must be y or n",
    "CONFIG_MAX_ITERS=5e3": "must be a whole number",
    "CONFIG_MAX_ITERS=1_000": "must be a whole number",
    "CONFIG_MAX_ITERS=0x10": "must be a whole number",
    "CONFIG_MAX_ITERS=+5": "must be a whole number",
    "CONFIG_MAX_ITERS=0": "out of range: must be from 1 to 100000000",
    "CONFIG_MAX_ITERS=100000001": "out of range: must be from 1 to 100000000",
    "CONFIG_MAX_ITERZ=5": "no such symbol; did you mean MAX_ITERS?",
    "CONFIG_max_iters=5": "no such symbol; did you mean MAX_ITERS?",
    "CONFIG_EVAL_ITERS=40": "no such symbol; EVAL_TOKENS has taken its place",
    "CONFIG_XYZZY=5": "no such symbol",
    "# CONFIG_XYZZY is not set": "no such symbol",
    "CONFIG_RA_V5_R=8": "depends on ATTENTION_RA_V5 || ATTENTION_RA_MLA || SEVERAL_ARMS, but ATTENTION_RA_MLA=n, "
    "ATTENTION_RA_V5=n, SEVERAL_ARMS=n",
    "CONFIG_N_LAYER=6": "depends on MODEL_CUSTOM, but MODEL_CUSTOM=n",
    "CONFIG_COMPILE_MODE_MAX_AUTOTUNE=y": "depends on !COMPILE_NONE || SEVERAL_ARMS, but COMPILE_NONE=y, SEVERAL_ARMS",
    'CONFIG_DATASET_BIN_DIR=""': "depends on DATASET_BIN, but DATASET_BIN=n",
    "CONFIG_SEVERAL_ARMS=y": "cannot be set: it follows from other settings, and is n",
    "# CONFIG_MODEL_GPT2 is not set": 'one member of the choice "Size" has to be y',
    "MAX_ITERS=5": "is not CONFIG_NAME=value",
    "CONFIG_MAX_ITERS": "is not CONFIG_NAME=value",
    " CONFIG_MAX_ITERS=5": "is not CONFIG_NAME=value",
    "export CONFIG_MAX_ITERS=5": "is not CONFIG_NAME=value",
    "CONFIG_MAX_ITERS = 5": "is not CONFIG_NAME=value",
    "include Makefile": "is not CONFIG_NAME=value",
    "# CONFIG_BIAS is not set ": "is only a comment: write exactly '# CONFIG_NAME is not set'",
    "#CONFIG_BIAS is not set": "is only a comment",
    "CONFIG_MAX_ITERS=5\r": "control character '\\r'",
    'CONFIG_MODEL_NAME="a\tb"': "control character '\\t'",
}


@pytest.mark.parametrize("line", BAD_LINES)
def test_a_bad_line_is_refused_with_its_place_and_the_reason(line: str, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("bad").write_bytes(f"# a comment\n\n{line}\n".encode())
    with pytest.raises(UserError) as caught:
        load(Path("bad"))
    message = str(caught.value)
    assert message.startswith("bad:3: ")
    assert BAD_LINES[line] in message
    assert line.removeprefix("# ").split("=")[0].split(" is not")[0].strip() in message
    assert "\n" not in message


@pytest.mark.parametrize(
    ("first", "second", "reason"),
    [
        ("CONFIG_SEED=1", "CONFIG_SEED=2", "f:2: CONFIG_SEED=2: CONFIG_SEED was already set at f:1"),
        (
            "CONFIG_MODEL_GPT2=y",
            "CONFIG_MODEL_CUSTOM=y",
            "f:2: CONFIG_MODEL_CUSTOM=y: MODEL_GPT2=y was set at f:1, "
            'and only one member of the choice "Size" can be y',
        ),
        ("CONFIG_FOO=y", "CONFIG_BAR=y", "f:1: CONFIG_FOO=y: no such symbol (refused as well: BAR)"),
    ],
)
def test_two_lines_that_cannot_both_be(first: str, second: str, reason: str) -> None:
    with pytest.raises(UserError) as caught:
        resolve(parse_assignments(f"{first}\n{second}\n", "f"))
    assert str(caught.value) == reason


@pytest.mark.parametrize(
    ("base", "layer", "because"),
    [
        ({"RA_V5_R": "8", "RA_MLA_ABLATION_MODE": "y"}, {"RA_MLA_ABLATION_MODE": "n"}, "RA_MLA_ABLATION_MODE=n"),
        ({"COMPILE_MODEL": "y", "COMPILE_MODE_MAX_AUTOTUNE": "y"}, {"COMPILE_NONE": "y"}, "COMPILE_NONE=y"),
        ({"MODEL_CUSTOM": "y", "N_LAYER": "3"}, {"MODEL_GPT2_XL": "y"}, "MODEL_GPT2_XL=y"),
        (
            {"ATTENTION_RA_V5": "y", "RA_V5_FOLD_DIRECT": "y"},
            {"ATTENTION_RA_MLA": "y"},
            "ATTENTION_RA_MLA=y",
        ),
    ],
)
def test_a_layer_that_takes_the_ground_from_another_is_named(base, layer, because: str) -> None:
    with pytest.raises(UserError, match="depends on") as caught:
        resolve(resolve(asked("base:1", **base)).minimal(), asked("command line", **layer))
    assert str(caught.value).startswith("base:1: ")
    assert str(caught.value).endswith(f"({because} from command line)")


def test_a_newline_cannot_be_smuggled_in() -> None:
    with pytest.raises(UserError, match=r"command line: CONFIG_MODEL_NAME=a\\nCONFIG_BIAS=n: control character '\\n'"):
        resolve(asked("command line", MODEL_NAME="a\nCONFIG_BIAS=n"))


def test_a_number_that_is_none_is_named_with_its_origin() -> None:
    with pytest.raises(UserError) as caught:
        resolve(parse_assignments('CONFIG_LEARNING_RATE="fast"\n', ".config")).run_config()
    assert str(caught.value) == '.config:1: CONFIG_LEARNING_RATE="fast": is not a number such as 0.1 or 6e-4'


def test_the_tree_is_clean_and_helpful(monkeypatch) -> None:
    """No undefined symbols, and help on everything a user can set."""
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("KCONFIG_WARN_UNDEF", "y")
    tree = kconfiglib.Kconfig("Kconfig", warn_to_stderr=False)
    assert tree.warnings == []
    settable = [node for node in tree.node_iter() if node.prompt and node.item != kconfiglib.MENU]
    assert len(settable) > 50
    assert [node for node in settable if not node.help] == []
    assert [node.prompt[0] for node in settable if len(node.prompt[0]) > 60] == []


def test_the_environment_changes_nothing_and_torch_is_not_needed(tmp_path: Path) -> None:
    script = """
import sys
from gpt2.dotconfig import load
print(load(sys.argv[1]).text(), end="")
assert "torch" not in sys.modules
"""
    path = DEFCONFIGS[0]
    environment = {"KCONFIG_CONFIG": "/nope", "srctree": "/nope", "CONFIG_": "X_", "KCONFIG_FUNCTIONS": "nope"}
    result = subprocess.run(
        [sys.executable, "-c", script, path],
        env={"PYTHONPATH": str(ROOT), **environment},
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert result.stderr == ""
    assert result.stdout == load(path).text()


def test_a_stored_configuration_names_every_setting(tmp_path: Path) -> None:
    path = tmp_path / "config"
    resolve(asked("test", MAX_ITERS="7", ATTENTION_RA_V5="y")).write(path)
    lines = path.read_text().splitlines(keepends=True)
    assert load_complete(path).text() == path.read_text()
    settings = [i for i, line in enumerate(lines) if "CONFIG_" in line and "=" in line]
    half, incomplete = len(lines) // 2, r"says nothing of \d+ of \d+ settings \(CONFIG_\w+ is the first\)"
    for text in ("", *("".join(part) for part in (lines[:half], lines[half:]))):
        path.write_text(text)
        with pytest.raises(UserError, match=f"{incomplete}|has to be y"):
            load_complete(path)
    for i in settings:
        if "ATTENTION_RA_V5=y" not in lines[i]:
            path.write_text("".join(lines[:i] + lines[i + 1 :]))
            with pytest.raises(UserError, match=incomplete) as caught:
                load_complete(path)
            assert "\n" not in str(caught.value)
