"""What is said to Slurm and understood of it, without one; with one: test_slurm_cluster.py."""

from __future__ import annotations

import io
import json
import os
import signal
import stat
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from gpt2.assignments import Assignment
from gpt2.base.errors import UserError
from gpt2.base.files import write_json
from gpt2.dotconfig import resolve
from harness.configure.plan import Plan, PlannedRun, make_plan
from harness.configure.slurm import SlurmConfig, slurm_config
from harness.evidence.launches import Launch, device_hours, launches_of
from harness.launch import slurm, slurm_job, slurm_queue, slurm_submit
from harness.launch.launch import run_plan
from harness.launch.slurm_job import TRAINER, Training
from harness.launch.slurm_queue import JobState, NoAnswer, job_states, live_jobs, read_job, write_job
from harness.launch.slurm_submit import NotTaken
from harness.launch.status import print_status
from tests.tiny import tiny

TRAINING: dict[str, Any] = {
    **{"run": "results/x/a/seed-1", "directory": ".", "given": (), "nodes": 1, "processes_per_node": 1},
    **{"threads": 1, "signal_s": 60, "cache": "/cache"},
}


@pytest.fixture
def commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Slurm's commands, none of which does anything but fail, in a directory that is all of PATH."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in ("sbatch", "squeue", "scancel", "scontrol"):
        command(folder, name, "exit 1")
    monkeypatch.setenv("PATH", str(folder))
    return folder


def command(folder: Path, name: str, script: str) -> None:
    path = folder / name
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)


def config(**symbols: str) -> SlurmConfig:
    settings = {"LAUNCHER_SLURM": "y"} | symbols
    found = slurm_config(resolve([Assignment(name, value, "test") for name, value in settings.items()]).symbols)
    assert found is not None
    return found


def test_what_squeue_says_is_understood(commands: Path) -> None:
    said = r"12_0|RUNNING|n1|None\n12_1|PENDING||Resources\n12_2|CANCELLED|n2|None\n7|RUNNING|n3|None\n"
    command(commands, "squeue", f"printf '{said}'")
    states = job_states(["12_0", "12_1", "12_2", "12_3"])
    assert states["12_0"].describe("12_0") == "running (job 12_0 on n1)"
    assert states["12_1"].describe("12_1") == "queued (job 12_1)" and states["12_1"].reason == "Resources"
    assert states["12_2"].has_ended and not states["12_0"].has_ended
    assert set(states) == {"12_0", "12_1", "12_2"}


def test_no_answer_is_not_taken_for_no_jobs(commands: Path) -> None:
    command(commands, "squeue", "echo 'slurm_load_jobs error: Unable to contact slurm controller' >&2; exit 1")
    with pytest.raises(NoAnswer, match="Unable to contact slurm controller"):
        job_states(["12_0"])
    assert job_states([]) == {}


def test_a_job_is_found_again_by_its_run(tmp_path: Path, commands: Path) -> None:
    runs = [tmp_path / name for name in "abc"]
    assert live_jobs(runs) == {}
    for run, job in zip(runs, ("12_0", "12_1", "13"), strict=True):
        write_job(run, job)
    command(commands, "squeue", r"printf '12_0|RUNNING|n1|None\n12_1|TIMEOUT|n1|None\n'")
    running = JobState(state="RUNNING", node="n1", reason="")
    assert live_jobs(runs) == {runs[0]: ("12_0", running)}
    (runs[0] / "slurm" / "job.json").write_text('{"job": "12_0; rm"}')
    with pytest.raises(UserError, match=r"job\.json: job is 12_0; rm: must be the number of a job"):
        read_job(runs[0])


def test_status_says_what_is_queued_and_what_runs_where(tmp_path: Path, commands: Path) -> None:
    plan = make_plan(tiny(tmp_path, ABLATION_SEEDS="1,2,3"))
    for i, run in enumerate(plan.runs[:2]):
        write_job(run.path, f"12_{i}")
    command(commands, "squeue", r"printf '12_0|RUNNING|n1|None\n12_1|PENDING||Priority\n'")
    out = io.StringIO()
    print_status(plan, Console(file=out, width=120))
    lines = out.getvalue().splitlines()
    assert "running (job 12_0 on n1)" in lines[2] and "queued (job 12_1)" in lines[3]
    assert "(job" not in lines[4]
    command(commands, "squeue", "exit 1")
    out = io.StringIO()
    print_status(plan, Console(file=out, width=120))
    assert "Slurm does not say how its jobs are: squeue failed" in out.getvalue()


def test_what_is_missing_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = make_plan(tiny(tmp_path, LAUNCHER_SLURM="y"))
    monkeypatch.setitem(sys.modules, "submitit", None)
    with pytest.raises(UserError, match=r"submitit is not installed; `pip install '\.\[slurm\]'`"):
        run_plan(plan)
    monkeypatch.setattr("harness.launch.slurm.submitit", lambda: None)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match="CONFIG_LAUNCHER_SLURM=y: there is no sbatch on PATH"):
        run_plan(plan)
    assert not plan.directory.exists()


def test_what_sbatch_is_told(tmp_path: Path) -> None:
    pytest.importorskip("submitit")
    module = slurm_submit.submitit()
    asked = config(
        **{"SLURM_PARTITION": "gpu", "SLURM_ACCOUNT": "us", "SLURM_TIME": "1:30:00"},
        **{"PROCESSES_PER_RUN": "8", "GRADIENT_ACCUMULATION_STEPS": "8"},
        **{"SLURM_NODES": "2", "SLURM_CPUS": "16", "SLURM_MEM": "64G", "SLURM_MAX_JOBS": "3"},
        SLURM_EXTRA="qos=long exclusive",
    )
    from submitit.slurm.slurm import _make_sbatch_string

    told = slurm_submit.parameters("mine", asked, tmp_path, 5)
    assert set(told) <= module.SlurmExecutor._valid_parameters()
    lines = _make_sbatch_string(command="go", folder=tmp_path, map_count=5, **told).splitlines()
    for line in (
        *("--job-name=mine", "--partition=gpu", "--account=us", "--time=90", "--gpus-per-node=4", "--nodes=2"),
        *("--ntasks-per-node=1", "--cpus-per-task=16", "--mem=64G", "--array=0-4%3", "--qos=long", "--exclusive"),
        *("--requeue", "--signal=USR1@120", "--open-mode=append", f"--output={tmp_path}/%a/%A_%a.out"),
    ):
        assert f"#SBATCH {line}" in lines
    assert any(line.startswith("srun ") and "--cpus-per-task=16" in line for line in lines)
    one = _make_sbatch_string(command="go", folder=tmp_path, **slurm_submit.parameters("mine", config(), tmp_path, 1))
    assert f"#SBATCH --output={tmp_path}/0/%j.out" in one and "--array" not in one
    assert "--account" not in one and "--mem" not in one


def test_one_process_is_the_very_trainer() -> None:
    training = Training(**TRAINING | {"given": ("MAX_ITERS=5",)})
    run = TRAINING["run"]
    assert training.command() == [
        *(sys.executable, str(TRAINER), "--stop-with-parent", "--config", f"{run}/config", "--out", run),
        *("--record", "MAX_ITERS=5"),
    ]


def test_several_processes_are_torchruns(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("submitit")
    alone = Training(**TRAINING | {"processes_per_node": 4}).command()
    assert alone[:6] == [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "4", "--standalone"]
    for rank, is_host in (("0", True), ("1", False)):
        for name, value in (("JOB_ID", "20012"), ("JOB_NODELIST", "node[3-4]"), ("PROCID", rank)):
            monkeypatch.setenv(f"SLURM_{name}", value)
        command = Training(**TRAINING | {"nodes": 2, "processes_per_node": 8}).command()
        text = " ".join(command)
        assert "--nproc-per-node 8 --nnodes 2 --rdzv-backend c10d --rdzv-endpoint node3:20012 --rdzv-id 20012-0" in text
        assert f"--rdzv-conf is_host={is_host} {TRAINER} --stop-with-parent --config" in text
    # What torchrun itself makes of it.
    from torch.distributed.run import config_from_args, get_args_parser

    arguments = get_args_parser().parse_args(command[3:])
    launch, _, passed_on = config_from_args(arguments)
    assert (launch.min_nodes, launch.max_nodes, launch.nproc_per_node) == (2, 2, 8)
    assert launch.rdzv_endpoint == "node3:20012" and launch.rdzv_configs["is_host"] == "False"
    assert passed_on[-2:] == ["--out", TRAINING["run"]]


@pytest.fixture
def standing_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A trainer that says what it is told, in the place of the real one; for a job 12_0."""
    monkeypatch.chdir(tmp_path)
    script = tmp_path / "trainer.py"
    script.write_text(
        "import signal, sys, time\n"
        "signal.signal(signal.SIGUSR1, lambda *_: sys.exit(130))\n"
        "print('trains', flush=True)\n"
        "time.sleep(60)\n"
    )
    monkeypatch.setattr(slurm_job, "TRAINER", script)
    for name, value in (("JOB_ID", "15"), ("ARRAY_JOB_ID", "12"), ("ARRAY_TASK_ID", "0")):
        monkeypatch.setenv(f"SLURM_{name}", value)
    (tmp_path / TRAINING["run"]).mkdir(parents=True)
    return tmp_path / TRAINING["run"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR2])
def test_a_job_that_is_to_stop_stops_its_trainer(standing_in: Path, number: signal.Signals) -> None:
    before = {it: signal.getsignal(it) for it in (signal.SIGTERM, signal.SIGUSR2, signal.SIGALRM)}

    def when_it_trains(*_: object) -> None:
        log = standing_in / "train.log"
        if log.exists() and "trains" in log.read_text():
            os.kill(os.getpid(), number)
        else:
            signal.setitimer(signal.ITIMER_REAL, 0.05)

    signal.signal(signal.SIGALRM, when_it_trains)
    signal.setitimer(signal.ITIMER_REAL, 0.05)
    training = Training(**TRAINING)
    try:
        with pytest.raises(SystemExit) as ended:
            training()
    finally:
        for it, handler in before.items():
            signal.signal(it, handler)
    assert ended.value.code == 130
    assert read_job(standing_in) == "12_0"
    assert training.checkpoint() is None  # it was told to stop for good


def test_what_goes_back_into_the_queue_is_the_same_again(standing_in: Path) -> None:
    submitit = pytest.importorskip("submitit")
    training = Training(**TRAINING)
    again = training.checkpoint()  # before there is a trainer: as it waits for the directory
    assert isinstance(again, submitit.helpers.DelayedSubmission)
    assert again.function == Training(**TRAINING)
    assert training._train() == 130
    assert not (standing_in / "train.log").exists()


def test_logs_lie_with_the_run(tmp_path: Path) -> None:
    run = tmp_path / "results" / "a" / "seed-1"
    slurm_submit.link_to_run(tmp_path / "results" / ".slurm" / "now" / "0", run)
    (tmp_path / "results" / ".slurm" / "now" / "0" / "12_0.out").write_text("x")
    assert (run / slurm_queue.FOLDER / "12_0.out").read_text() == "x"
    os.rename(tmp_path / "results", tmp_path / "elsewhere")
    assert (tmp_path / "elsewhere" / ".slurm" / "now" / "0" / "12_0.out").read_text() == "x"


def test_a_directory_that_somebody_trains_in_is_waited_for(
    standing_in: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(slurm_job, "HELD_POLL_S", 0.01)
    answers = iter([True, True, False])
    monkeypatch.setattr(slurm_job.RunLock, "is_held", lambda _: next(answers))
    start = time.monotonic()
    Training(**TRAINING)._wait_until_free()
    assert time.monotonic() - start < 10
    assert capsys.readouterr().out == f"{TRAINING['run']}: is being trained by somebody else; waiting\n"


@pytest.fixture
def impatient(tmp_path: Path, commands: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Slurm's commands, in a current directory of our own, and nothing that waits."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(slurm, "submitit", lambda: None)
    for name in ("POLL_S", "ASK_S", "TRY_S", "STOP_S"):
        monkeypatch.setattr(slurm, name, 0.01)
    return commands


DONE = {"status": "done", "val_loss": 2.5, "train_time_s": 3.0, "wall_time_s": 5.0}


def test_of_an_array_that_is_refused_as_many_are_submitted_as_are_taken(
    tmp_path: Path, impatient: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    commands = impatient
    plan = make_plan(tiny(tmp_path, LAUNCHER_SLURM="y", ABLATION_SEEDS="1-7"))
    command(commands, "scontrol", "echo 'MaxArraySize            = 5'")
    tried: list[int] = []

    def submit(_plan: object, runs: Sequence[PlannedRun], *_: object) -> dict[Path, str]:
        """Takes two jobs at a time; each of them is over when it is asked for."""
        tried.append(len(runs))
        if len(runs) > 2:
            raise NotTaken("QOSMaxSubmitJobPerUserLimit")
        for run in runs:
            write_json(run.path / "summary.json", DONE)
        return {run.path: f"{len(tried)}_{i}" for i, run in enumerate(runs)}

    command(commands, "squeue", "exit 0")
    monkeypatch.setattr(slurm, "submit", submit)
    assert run_plan(plan) == 0
    assert tried == [5, 2, 5, 2, 3, 1, 2]
    assert "Slurm takes no more jobs: QOSMaxSubmitJobPerUserLimit; 5 runs wait until" in capsys.readouterr().out
    assert (plan.directory / "summary.csv").read_text().count(",done,") == 7


def test_a_queue_that_takes_nothing_is_one_line(
    tmp_path: Path, commands: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    plan = make_plan(tiny(tmp_path, LAUNCHER_SLURM="y"))

    def submit(*_: object) -> dict[Path, str]:
        raise NotTaken("Resource temporarily unavailable")

    command(commands, "scontrol", "exit 0")
    monkeypatch.setattr(slurm, "submit", submit)
    monkeypatch.setattr(slurm, "submitit", lambda: None)
    with pytest.raises(UserError, match=f"Slurm takes no job of {plan.directory}: Resource temporarily unavailable"):
        run_plan(plan)


class Jobs:
    """Submits every run that it is asked to, and has its job do something at once."""

    def __init__(self, does: Callable[[PlannedRun], object]) -> None:
        self.does = does

    def __call__(self, _plan: object, runs: Sequence[PlannedRun], *_: object) -> dict[Path, str]:
        for i, run in enumerate(runs):
            write_job(run.path, f"12_{i}")
            self.does(run)
        return {run.path: f"12_{i}" for i, run in enumerate(runs)}


def lines_of(plan: Plan) -> list[dict[str, Any]]:
    path = plan.directory / "launches.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def is_known(line: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in line.items() if value is not None and key not in ("ended", "wall_s")}


@pytest.mark.parametrize("n", [1, 2])
def test_a_make_leaves_what_its_jobs_took_and_says_of_the_queue_nothing(
    tmp_path: Path, impatient: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], n: int
) -> None:
    processes = {"PROCESSES_PER_RUN": str(n), "GRADIENT_ACCUMULATION_STEPS": str(n)}
    plan = make_plan(tiny(tmp_path, LAUNCHER_SLURM="y", ABLATION_SEEDS="1,2,3", **processes))
    command(impatient, "scontrol", "exit 0")
    command(impatient, "squeue", "exit 0")
    failed = {"status": "failed", "error": "it broke"}
    ends = {1: DONE, 2: failed, 3: DONE | {"val_loss": None, "wall_time_s": 7.0}}
    monkeypatch.setattr(slurm, "submit", Jobs(lambda run: write_json(run.path / "summary.json", ends[run.seed])))
    assert run_plan(plan) == 1
    (line,) = lines_of(plan)
    done = {"baseline/seed-1": 2.5, "baseline/seed-3": None}
    assert is_known(line) == {"runs": 3, "done": done, "train_s": 6.0, "device_s": 12.0 * n}
    assert line["efficiency"] is line["slots"] is line["devices"] is None and line["wall_s"] > 0
    assert "6.0 s of training steps in " in capsys.readouterr().out
    (launch,) = launches_of(plan.directory)
    assert (launch.done, launch.device_s) == (done, 12.0 * n)


@pytest.mark.parametrize("ended", [True, False])
def test_a_make_that_is_stopped_leaves_it_too(
    tmp_path: Path, impatient: Path, monkeypatch: pytest.MonkeyPatch, ended: bool
) -> None:
    """Of two runs one waits in the queue; the other trains, and may end as it is told to stop."""
    plan = make_plan(tiny(tmp_path, LAUNCHER_SLURM="y", ABLATION_SEEDS="1,2"))
    command(impatient, "scontrol", "exit 0")
    gone = tmp_path / "gone"
    running = "12_0|RUNNING|n1|None\\n12_1|PENDING||Priority\\n"
    command(impatient, "squeue", f"test -e {gone} || printf '{running}'")
    command(impatient, "scancel", f"/usr/bin/touch {gone}")

    def look(self: Any, course: Any) -> None:
        """It is seen to train, and somebody types Ctrl-C."""
        if ended:
            write_json(course.run.path / "summary.json", DONE)
        raise KeyboardInterrupt

    monkeypatch.setattr(slurm._Ablation, "_show_lines", look)
    monkeypatch.setattr(slurm, "submit", Jobs(lambda _: None))
    assert run_plan(plan) == 130
    (line,) = lines_of(plan)
    done = {"baseline/seed-1": 2.5} if ended else {}
    assert is_known(line) == {"runs": 1, "done": done, "train_s": 3.0 * ended, "device_s": 5.0 * ended}


def test_a_make_whose_jobs_never_began_leaves_no_line(
    tmp_path: Path, impatient: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = make_plan(tiny(tmp_path, LAUNCHER_SLURM="y"))
    command(impatient, "scontrol", "exit 0")
    command(impatient, "squeue", "exit 0")
    monkeypatch.setattr(slurm, "submit", Jobs(lambda _: None))
    assert run_plan(plan) == 1
    assert not (plan.directory / "launches.jsonl").exists()


def test_of_several_makes_that_follow_a_job_one_has_it(
    tmp_path: Path, impatient: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a run would be said to have been trained twice."""
    plan = make_plan(tiny(tmp_path, LAUNCHER_SLURM="y", ABLATION_SEEDS="1,2,3"))
    command(impatient, "scontrol", "exit 0")
    command(impatient, "squeue", "exit 0")
    theirs = Launch(runs=1, done={"baseline/seed-1": 2.5}, train_s=3.0, device_s=5.0, wall_s=9.0)
    # What an earlier make trained, and somebody took away, is another matter.
    plan.directory.mkdir(parents=True)
    replace(theirs, done={"baseline/seed-2": 2.4}).record(plan.directory)

    def does(run: PlannedRun) -> None:
        write_json(run.path / "summary.json", DONE)
        if run.seed == 1:
            theirs.record(plan.directory)

    monkeypatch.setattr(slurm, "submit", Jobs(does))
    assert run_plan(plan) == 0
    assert [list(line["done"]) for line in lines_of(plan)] == [
        ["baseline/seed-2"],
        ["baseline/seed-1"],
        ["baseline/seed-2", "baseline/seed-3"],
    ]
    assert device_hours(launches_of(plan.directory)) == pytest.approx(20 / 3600)
