"""Two makes in one experiment, and trainers that nobody waits for any more."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from gpt2.run.directory import hold
from gpt2.run.lock import HeldElsewhere, RunLock
from harness.configure.plan import make_plan
from harness.launch import pipeline, running
from harness.launch.runner import run_plan
from harness.launch.status import print_status
from tests.harness.launch.checkout import Checkout, processes, wait_for
from tests.tiny import tiny


@pytest.mark.slow
def test_two_makes_share_the_runs_and_neither_says_anything_false(checkout: Checkout) -> None:
    plan = checkout.plan(ABLATION_SEEDS="1,2,3", MAX_ITERS="120")
    first = checkout.make()
    wait_for((plan.runs[0].path / "provenance.json").exists, "it does not begin")
    second = checkout.make()
    printed = [process.communicate(timeout=180)[0] for process in (first, second)]
    assert (first.returncode, second.returncode) == (0, 0), printed
    assert not any("FAILED" in text for text in printed)
    assert "baseline/seed-1: elsewhere" in printed[1]
    for run in plan.runs:
        assert json.loads((run.path / "summary.json").read_text())["status"] == "done"
        assert json.loads((run.path / "provenance.json").read_text())["resumed"] == []
        lines = [json.loads(line) for line in (run.path / "metrics.jsonl").read_text().splitlines()]
        keys = [(line["kind"], line["step"]) for line in lines if line["kind"] != "event"]
        assert len(keys) == len(set(keys))
        assert "error" not in (run.path / "train.log").read_text()


def test_what_is_left_of_a_run_that_was_held_elsewhere_is_trained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    settings = {"RA_MLA_ABLATION_MODE": "y", "RA_MLA_ABLATION_STEPS": "1", "ABLATION_SEEDS": "1,2"}
    plan = make_plan(tiny(tmp_path, **settings))
    plan.runs[0].path.mkdir(parents=True)
    holder = subprocess.Popen(
        [sys.executable, "-c", "import fcntl, sys; f = open(sys.argv[1], 'a'); fcntl.flock(f, 2); input()", ".lock"],
        cwd=plan.runs[0].path,
        stdin=subprocess.PIPE,
    )
    wait_for(lambda: RunLock.is_held(plan.runs[0].path), "it is not held")
    monkeypatch.setattr("harness.launch.pipeline._wait_for_one_of", lambda runs, until: holder.communicate())
    assert run_plan(plan) == 0
    assert all(run.is_done for run in plan.runs)


def test_what_another_make_has_trained_there_with_other_settings_is_not_taken_for_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    settings = {"RA_MLA_ABLATION_MODE": "y", "RA_MLA_ABLATION_STEPS": "1", "ABLATION_SEEDS": "1"}
    plan, other = (make_plan(tiny(tmp_path, MAX_ITERS=iters, **settings)) for iters in ("12", "13"))
    attempts = iter([HeldElsewhere("it is being trained")])
    held = running.hold

    def held_at_first(path: Path) -> Any:
        for error in attempts:
            raise error
        return held(path)

    monkeypatch.setattr(running, "hold", held_at_first)
    monkeypatch.setattr(pipeline, "_wait_for_one_of", lambda runs, until: run_plan(other))
    assert run_plan(plan) == 1
    printed = capsys.readouterr().out
    assert "FAILED" in printed
    assert "holds another run: CONFIG_MAX_ITERS is 13 there and 12 here" in printed
    print_status(plan)
    status = capsys.readouterr().out
    assert "another run" in status and "done" not in status
    assert "baseline/seed-1 holds another run: CONFIG_MAX_ITERS is 13 there and 12 here" in status


def test_what_was_being_written_is_swept_by_whoever_holds_the_directory(tmp_path: Path) -> None:
    run = tmp_path / "run"
    (run / "checkpoints").mkdir(parents=True)
    left = [
        *(".summary.json.17.tmp", ".provenance.json.18.tmp", "checkpoints/.step-00000004.unchecked.19.tmp"),
        *("checkpoints/step-00000004.unchecked", "checkpoints/step-00000004.pt.sha256"),
    ]
    kept = ["metrics.jsonl", "train.log", "checkpoints/step-00000002.pt", "checkpoints/step-00000002.pt.sha256"]
    for name in (*left, *kept):
        (run / name).write_text("x")
    (run / "summary.json").write_text('{"status": "interrupted"}')
    with hold(run) as lock:
        assert not any((run / name).exists() for name in (*left, "summary.json"))
        assert all((run / name).exists() for name in kept)
        with pytest.raises(HeldElsewhere), hold(run):
            pass
        with hold(run, os.dup(lock.fd)):  # whoever is given the lock shares it
            pass
        with pytest.raises(HeldElsewhere), hold(run):
            pass
    (run / "summary.json").write_text('{"status": "done"}')
    with hold(run):
        assert (run / "summary.json").exists()


@pytest.mark.parametrize("where", ["gpt2/run/warm_up.py", pytest.param("gpt2/run/parts.py", marks=pytest.mark.slow)])
def test_a_trainer_whose_runner_is_gone_ends_while_it_builds_and_compiles_too(checkout: Checkout, where: str) -> None:
    compiler = "import subprocess; subprocess.run(['sleep', '1000'])"
    name = {"gpt2/run/warm_up.py": "compile_and_warm_up", "gpt2/run/parts.py": "GPT"}[where]
    checkout.edit(where, f"\n\ndef {name}(*_, **__): {compiler}\n")
    plan = checkout.plan(ABLATION_SEEDS="1")
    process = checkout.make()
    wait_for(lambda: any("sleep" in line for line in processes(checkout)), "it does not compile")
    process.send_signal(signal.SIGKILL)
    process.communicate()
    wait_for(lambda: not processes(checkout), "something goes on", seconds=10)
    assert not RunLock.is_held(plan.runs[0].path)


def test_a_run_that_failed_before_its_first_step_says_why_and_blocks_nobody(checkout: Checkout) -> None:
    checkout.edit("gpt2/run/parallel.py", "\n\ndef make_optimizer(*_):\n    raise UserError('no such thing')\n")
    checkout.edit("gpt2/run/parallel.py", "\n\nfrom gpt2.base.errors import UserError\n")
    plan = checkout.plan(ABLATION_SEEDS="1")
    process = checkout.make()
    printed, _ = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "FAILED after" in printed and "no such thing" in printed
    summary = json.loads((plan.runs[0].path / "summary.json").read_text())
    assert (summary["status"], summary["error"], summary["iters"]) == ("failed", "no such thing", 0)
    plan = checkout.plan(ABLATION_SEEDS="1", LEARNING_RATE="2e-3")
    (checkout.path / "gpt2" / "run" / "parallel.py").write_text(Path("gpt2/run/parallel.py").read_text())
    process = checkout.make()
    printed, _ = process.communicate(timeout=60)
    assert process.returncode == 0, printed
    provenance = json.loads((plan.runs[0].path / "provenance.json").read_text())
    assert provenance["identity"]["LEARNING_RATE"] == 2e-3
