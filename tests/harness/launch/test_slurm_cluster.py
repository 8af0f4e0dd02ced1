"""LAUNCHER_SLURM against a real Slurm (tests/slurm/cluster.py): what it does to jobs changes no number of a run."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gpt2.base.files import ROOT
from harness.configure.kconfig import DOTCONFIG
from harness.configure.plan import Plan, make_plan
from harness.evidence.parting import compare_runs
from tests.harness.launch.checkout import wait_for
from tests.slurm.cluster import Cluster, cluster, why_not
from tests.tiny import tiny

pytest.importorskip("submitit")
pytestmark = [pytest.mark.slow, pytest.mark.skipif(why_not() is not None, reason=f"no Slurm: {why_not()}")]

LONG = {"MAX_ITERS": "3000", "LOG_INTERVAL": "50", "EVAL_INTERVAL": "1000", "CHECKPOINT_INTERVAL": "400"}
started: list[subprocess.Popen[str]] = []
ONE = {"RA_MLA_ABLATION_STEPS": "1"}


@pytest.fixture(scope="module")
def slurm() -> Iterator[Cluster]:
    with cluster() as it:
        yield it


@pytest.fixture(autouse=True)
def alone(request: pytest.FixtureRequest) -> Iterator[None]:
    """No test leaves a process or a job to the next."""
    yield
    while started:
        process = started.pop()
        process.kill()
        process.wait()
    if "slurm" in request.fixturenames:
        it = request.getfixturevalue("slurm")
        it("scancel", "--full", "--user=root", check=False)
        wait_for(lambda: not it("squeue", "--noheader"), "jobs do not end")


class Place:
    """A directory in which `make` is typed."""

    def __init__(self, path: Path, environment: dict[str, str], **symbols: str) -> None:
        path.mkdir()
        self.path, self._environment = path, environment
        settings = {"RA_MLA_ABLATION_MODE": "y", "RA_MLA_ABLATION_STEPS": "1,2", "ABLATION_SEEDS": "1"} | symbols
        base = tiny(path, **settings)
        base.write(path / DOTCONFIG)
        self.plan: Plan = make_plan(base)

    def start(self, command: str = "run", *arguments: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-m", f"scripts.{command}", *arguments],
            cwd=self.path,
            env=self._environment | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        started.append(process)
        return process

    def make(self, command: str = "run", *arguments: str) -> tuple[int, str]:
        process = self.start(command, *arguments)
        printed, _ = process.communicate(timeout=400)
        return process.returncode, printed

    def run(self, i: int = 0) -> Path:
        """The directory of a run."""
        return self.plan.runs[i].path

    def trains(self, i: int = 0, line: int = 1) -> None:
        """Wait until a run has logged so many lines of steps."""
        path = self.run(i) / "metrics.jsonl"
        wait_for(lambda: path.exists() and path.read_text().count('"train"') >= line, "it does not train", 120)

    def summary(self, i: int = 0) -> dict[str, Any]:
        result: dict[str, Any] = json.loads((self.run(i) / "summary.json").read_text())
        return result

    def job(self, i: int = 0) -> str:
        return str(json.loads((self.run(i) / "slurm" / "job.json").read_text())["job"])


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Place:
    """What the local runner makes of LONG."""
    place = Place(tmp_path_factory.mktemp("local") / "place", dict(os.environ), **LONG)
    assert place.make()[0] == 0
    return place


@pytest.fixture
def place(slurm: Cluster, tmp_path: Path) -> Iterator[Any]:
    yield lambda **symbols: Place(
        tmp_path / "place",
        slurm.environment,
        **({"LAUNCHER_SLURM": "y", "SLURM_CPUS": "1", "SLURM_PARTITION": "low"} | symbols),
    )


def assert_same(ours: Place, theirs: Place) -> None:
    for run in ours.plan.runs:
        other = next(it for it in theirs.plan.runs if it.name == run.name)
        compared = compare_runs(run.name, run.path, other.path)
        assert (compared.metrics, compared.weights, compared.identity) == (None, None, None), compared
        assert compared.lines > 60


def resumptions(place: Place, i: int = 0) -> int:
    return len(json.loads((place.run(i) / "provenance.json").read_text())["resumed"])


def test_an_array_of_runs_has_the_numbers_of_the_local_runner(slurm: Cluster, place: Any, undisturbed: Place) -> None:
    ours = place(**LONG)
    status, printed = ours.make()
    assert status == 0, printed
    assert_same(ours, undisturbed)
    assert [ours.summary(i)["status"] for i in range(2)] == ["done", "done"]
    assert resumptions(ours) == 0
    assert "[1/2] baseline/seed-1: running (job " in printed and "[2/2] ra-v5-eager/seed-1: done val_loss" in printed
    # One array, of as many jobs as runs, whose logs lie with the runs.
    array, task = ours.job(0).split("_")
    assert (ours.job(1), task) == (f"{array}_1", "0")
    assert (ours.run(1) / "slurm" / f"{array}_1_0.out").exists()
    assert "steps 0 to 3000" in (ours.run(0) / "train.log").read_text()
    assert (ours.plan.directory / "summary.csv").read_text().count(",done,") == 2
    assert "done earlier" in ours.make()[1]
    assert ours.job(0) == f"{array}_0"


def test_a_run_that_is_preempted_goes_on_by_itself(slurm: Cluster, place: Any, undisturbed: Place) -> None:
    ours = place(**LONG)
    process = ours.start()
    ours.trains(0, 5)
    slurm("sbatch", "--partition=high", "--ntasks=4", "--output=/dev/null", "--wrap=sleep 5")
    printed, _ = process.communicate(timeout=400)
    assert process.returncode == 0, printed
    assert resumptions(ours) >= 1
    assert printed.count("baseline/seed-1: running (job ") >= 2 and printed.count("submitted") == 2
    assert_same(ours, undisturbed)


def test_sigusr1_leaves_a_checkpoint_and_goes_back_into_the_queue_again_and_again(
    slurm: Cluster, place: Any, undisturbed: Place
) -> None:
    ours = place(**LONG, **ONE)
    process = ours.start()
    for time_ in range(2):
        ours.trains(0, 1 + 10 * time_)
        wait_for(lambda: "RUNNING" in slurm("squeue", "-h", "-o", "%T"), "it does not run")
        slurm("scancel", "--signal=USR1", ours.job())
        wait_for(lambda n=time_: resumptions(ours) > n, "it does not go on", 120)
    printed, _ = process.communicate(timeout=400)
    assert process.returncode == 0, printed
    assert "SIGUSR1: left a checkpoint at step" in (ours.run() / "train.log").read_text()
    assert_same(ours, undisturbed)


def test_the_time_limit_is_no_end(slurm: Cluster, place: Any) -> None:
    ours = place(MAX_ITERS="10000000", CHECKPOINT_INTERVAL="0", SLURM_TIME="3", SLURM_SIGNAL_S="10", **ONE)
    process = ours.start()
    wait_for(lambda: (ours.run() / "provenance.json").exists() and resumptions(ours) == 1, "no resumption", 400)
    assert "SIGUSR1: left a checkpoint at step" in (ours.run() / "train.log").read_text()
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=60) == 130


def test_a_node_that_vanishes_costs_the_steps_since_the_last_checkpoint(
    slurm: Cluster, place: Any, undisturbed: Place
) -> None:
    ours = place(**LONG)
    process = ours.start()
    ours.trains(0, 10)
    slurm.kill_node()
    slurm("scontrol", "update", f"nodename={slurm.node}", "state=down", "reason=vanished")
    wait_for(lambda: "PENDING" in slurm("squeue", "-h", "-o", "%T"), "it does not go back into the queue")
    assert "queued (job" in ours.make("status")[1]
    slurm.start_node()
    printed, _ = process.communicate(timeout=400)
    assert process.returncode == 0, printed
    assert resumptions(ours) >= 1
    assert_same(ours, undisturbed)


def test_a_cancelled_array_is_said_and_gone_on_with(slurm: Cluster, place: Any, undisturbed: Place) -> None:
    ours = place(**LONG)
    process = ours.start()
    ours.trains(0)
    ours.trains(1)
    assert re.search(rf"running \(job {ours.job()} on {slurm.node}\)", ours.make("status")[1])
    array = ours.job().split("_")[0]
    slurm("scancel", array)
    printed, _ = process.communicate(timeout=120)
    assert process.returncode == 1, printed
    assert re.search(rf"\[1/2\] baseline/seed-1: FAILED after .*job {array}_0 ended as CANCELLED", printed), printed
    status, printed = ours.make()
    assert status == 0, printed
    assert_same(ours, undisturbed)


def test_a_runner_that_was_killed_comes_back_to_its_jobs(slurm: Cluster, place: Any, undisturbed: Place) -> None:
    ours = place(**LONG)
    process = ours.start()
    ours.trains(0)
    process.kill()
    process.wait()
    jobs = [ours.job(i) for i in range(2)]
    second, third = ours.start("run", "--continue"), ours.start()
    printed = [it.communicate(timeout=400)[0] for it in (second, third)]
    assert (second.returncode, third.returncode) == (0, 0), printed
    for text in printed:
        assert f"baseline/seed-1: found again job {jobs[0]}" in text and "submitted" not in text
    assert [ours.job(i) for i in range(2)] == jobs
    assert resumptions(ours) == 0
    assert_same(ours, undisturbed)


def test_ctrl_c_stops_every_job_with_a_checkpoint(slurm: Cluster, place: Any, undisturbed: Place) -> None:
    # Two run and two wait for them.
    ours = place(ABLATION_SEEDS="1,2", SLURM_CPUS="2", **LONG)
    process = ours.start()
    ours.trains(0)
    ours.trains(1)
    process.send_signal(signal.SIGINT)
    start = time.monotonic()
    printed, _ = process.communicate(timeout=120)
    assert process.returncode == 130, printed
    assert time.monotonic() - start < 30
    assert not slurm("squeue", "--noheader")
    for i in range(2):
        assert ours.summary(i)["status"] == "interrupted"
        assert any((ours.run(i) / "checkpoints").glob("step-*.pt"))
    assert not (ours.run(3) / "metrics.jsonl").exists()
    status, printed = ours.make("run", "--continue")
    assert status == 0, printed
    for i in range(2):
        compared = compare_runs("", ours.run(i), undisturbed.run(i))
        assert (compared.metrics, compared.weights) == (None, None)


def test_a_second_ctrl_c_cancels_at_once(slurm: Cluster, place: Any) -> None:
    ours = place(MAX_ITERS="10000000", **ONE)
    process = ours.start()
    ours.trains(0)
    trainer = int((ours.run() / ".lock").read_text())
    os.kill(trainer, signal.SIGSTOP)  # so that it does not stop by itself
    process.send_signal(signal.SIGINT)
    time.sleep(1)
    process.send_signal(signal.SIGINT)
    printed, _ = process.communicate(timeout=30)
    assert process.returncode == 130, printed
    wait_for(lambda: not slurm("squeue", "--noheader"), "the job is still there")
    wait_for(lambda: not Path(f"/proc/{trainer}").exists(), "the trainer is still there")


def test_an_array_is_no_longer_than_arrays_may_be(tmp_path: Path) -> None:
    with cluster(max_array_size=3) as small:
        ours = Place(tmp_path / "place", small.environment, LAUNCHER_SLURM="y", SLURM_CPUS="1", ABLATION_SEEDS="1,2")
        status, printed = ours.make()
        assert status == 0, printed
        assert len({ours.job(i).split("_")[0] for i in range(4)}) == 2


def test_of_a_queue_that_is_full_as_many_are_taken_as_it_takes(tmp_path: Path) -> None:
    with cluster(max_job_count=3, min_job_age=2) as small:
        ours = Place(tmp_path / "place", small.environment, LAUNCHER_SLURM="y", SLURM_CPUS="1", ABLATION_SEEDS="1,2")
        status, printed = ours.make()
        assert status == 0, printed
        assert "Slurm takes no more jobs: Slurm temporarily unable to accept job" in printed, printed
        assert len({ours.job(i).split("_")[0] for i in range(4)}) >= 2


def test_what_slurm_refuses_is_one_line(slurm: Cluster, place: Any) -> None:
    ours = place(SLURM_PARTITION="nowhere")
    status, printed = ours.make()
    assert status == 2
    assert printed.count("\n") == 1 and "invalid partition specified: nowhere" in printed, printed
