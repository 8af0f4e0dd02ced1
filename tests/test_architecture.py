"""What the layout of the project promises."""

from __future__ import annotations

import ast
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from gpt2.base.files import ROOT

VARIANT = '''
"""Attention in which every head is as sharp as the configuration says."""

from gpt2.attention.baseline import CausalSelfAttention


def build(config):
    attention = CausalSelfAttention(config.n_embd, config.n_head, dropout=config.dropout, bias=config.bias)
    attention.scale *= float(config.attention_options["sharpness"])
    return attention
'''

CHOICE_ENTRY = """
config ATTENTION_SHARP
\tbool "Sharp"
\thelp
\t  Every score times SHARP_SHARPNESS.
"""

SETTING = """
config SHARP_SHARPNESS
\tstring "Sharpness"
\tdepends on ATTENTION_SHARP
\tdefault "2.0"
\thelp
\t  What every score is multiplied with.
"""


def test_a_new_variant_is_one_file_one_choice_entry_and_one_fragment(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    for part in ("gpt2", "harness", "scripts", "defconfigs"):
        shutil.copytree(ROOT / part, tree / part, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "Kconfig", tree)
    (tree / "gpt2" / "attention" / "sharp.py").write_text(VARIANT)
    kconfig = tree / "gpt2" / "Kconfig"
    before, entry, after = kconfig.read_text().partition("\nconfig ATTENTION_RA_MLA\n")
    inside, end, rest = (entry + after).partition("\nendchoice\n")
    kconfig.write_text(before + CHOICE_ENTRY + inside + end + SETTING + rest)
    (tree / "defconfigs" / "steps" / "9-sharp.config").write_text(
        'CONFIG_STEP_TITLE="Sharp"\nCONFIG_ATTENTION_SHARP=y\nCONFIG_SHARP_SHARPNESS="3.0"\n'
    )

    def run(*command: str) -> str:
        environment = {**os.environ, "PYTHONPATH": str(tree), "OMP_NUM_THREADS": "1"}
        done = subprocess.run([sys.executable, *command], cwd=tree, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    small = [
        "N_LAYER=1",
        "MAX_ITERS=2",
        "WARMUP_ITERS=1",
        "EVAL_ITERS=1",
        "BATCH_SIZE=2",
        "ABLATION_SEEDS=1",
        "DEVICE_CPU=y",
    ]
    os.environ["MAKEFLAGS"] = " -- RA_MLA_ABLATION_STEPS=baseline,sharp " + " ".join(small)
    try:
        run("-m", "scripts.kconfig", "defconfig", "gpt2-ra-v5-quickstart")
    finally:
        del os.environ["MAKEFLAGS"]
    assert "ok    sharp/seed-1" in run("-m", "scripts.check")
    assert "sharp/seed-1: done" in run("-m", "scripts.run")
    run("-m", "scripts.report")
    report = (tree / "results" / "gpt2-ra-v5-quickstart" / "report.md").read_text()
    assert "Sharp" in report
    provenance = (tree / "results" / "gpt2-ra-v5-quickstart" / "sharp" / "seed-1" / "provenance.json").read_text()
    assert '"SHARP_SHARPNESS": "3.0"' in provenance


@pytest.mark.parametrize(
    ("package", "forbidden"),
    [("gpt2", {"harness", "scripts", "tests"}), ("harness", {"scripts", "tests"})],
)
def test_imports_go_one_way(package: str, forbidden: set[str]) -> None:
    for path in (ROOT / package).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module] if isinstance(node, ast.ImportFrom) and node.module else []
            wrong = {name for name in names if name.split(".")[0] in forbidden}
            assert not wrong, f"{path}: imports {wrong}"


def test_configuration_needs_no_torch() -> None:
    code = "import sys, gpt2.config, gpt2.dotconfig, harness.configure.plan; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
