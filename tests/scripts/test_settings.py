"""Settings on make's command line: every command takes them, or refuses them by name before it does anything."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import pytest

from gpt2.base.errors import UserError
from gpt2.dotconfig import load
from harness.configure.kconfig import find_defconfig

TAKEN_BY_NONE = {
    "bench": "benchmark_attention benchmark_training",
    "parity": "check_parity",
    "profile": "profile_kernels",
    "list-steps": "list_steps",
}
READING = ("report", "plots", "inspect_attention")
PLANNING = ("check", "estimate", "status", "run")


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A current directory with a `.config`."""
    monkeypatch.chdir(tmp_path)
    load(find_defconfig("gpt2-ra-v5-quickstart")).write(Path(".config"))
    return tmp_path


def refused(script: str, flags: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """What a script says of settings on make's command line. It has to refuse, and to leave nothing behind."""
    before = sorted(Path().rglob("*"))
    monkeypatch.setattr(sys, "argv", [script])
    monkeypatch.setenv("MAKEFLAGS", f" -- {flags}")
    with pytest.raises(UserError) as caught:
        importlib.import_module(f"scripts.{script}").main()
    assert sorted(Path().rglob("*")) == before
    message = str(caught.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize("command", TAKEN_BY_NONE)
def test_what_has_no_use_for_settings_refuses_them(command: str, work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for script in TAKEN_BY_NONE[command].split():
        message = refused(script, "MAX_ITERS=5 RA_V5_R=8", monkeypatch)
        assert message.startswith(f"make {command} takes no settings on its command line: MAX_ITERS, RA_V5_R")
        assert "did you mean MAX_ITERS" in refused(script, "MAX_ITER=5", monkeypatch)


@pytest.mark.parametrize("script", READING)
def test_what_reads_results_takes_where_they_are(script: str, work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = "RESULTS_DIR=elsewhere MODEL_NAME=mine"
    assert refused(script, place, monkeypatch).startswith("elsewhere/mine: holds no runs; ")
    message = refused(script, f"{place} MAX_ITERS=5 SEED=7", monkeypatch)
    assert message.startswith("command line: MAX_ITERS, SEED: ")
    assert refused(script, "RESULTS_DIR=~", monkeypatch).startswith('RESULTS_DIR="~": ')


@pytest.mark.parametrize("script", PLANNING)
def test_what_plans_refuses_what_no_run_takes(script: str, work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for flags in ("SEED=7", "SEED=1", "STEP_TITLE=Mine", "ATTENTION_MLA=y", "COMPILE_ATTENTION=y"):
        message = refused(script, flags, monkeypatch)
        assert message.startswith(f"command line: CONFIG_{flags}: ")


OF_QUALITY = ("RA_MLA_ABLATION_STEPS=3", "RA_MLA_ABLATION_MODE=n", "ABLATION_SWEEP=RA_V5_R=4")


@pytest.mark.parametrize("flags", [*OF_QUALITY, "SEED=7", "COMPILE_MODEL=y"])
def test_quality_refuses_what_it_sets_itself(flags: str, work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert refused("quick_quality_test", flags, monkeypatch).startswith(f"command line: CONFIG_{flags}: ")


def test_continue_and_convert_take_none(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "make convert: MAX_ITERS: is none of IN" in refused(
        "convert_checkpoint_to_ra_v5", "IN=gpt2 OUT=x.pt MAX_ITERS=5", monkeypatch
    )
    monkeypatch.setenv("MAKEFLAGS", " -- MAX_ITERS=5")
    monkeypatch.setattr(sys, "argv", ["run", "--continue"])
    with pytest.raises(UserError, match=r"^make continue takes no settings on its command line: MAX_ITERS$"):
        importlib.import_module("scripts.run").main()
