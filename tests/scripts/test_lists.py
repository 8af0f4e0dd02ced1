"""What there is to choose from, with fragments of other people beside ours: listed, or refused in one line."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from gpt2.assignments import Assignment
from gpt2.base.errors import UserError
from gpt2.base.files import ROOT
from gpt2.dotconfig import resolve
from harness.configure import kconfig
from harness.configure.plan import make_plan
from harness.configure.randconfig import random_configuration
from scripts import list_sizes, list_steps
from scripts.kconfig import list_shipped


@pytest.fixture
def defconfigs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of defconfigs/ in the place of the shipped one."""
    shutil.copytree(ROOT / "defconfigs", tmp_path / "defconfigs")
    monkeypatch.setattr(kconfig, "ROOT", tmp_path)
    monkeypatch.setenv("MAKEFLAGS", "")
    return tmp_path / "defconfigs"


@pytest.mark.parametrize(
    ("name", "text", "line"),
    [
        (
            "22-mine",
            'CONFIG_STEP_TITLE="Mine"\nCONFIG_STEP_REFERENCE="rope"\n',
            "22  mine               Mine, against rope",
        ),
        ("22-mine", 'CONFIG_STEP_TITLE="Mine"\n', "22  mine               Mine, against baseline"),
        ("22-mine", 'CONFIG_STEP_TITLE="Mine"\nCONFIG_STEP_REFERENCE=""\n', "22  mine               Mine"),
        ("022-M.i_ne-2", "CONFIG_ATTENTION_RA_V5=y\n", "22  M.i_ne-2           M.i_ne-2, against baseline"),
        ("22-mine", "", "22  mine               mine, against baseline"),
        # What goes with a configuration of its own alone.
        ("22-mine", "CONFIG_RA_V5_R=3\n", "22  mine               mine, against baseline"),
        (".22-mine", "\0", None),
        (".#22-mine", "\0", None),
    ],
)
def test_a_step_is_listed_by_what_it_says_and_kconfig_has_by_default(
    defconfigs: Path, capsys: pytest.CaptureFixture[str], name: str, text: str, line: str | None
) -> None:
    (defconfigs / "steps" / f"{name}.config").write_text(text)
    list_steps.main()
    lines = capsys.readouterr().out.splitlines()
    assert lines[21:] == ([line] if line else [])
    if line:
        found = kconfig.find_step("22")
        assert found == kconfig.find_step(found.name)


@pytest.mark.parametrize(
    "name",
    ["mine", "-mine", "22", "22-", "x-mine", "22-3", "22-1-3", "22-a,b", "22-a@b", "22-a b", "٢-mine", "-1-mine"],
)
def test_a_fragment_that_is_no_step_by_its_name_is_one_line(defconfigs: Path, name: str) -> None:
    (defconfigs / "steps" / f"{name}.config").write_text('CONFIG_STEP_TITLE="Mine"\n')
    expected = f"defconfigs/steps/{name}.config: expected a file NUMBER-NAME.config, such as 2-ra-v5-eager.config"
    for command in (list_steps.main, lambda: kconfig.find_step("baseline"), lambda: random_configuration(1)):
        with pytest.raises(UserError) as caught:
            command()
        assert str(caught.value) == expected


@pytest.mark.parametrize(
    ("name", "taken"),
    [("2-mine", "number, 2, is that of"), ("002-mine", "number, 2, is that of"), ("22-rope", "name, rope, is that of")],
)
def test_no_step_shadows_another(defconfigs: Path, name: str, taken: str) -> None:
    (defconfigs / "steps" / f"{name}.config").write_text('CONFIG_STEP_TITLE="Mine"\n')
    with pytest.raises(UserError) as caught:
        kconfig.find_step("baseline")
    assert f"{name}.config" in str(caught.value) and taken in str(caught.value)
    assert re.fullmatch(
        r"defconfigs/steps/\S+\.config: its .* of defconfigs/steps/\S+\.config: take another", str(caught.value)
    )


@pytest.mark.parametrize("folder", ["steps", "sizes"])
def test_a_directory_is_no_fragment(defconfigs: Path, folder: str) -> None:
    (defconfigs / folder / "22-mine.config").mkdir()
    with pytest.raises(UserError, match=f"^defconfigs/{folder}/22-mine.config: expected a file "):
        {"steps": kconfig.list_steps, "sizes": kconfig.list_sizes}[folder]()


def test_a_step_with_a_symbol_that_there_is_not_stops_no_random_configuration(defconfigs: Path) -> None:
    (defconfigs / "steps" / "22-mine.config").write_text("CONFIG_NO_SUCH=y\n")
    for seed in range(3):
        random_configuration(seed)


@pytest.mark.parametrize(
    ("text", "shape"),
    [
        ("CONFIG_MODEL_GPT2=y\n", "12 layers, 12 heads, 768 wide"),
        ("CONFIG_MODEL_GPT2_XL=y\nCONFIG_MAX_ITERS=70\n", "48 layers, 25 heads, 1600 wide, 70 steps"),
        ("CONFIG_MODEL_CUSTOM=y\nCONFIG_N_LAYER=2\nCONFIG_N_EMBD=36\n", "2 layers, 36 wide"),
        ("CONFIG_MAX_ITERS=70\nCONFIG_BATCH_SIZE=3\n", "70 steps"),
        ("", ""),
    ],
)
def test_a_size_is_listed_by_what_it_decides(
    defconfigs: Path, capsys: pytest.CaptureFixture[str], text: str, shape: str
) -> None:
    (defconfigs / "sizes" / "zz.config").write_text(text)
    list_sizes.main()
    assert capsys.readouterr().out.splitlines()[-1] == f"zz           {shape}"
    symbols = resolve(kconfig.find_size("zz").assignments()).symbols
    for number, what in re.findall(r"(\d+) (layers|steps)", shape):
        assert symbols[{"layers": "N_LAYER", "steps": "MAX_ITERS"}[what]] == int(number)


@pytest.mark.parametrize("name", ["a,b", "a@b", "a b", "-a", "é"])
def test_a_fragment_that_is_no_size_by_its_name_is_one_line(defconfigs: Path, name: str) -> None:
    (defconfigs / "sizes" / f"{name}.config").write_text("CONFIG_MAX_ITERS=70\n")
    with pytest.raises(UserError, match=rf"^defconfigs/sizes/{name}\.config: expected a file NAME\.config, such as"):
        kconfig.find_size("45m")


@pytest.mark.parametrize("text", ["CONFIG_NO_SUCH=1\n", "nonsense\n", "CONFIG_MAX_ITERS=\n"])
def test_what_a_size_says_wrongly_is_one_line_with_its_file(defconfigs: Path, text: str) -> None:
    (defconfigs / "sizes" / "zz.config").write_text(text)
    with pytest.raises(UserError, match=r"^\S*defconfigs/sizes/zz\.config:1: ") as caught:
        list_sizes.main()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "content", "title"),
    [
        ("mine", b"", ""),
        ("mine", b"\n# x", ""),
        ("mine", b"# Mine\nCONFIG_SEED=1\n", "Mine"),
        (".mine.swp", b"\xff", None),
    ],
)
def test_defconfigs_are_listed_whatever_is_in_them(
    defconfigs: Path, capsys: pytest.CaptureFixture[str], name: str, content: bytes, title: str | None
) -> None:
    (defconfigs / name).write_bytes(content)
    list_shipped()
    lines = capsys.readouterr().out.splitlines()
    assert [line.rstrip() for line in lines if "mine" in line] == (
        [] if title is None else [f"mine {'':23} {title}".rstrip()]
    )


@pytest.mark.parametrize(
    ("folder", "name", "text", "said"),
    [
        ("steps", "22-mine", "CONFIG_SEED=5\n", r"22-mine\.config:1: CONFIG_SEED=5: is of no single arm"),
        ("steps", "22-mine", "CONFIG_RERUN=1\n", r"CONFIG_RERUN=1: is of no single arm"),
        ("steps", "22-mine", 'CONFIG_MODEL_NAME="x"\n', r"CONFIG_MODEL_NAME=\"x\": is of no single arm"),
        ("steps", "22-mine", 'CONFIG_ABLATION_SEEDS="9"\n', r"CONFIG_ABLATION_SEEDS=\"9\": is of no single arm"),
        ("steps", "22-mine", 'CONFIG_STEP_REFERENCE="selfi"\n', r"there is no step selfi"),
        ("steps", "22-mine", 'CONFIG_STEP_BESIDE="rope,ropy"\n', r"there is no step ropy; did you mean rope\?"),
        ("sizes", "mine", 'CONFIG_STEP_TITLE="x"\n', r"CONFIG_STEP_TITLE=\"x\": is of no single arm"),
        ("sizes", "mine", 'CONFIG_STUDY_LENGTHS="0.5"\n', r"CONFIG_STUDY_LENGTHS=\"0\.5\": is of no single arm"),
    ],
)
def test_a_fragment_sets_what_is_of_its_arm_alone(
    defconfigs: Path, folder: str, name: str, text: str, said: str
) -> None:
    (defconfigs / folder / f"{name}.config").write_text(text)
    steps = "1,22" if folder == "steps" else "1,2"
    asked = {"RA_MLA_ABLATION_MODE": "y", "RA_MLA_ABLATION_STEPS": steps}
    asked |= {"ABLATION_SIZES": "mine"} if folder == "sizes" else {}
    with pytest.raises(UserError, match=said):
        make_plan(resolve([Assignment(symbol, value, "test") for symbol, value in asked.items()]))
