"""What the layout of the project promises."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from gpt2.base.files import ROOT

VARIANT = '''
"""Attention in which every head is as sharp as the configuration says."""

from gpt2.attention.baseline import CausalSelfAttention


def build(config):
    attention = CausalSelfAttention(config.n_embd, config.n_head, dropout=config.dropout, bias=config.bias)
    attention.scale *= float(config.option("sharpness", str))
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
    (tree / "defconfigs" / "steps" / "99-sharp.config").write_text(
        'CONFIG_STEP_TITLE="Sharp"\nCONFIG_ATTENTION_SHARP=y\nCONFIG_SHARP_SHARPNESS="3.0"\n'
    )

    def run(*command: str) -> str:
        environment = {**os.environ, "PYTHONPATH": str(tree), "OMP_NUM_THREADS": "1"}
        done = subprocess.run([sys.executable, *command], cwd=tree, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    small = ["N_LAYER=1", "MAX_ITERS=2", "WARMUP_ITERS=1", "EVAL_TOKENS=256", "BATCH_SIZE=2", "DEVICE_CPU=y"]
    os.environ["MAKEFLAGS"] = " -- RA_MLA_ABLATION_STEPS=baseline,sharp ABLATION_SEEDS=1 " + " ".join(small)
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


def lint_imports(tree: Path) -> subprocess.CompletedProcess[str]:
    code = "from importlinter.cli import lint_imports_command as main; main()"
    return subprocess.run([sys.executable, "-c", code, "--no-cache"], cwd=tree, capture_output=True, text=True)


def test_imports_go_one_way() -> None:
    done = lint_imports(ROOT)
    assert done.returncode == 0, done.stdout


AGAINST_THE_CONTRACT = {
    "gpt2/model.py": "harness.configure.plan",
    "gpt2/machine/compilation.py": "gpt2.model",
    "gpt2/data/batches.py": "gpt2.run.parts",
    "gpt2/base/files.py": "gpt2.config",
    "harness/configure/plan.py": "harness.evidence.store",
    "harness/evidence/store.py": "harness.launch.status",
    "harness/launch/status.py": "harness.report.tables",
    "harness/report/tables.py": "harness.heads.page",
    "harness/measure/timing.py": "scripts.status",
}
"""Module -> what it may not import."""


def test_arrows_against_the_contract_are_noticed(tmp_path: Path) -> None:
    for part in ("gpt2", "harness", "scripts"):
        shutil.copytree(ROOT / part, tmp_path / part, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    for module, imports in AGAINST_THE_CONTRACT.items():
        with (tmp_path / module).open("a") as file:
            file.write(f"\nimport {imports}\n")
    done = lint_imports(tmp_path)
    assert done.returncode == 1
    said = " ".join(done.stdout.split())
    for module, imports in AGAINST_THE_CONTRACT.items():
        assert f"{module.removesuffix('.py').replace('/', '.')} -> {imports}" in said


def test_configuration_needs_no_torch() -> None:
    code = "import sys, gpt2.config, gpt2.dotconfig, harness.configure.plan; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
