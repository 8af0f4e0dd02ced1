"""What documents refer to is there, in a clone as here."""

from __future__ import annotations

import re
import subprocess
import textwrap
from pathlib import Path

import pytest

from gpt2.base.files import ROOT

DOCUMENTS = sorted(
    path
    for pattern in ("README.md", "CONTRIBUTING.md", "docs/*.md", "results/*/README.md")
    for path in ROOT.glob(pattern)
)


def tracked() -> set[str]:
    done = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    if done.returncode != 0:
        pytest.skip("not a git checkout")
    return set(done.stdout.splitlines())


def named_in(document: Path) -> set[str]:
    """Files that a document links to, shows, or names below the code or results/, relative to the checkout."""
    text = document.read_text()
    targets = {link.partition("#")[0] for link in re.findall(r"\]\(([^):]+)\)", text)}
    # A README of reference results names its neighbours without their directory.
    if document.parent.parent.name == "results":
        targets |= set(re.findall(r"`([\w-]+\.(?:json|txt))`", text))
    linked = {str((document.parent / target).resolve().relative_to(ROOT)) for target in targets if target}
    code = set(re.findall(r"(?<![\w/.-])(?:tests|gpt2|harness|scripts|defconfigs)/[\w/-]+\.(?:py|config|md)\b", text))
    tests = {path for path in code if "/test_" in path}  # some are named from their room on
    named = code - tests - {"gpt2/attention/foo.py"} | {f"tests/{path.removeprefix('tests/')}" for path in tests}
    return linked | named | set(re.findall(r"\bresults/(?:cpu|h100)/[\w-]+\.\w+", text))


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_what_a_document_names_is_in_git(document: Path) -> None:
    assert named_in(document) - tracked() == set()


def quoted(document: Path) -> list[str]:
    """The blocks of code in a document, which are indented, without their indentation."""
    blocks = re.findall(r"(?:^ {4}.*\n(?:^\n(?=(?:\n)*^ {4}))*)+", document.read_text(), re.MULTILINE)
    return [textwrap.dedent(block) for block in blocks]


def test_the_howto_of_an_arm_quotes_the_arm_that_there_is() -> None:
    blocks = quoted(ROOT / "docs/howto-new-arm.md")
    for file in ("gpt2/attention/qk_norm.py", "defconfigs/steps/11-qk-norm.config"):
        assert (ROOT / file).read_text() in blocks
    entries = [block for block in blocks if block.startswith("config ")]
    assert [entry.split()[1] for entry in entries] == ["ATTENTION_QK_NORM", "QK_NORM_SHARPNESS"]
    for entry in entries:
        assert f"\n{entry}\n" in (ROOT / "gpt2/Kconfig").read_text()
    (variant,) = (block for block in blocks if block.startswith('"qk_norm": '))
    assert variant in textwrap.dedent((ROOT / "tests/gpt2/variants.py").read_text().partition("= {\n")[2])
