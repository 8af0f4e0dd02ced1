"""Trainers and the process that they are forked off: what is imported when, and what is left where something dies."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from harness.configure.plan import Plan
from tests.harness.launch.checkout import Checkout, processes, wait_for

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="elsewhere each run imports for itself")


def trains(plan: Plan, i: int) -> Callable[[], bool]:
    """Whether the i-th run has logged a step."""
    path = plan.runs[i].path / "metrics.jsonl"
    return lambda: path.exists() and '"train"' in path.read_text()


def summary(plan: Plan, i: int) -> dict[str, Any]:
    result: dict[str, Any] = json.loads((plan.runs[i].path / "summary.json").read_text())
    return result


def log(plan: Plan, i: int) -> str:
    return (plan.runs[i].path / "train.log").read_text()


def has_checkpoint(plan: Plan, i: int) -> bool:
    return any((plan.runs[i].path / "checkpoints").glob("step-*.pt"))


def trainer_pid(plan: Plan, i: int) -> int:
    return int((plan.runs[i].path / ".lock").read_text())


LONG = {"MAX_ITERS": "100000", "CHECKPOINT_INTERVAL": "0", "EVAL_INTERVAL": "100000"}


def test_runs_share_what_is_imported_until_it_is_edited(checkout: Checkout) -> None:
    checkout.edit("gpt2/run/clock.py", '\nprint("imported", flush=True)\n')
    compiler = '"torch._inductor.compile_fx" in __import__("sys").modules'
    goodbye = f'\nimport atexit; atexit.register(lambda: print("goodbye,", {compiler}))\n'
    checkout.edit("gpt2/optimizer.py", goodbye)
    plan = checkout.plan(ABLATION_SEEDS="1,2,3")
    process = checkout.make()
    wait_for((plan.runs[1].path / "train.log").exists, "the second run does not start")
    checkout.edit("gpt2/run/clock.py", 'print("anew", flush=True)\n')
    # What the trainers use of harness/ they have: nothing.
    checkout.edit("harness/configure/plan.py", "def (\n")
    printed, _ = process.communicate(timeout=120)
    assert process.returncode == 0, printed
    assert "imported" not in printed + log(plan, 0)
    assert log(plan, 0).endswith("goodbye, True\n"), "it has the compiler, and ends as any Python does"
    assert "imported\nanew\n" in log(plan, 2), "the code as it lies there is what runs"


@pytest.mark.parametrize(
    ("mistake", "reason"),
    [
        ("def (\n", "SyntaxError: invalid syntax"),
        pytest.param("import sys; sys.exit(3)\n", "printed nothing", marks=pytest.mark.slow),
        pytest.param(
            "print('deep', flush=True); import ctypes; ctypes.string_at(0)\n",
            "killed by SIGSEGV; deep",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_code_that_cannot_be_imported_fails_each_run_with_its_reason(
    checkout: Checkout, mistake: str, reason: str
) -> None:
    checkout.edit("gpt2/optimizer.py", mistake)
    plan = checkout.plan()
    process = checkout.make()
    printed, _ = process.communicate(timeout=120)
    assert process.returncode == 1
    for run in plan.runs:
        assert f"{run.name}: FAILED after" in printed
    assert printed.count(reason) == 2


def test_a_run_that_ends_without_finishing_has_failed(checkout: Checkout) -> None:
    checkout.edit(
        "gpt2/optimizer.py", "\n\ndef make_optimizer(*_): print('half a line', end=''); raise SystemExit(0)\n"
    )
    plan = checkout.plan(ABLATION_SEEDS="1")
    process = checkout.make()
    printed, _ = process.communicate(timeout=120)
    assert process.returncode == 1
    assert f"{plan.runs[0].name}: FAILED after" in printed
    assert "half a line" in printed


@pytest.mark.parametrize("edited", [False, True])
def test_a_trainer_stops_when_its_runner_is_killed(checkout: Checkout, edited: bool) -> None:
    if edited:  # in effect: every trainer then imports anew
        checkout.edit("gpt2/machine/source.py", '\nIMPORTED = "something else"\n')
    plan = checkout.plan(**LONG)
    process = checkout.make()
    wait_for(trains(plan, 0), "it does not train")
    process.send_signal(signal.SIGKILL)
    process.communicate()
    wait_for((plan.runs[0].path / "summary.json").exists, "the trainer goes on")
    assert summary(plan, 0)["status"] == "interrupted"
    assert has_checkpoint(plan, 0)


@pytest.mark.slow
def test_ctrl_c_before_a_run_has_begun_leaves_none_behind(checkout: Checkout) -> None:
    checkout.edit("gpt2/run/clock.py", "\ntime.sleep(2)\n")  # an import that takes its time
    plan = checkout.plan(ABLATION_SEEDS="1")
    process = checkout.make()
    wait_for((plan.runs[0].path / "train.log").exists, "it does not start")
    process.send_signal(signal.SIGINT)
    printed, _ = process.communicate(timeout=60)
    assert process.returncode == 130
    assert f"{plan.runs[0].name}: interrupted" in printed
    wait_for(lambda: not processes(checkout), "processes are left")
    assert not (plan.runs[0].path / "provenance.json").exists()
    process = checkout.make()
    printed, _ = process.communicate(timeout=60)
    assert process.returncode == 0, printed


def test_sigterm_to_all_of_them_is_waited_for_until_there_is_a_checkpoint(checkout: Checkout) -> None:
    plan = checkout.plan(**LONG)
    process = checkout.make()
    wait_for(trains(plan, 0), "it does not train")
    os.kill(trainer_pid(plan, 0), signal.SIGTERM)
    os.killpg(process.pid, signal.SIGTERM)
    printed, _ = process.communicate(timeout=60)
    assert process.returncode == 130, printed
    assert summary(plan, 0)["status"] == "interrupted"
    assert has_checkpoint(plan, 0)


@pytest.mark.slow
def test_the_death_of_what_runs_are_forked_off_costs_one_run_its_time(checkout: Checkout) -> None:
    plan = checkout.plan(MAX_ITERS="300")
    process = checkout.make()
    wait_for(trains(plan, 0), "it does not train")
    (forkserver,) = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    os.kill(int(forkserver), signal.SIGKILL)
    printed, _ = process.communicate(timeout=120)
    assert process.returncode == 1
    assert f"{plan.runs[0].name}: FAILED after" in printed
    assert "the process that started this one has ended" in printed
    assert has_checkpoint(plan, 0)
    assert summary(plan, 1)["status"] == "done"


@pytest.mark.parametrize("closed", [(0, 1, 2), *(pytest.param((fd,), marks=pytest.mark.slow) for fd in (0, 1, 2))])
def test_runs_need_no_terminal(checkout: Checkout, closed: tuple[int, ...]) -> None:
    plan = checkout.plan(ABLATION_SEEDS="1")

    def close() -> None:
        for fd in closed:
            os.close(fd)

    process = checkout.make(preexec_fn=close, stdout=None, stderr=None)
    process.communicate(timeout=120)
    assert summary(plan, 0)["status"] == "done"
    assert "val_loss" in log(plan, 0)
