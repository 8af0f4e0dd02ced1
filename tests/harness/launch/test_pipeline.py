"""Several runs at once: side by side, one getting ready beside another; what becomes of the others when one dies."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from gpt2.base.errors import UserError
from gpt2.run import warm_up
from gpt2.run.checkpoint import read_checkpoint
from gpt2.run.records import read_metrics
from gpt2.run.run import Run
from gpt2.run.stop import Stop
from gpt2.symbols import run_config
from gpt2.train_ra_mla import train
from harness.configure.plan import Plan, PlannedRun, make_plan
from harness.evidence.launches import Launch
from harness.evidence.parting import TIMES
from harness.launch import slots as slots_module
from harness.launch.runner import run_plan
from harness.launch.slots import slots
from tests.harness.launch.checkout import Checkout, wait_for
from tests.tiny import tiny

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="elsewhere each run imports for itself")

FOUR = {"RA_MLA_ABLATION_MODE": "y", "RA_MLA_ABLATION_STEPS": "1,2", "ABLATION_SEEDS": "1,2"}


def counting(run: PlannedRun) -> list[dict[str, Any]]:
    """What a run's metrics.jsonl says apart from events and times."""
    lines = read_metrics(run.path / "metrics.jsonl")
    return [{k: v for k, v in line.items() if k not in TIMES} for line in lines if line["kind"] != "event"]


def events(run: PlannedRun) -> list[str]:
    return [line["event"] for line in read_metrics(run.path / "metrics.jsonl") if line["kind"] == "event"]


def steps(run: PlannedRun) -> int:
    path = run.path / "metrics.jsonl"
    return max((line["step"] for line in read_metrics(path) if line["kind"] == "train"), default=0)


def status(run: PlannedRun) -> str:
    return str(json.loads((run.path / "summary.json").read_text())["status"])


def trainer_pid(run: PlannedRun) -> int:
    return int((run.path / ".lock").read_text())


@pytest.mark.slow
def test_results_are_the_same_whatever_ran_beside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    plans = {n: make_plan(tiny(tmp_path, MODEL_NAME=f"m{n}", RUNS_PER_DEVICE=str(n), **FOUR)) for n in (1, 3)}
    for plan in plans.values():
        assert run_plan(plan) == 0
    for alone, beside in zip(plans[1].runs, plans[3].runs, strict=True):
        assert counting(alone) == counting(beside)
        ours, theirs = (read_checkpoint(run.path / "checkpoints" / "step-00000012.pt") for run in (alone, beside))
        assert all(torch.equal(tensor, theirs["model"][name]) for name, tensor in ours["model"].items())
    launches = [json.loads((plan.directory / "launches.jsonl").read_text()) for plan in plans.values()]
    assert [(line["devices"], line["slots"], line["runs"]) for line in launches] == [(1, 1, 4), (1, 3, 4)]
    for line in launches:
        assert 0 < line["efficiency"] < 1
        assert line["efficiency"] == pytest.approx(line["train_s"] / (line["slots"] * line["wall_s"]), abs=1e-3)


def test_one_of_two_that_is_killed_takes_nothing_along(checkout: Checkout) -> None:
    plan = checkout.plan(MAX_ITERS="400", RUNS_PER_DEVICE="2", CHECKPOINT_INTERVAL="50", EVAL_INTERVAL="400")
    process = checkout.make()
    first, second = plan.runs
    wait_for(lambda: steps(first) and steps(second), "they are not trained side by side")
    os.kill(trainer_pid(first), signal.SIGKILL)
    printed, _ = process.communicate(timeout=120)
    assert process.returncode == 1, printed
    assert "[1/2] baseline/seed-1: FAILED" in printed and "killed by SIGKILL" in printed
    assert "[2/2] baseline/seed-2: done" in printed
    assert status(second) == "done" and not (first.path / "summary.json").exists()
    assert any(line["shared"] for line in read_metrics(second.path / "metrics.jsonl") if line["kind"] == "train")
    # And the one that was killed goes on.
    assert checkout.make().wait(timeout=120) == 0
    assert status(first) == "done"


def test_ctrl_c_stops_all_with_checkpoints(checkout: Checkout) -> None:
    plan = checkout.plan(MAX_ITERS="100000", RUNS_PER_DEVICE="2", CHECKPOINT_INTERVAL="0", EVAL_INTERVAL="100000")
    process = checkout.make()
    wait_for(lambda: all(map(steps, plan.runs)), "they are not trained side by side")
    began = time.monotonic()
    process.send_signal(signal.SIGINT)
    printed, _ = process.communicate(timeout=60)
    assert time.monotonic() - began < 30
    assert process.returncode == 130, printed
    for run in plan.runs:
        assert status(run) == "interrupted"
        assert len(list((run.path / "checkpoints").glob("step-*.pt"))) == 1


@pytest.mark.parametrize("keep_going", ["n", pytest.param("y", marks=pytest.mark.slow)])
def test_whether_a_failure_stops_the_others_is_a_setting(checkout: Checkout, keep_going: str) -> None:
    iters = {"y": "600", "n": "100000"}[keep_going]
    long = {"MAX_ITERS": iters, "EVAL_INTERVAL": iters, "CHECKPOINT_INTERVAL": "0"}
    plan = checkout.plan(RUNS_PER_DEVICE="2", ABLATION_SEEDS="1,2,3", KEEP_GOING=keep_going, **long)
    first, second, third = plan.runs
    process = checkout.make()
    wait_for(lambda: steps(first) and steps(second), "they are not trained side by side")
    os.kill(trainer_pid(first), signal.SIGKILL)
    printed, _ = process.communicate(timeout=120)
    assert process.returncode == 1, printed
    assert "baseline/seed-1: FAILED" in printed
    if keep_going == "y":
        assert status(second) == status(third) == "done"
    else:
        assert status(second) == "interrupted"
        assert not (third.path / "summary.json").exists()
        assert "KEEP_GOING=n" in printed


def test_the_next_run_gets_ready_beside_the_one_that_trains(checkout: Checkout) -> None:
    checkout.edit("harness/launch/launchers.py", "\nSlot.is_processor = property(lambda _: False, lambda *_: None)\n")
    plan = checkout.plan(MAX_ITERS="100000", CHECKPOINT_INTERVAL="0", EVAL_INTERVAL="100000", ABLATION_SEEDS="1,2,3")
    first, second, third = plan.runs
    process = checkout.make()
    wait_for(lambda: second.path.exists() and "waiting" in events(second), "the second does not get ready")
    before = steps(first)
    wait_for(lambda: steps(first) > before + 20, "the first does not go on")
    assert steps(second) == 0 and not third.path.exists()
    # What waits uses nothing: steps of the first are clean again.
    assert not [line for line in read_metrics(first.path / "metrics.jsonl") if line["kind"] == "train"][-1]["shared"]
    os.kill(trainer_pid(first), signal.SIGTERM)
    wait_for(lambda: steps(second), "it does not take the device")
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    assert status(first) == status(second) == "interrupted"
    assert events(second)[:3] == ["start", "waiting", "training"]


@pytest.mark.slow
def test_what_does_not_fit_beside_others_is_run_again_alone(checkout: Checkout) -> None:
    # Memory that is not there as long as the first run trains.
    code = """
import sys as _sys
from pathlib import Path as _Path
_own = GPT.__init__
def _init(self, *args, **options):
    out = _Path(_sys.argv[_sys.argv.index("--out") + 1])
    if out.name == "seed-2" and not (out.parent / "seed-1" / "summary.json").exists():
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate")
    _own(self, *args, **options)
GPT.__init__ = _init
"""
    checkout.edit("gpt2/model.py", code)
    plan = checkout.plan(MAX_ITERS="300", RUNS_PER_DEVICE="2", EVAL_INTERVAL="300", ABLATION_SEEDS="1,2,3")
    process = checkout.make()
    printed, _ = process.communicate(timeout=120)
    assert process.returncode == 0, printed
    assert "baseline/seed-2: not enough memory beside another run: again, alone on a device" in printed
    assert [status(run) for run in plan.runs] == ["done"] * 3
    lines = [line for line in read_metrics(plan.runs[1].path / "metrics.jsonl") if line["kind"] == "train"]
    assert not any(line["shared"] for line in lines)


def test_a_run_that_cannot_get_ready_beside_another_does_so_when_it_has_the_device(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tries = []

    def too_much(parts: Any, differs: Any) -> None:
        tries.append(run.share.has_turn)
        if not run.share.has_turn:
            raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(warm_up, "compile_and_warm_up", too_much)
    monkeypatch.setattr("gpt2.train_ra_mla.compile_and_warm_up", too_much)
    from gpt2.machine.sharing import SharedDevice

    (tmp_path / "run").mkdir()
    share = SharedDevice(tmp_path / "turns", torch.device("cpu"), slot=0)
    run = Run(run_config(tiny(tmp_path).symbols), tmp_path / "run", share=share)
    assert train(run, Stop()) == "done"
    assert tries == [False, True]
    told = [line for line in read_metrics(tmp_path / "run" / "metrics.jsonl") if line.get("event") == "memory"]
    assert len(told) == 1


def on_gpus(plan: Plan, n: int, monkeypatch: pytest.MonkeyPatch, **environ: str) -> Sequence[Any]:
    monkeypatch.setattr(slots_module, "select_device", lambda name: torch.device("cuda", 0))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: n)
    return slots(plan, environ)


def planned(folder: Path, **settings: str) -> Plan:
    return make_plan(tiny(folder, **settings))


@pytest.mark.parametrize(
    ("settings", "visible", "expected"),
    [
        ({}, "", ["0", "1", "2"]),
        ({"GPUS": "0,2"}, "", ["0", "2"]),
        ({"GPUS": " 2 , 1 "}, "", ["2", "1"]),
        ({"GPUS": "1"}, "5,GPU-abc,7", ["GPU-abc"]),
        ({}, "5,7", ["5", "7"]),
        ({"RUNS_PER_DEVICE": "2", "GPUS": "0,1"}, "", ["0", "1", "0", "1"]),
    ],
)
def test_slots_are_the_gpus_that_are_seen_and_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: dict[str, str], visible: str, expected: list[str]
) -> None:
    environ = {"CUDA_VISIBLE_DEVICES": visible} if visible else {}
    found = on_gpus(planned(tmp_path, **settings), 3, monkeypatch, **environ)
    assert [slot.environment["CUDA_VISIBLE_DEVICES"] for slot in found] == expected
    assert len({(slot.environment["CUDA_VISIBLE_DEVICES"], slot.turn) for slot in found}) == len(found)


@pytest.mark.parametrize(("gpus", "expected"), [("", ["0,1", "2,3"]), ("4,1,3,2", ["4,1", "3,2"]), ("0,1,2", ["0,1"])])
def test_a_run_of_several_processes_has_a_gpu_for_each(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gpus: str, expected: list[str]
) -> None:
    several = {"PROCESSES_PER_RUN": "2", "GRADIENT_ACCUMULATION_STEPS": "2"}
    found = on_gpus(planned(tmp_path, GPUS=gpus, **several), 5, monkeypatch)
    assert [slot.environment["CUDA_VISIBLE_DEVICES"] for slot in found] == expected
    assert slots_module.count_devices(found) == 2 * len(expected)
    with pytest.raises(UserError, match=r"^PROCESSES_PER_RUN=2: each has a GPU, and there are 1 here"):
        on_gpus(planned(tmp_path, GPUS="3", **several), 5, monkeypatch)
    with pytest.raises(UserError, match=r"^RUNS_PER_DEVICE=2: with PROCESSES_PER_RUN=2"):
        on_gpus(planned(tmp_path, RUNS_PER_DEVICE="2", **several), 5, monkeypatch)


@pytest.mark.parametrize("gpus", ["3", "0,3", "0,0", "00,0", "-1", "0,", ",", "x", "0;1", "٣", "1.0", "all"])
def test_gpus_that_are_not_there_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gpus: str) -> None:
    with pytest.raises(UserError, match=r'^GPUS="[^"]*": .*(name each GPU once|there is no GPU)'):
        on_gpus(planned(tmp_path, GPUS=gpus), 3, monkeypatch)


def test_gpus_are_refused_where_the_processor_trains(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r'^GPUS="0": runs are trained on cpu here'):
        slots(planned(tmp_path, GPUS="0"))


@pytest.mark.parametrize(
    ("n", "given", "threads"), [(1, "", None), (2, "", "4"), (3, "", "2"), (16, "", "1"), (2, "3", None)]
)
def test_on_a_processor_the_cores_are_divided(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, n: int, given: str, threads: str | None
) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: 8)
    found = slots(planned(tmp_path, RUNS_PER_DEVICE=str(n)), {"OMP_NUM_THREADS": given} if given else {})
    assert len(found) == n
    assert {slot.environment.get("OMP_NUM_THREADS") for slot in found} == {threads}
    assert len({slot.turn for slot in found}) == n


def test_efficiency_is_the_share_of_the_slots_time(tmp_path: Path) -> None:
    launch = Launch(runs=4, devices=2, slots=2, train_s=90.0, wall_s=50.0)
    assert launch.efficiency == 0.9
    launch.record(tmp_path)
    replace(launch, wall_s=100.0, predicted_s=95.0).record(tmp_path)
    lines = [json.loads(line) for line in (tmp_path / "launches.jsonl").read_text().splitlines()]
    assert [(line["efficiency"], line["predicted_s"]) for line in lines] == [(0.9, None), (0.45, 95.0)]
