"""A run lies where it belongs, whatever the study laid over its step; and under another name it does not."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from gpt2.assignments import Assignment
from gpt2.dotconfig import load, resolve
from harness.configure.kconfig import list_defconfigs
from harness.configure.plan import Plan, make_plan
from harness.configure.tuning import add_choices
from harness.evidence.findings import FAIL
from harness.evidence.runs import load_run
from harness.evidence.store import load_experiment
from harness.evidence.tuning import choose
from harness.evidence.verify import verify
from harness.measure.planning import write_as_done
from tests.harness.synthetic_runs import write_config

STUDIES = {
    "a value of the step's own, swept": {"RA_MLA_ABLATION_STEPS": "1,16", "ABLATION_SWEEP": "GQA_KV_HEADS=2"},
    "and asked for": {"RA_MLA_ABLATION_STEPS": "1,16@GQA_KV_HEADS=2"},
    "two such values": {"RA_MLA_ABLATION_STEPS": "1,8", "ABLATION_SWEEP": "RA_V5_GATE_INIT=0.5,0.25"},
    "what is held": {"RA_MLA_ABLATION_STEPS": "1,7", "ABLATION_SWEEP": "RA_V5_LEARN_W_REC=y"},
    "another member of the step's choice": {
        "RA_MLA_ABLATION_STEPS": "1,12",
        "ABLATION_SWEEP": "SDPA_GATE_HEADWISE=y;LEARNING_RATE=1e-3,2e-3",
    },
    "of that of compilation": {"RA_MLA_ABLATION_STEPS": "1,1@COMPILE_MODEL=y,2"},
    "everything compiled": {"RA_MLA_ABLATION_STEPS": "1,2,5", "STUDY_COMPILE": "y", "STUDY_LENGTHS": "0.5"},
    "a path": {"RA_MLA_ABLATION_STEPS": "1,2", "ABLATION_SWEEP": "INIT_FROM=a/x.pt,b/x.pt"},
    "sizes": {"RA_MLA_ABLATION_STEPS": "1,10", "ABLATION_SIZES": "bytes-0.07m,bytes-0.1m"},
    "no steps, but an arm called like one": {"RA_MLA_ABLATION_MODE": "n", "COMPILE_MODEL": "y"},
    "and with a choice of its own": {
        **{"RA_MLA_ABLATION_MODE": "n", "ATTENTION_SDPA_GATE": "y", "SDPA_GATE_HEADWISE": "y"},
    },
    "reruns": {"RA_MLA_ABLATION_STEPS": "1,2", "STUDY_RERUNS": "1"},
    "a value of the step's own, tuned": {
        "RA_MLA_ABLATION_STEPS": "1,19",
        "STUDY_TUNE": "RA_V5_GATE_INIT=0.1,0.0;LEARNING_RATE=1e-3,2e-3",
    },
}


def planned(folder: Path, settings: dict[str, str]) -> Plan:
    sized = {} if "ABLATION_SIZES" in settings else {"MODEL_CUSTOM": "y", "N_HEAD": "8", "N_EMBD": "512"}
    given = {"RA_MLA_ABLATION_MODE": "y", "RESULTS_DIR": str(folder), "MIN_LR": "0", **sized, **settings}
    return make_plan(resolve([Assignment(symbol, value, "test") for symbol, value in given.items()]))


@pytest.fixture(params=STUDIES.values(), ids=STUDIES)
def experiment(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """As a make leaves it."""
    monkeypatch.chdir(tmp_path)
    for path in (Path("a/x.pt"), Path("b/x.pt")):
        path.parent.mkdir()
        path.write_text(str(path))
    plan = planned(tmp_path, request.param)
    if plan.trials:
        write_as_done(plan.trials.plan)
        add_choices(plan.directory, plan.study, plan.trials.runs, choose(plan.trials))
        plan = planned(tmp_path, request.param)
    write_as_done(plan)
    return plan.directory


def test_what_a_study_lays_over_its_steps_makes_no_other_run_of_them(experiment: Path) -> None:
    runs = load_experiment(experiment).runs
    assert runs and not [run.damage for run in runs if run.damage]
    # What a checkpoint hashes to is not in records that are made up.
    failed = [f.text for f in verify(experiment) if f.check == "config" and f.outcome == FAIL]
    assert not [text for text in failed if "INIT_FROM is another file" not in text]


@pytest.mark.parametrize("path", list_defconfigs(), ids=lambda path: path.name)
def test_runs_of_what_is_shipped_belong_where_they_lie(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    plan = make_plan(load(path))
    for run in (*plan.arms, *(plan.trials.plan.arms if plan.trials else ())):
        run.path.mkdir(parents=True)
        run.resolved.write(run.path / "config")
        assert load_run(run.path, run.step, run.seed).damage is None


def test_a_number_written_otherwise_is_the_same(tmp_path: Path) -> None:
    write_config(tmp_path / "ra-v5-dims" / "seed-1", {"RA_V5_GATE_INIT": "0.00"})
    assert load_run(tmp_path / "ra-v5-dims" / "seed-1", "ra-v5-dims", 1).damage is None
    write_config(tmp_path / "ra-v5-dims" / "seed-2", {"RA_V5_GATE_INIT": "0.01"})
    assert "RA_V5_GATE_INIT is 0.01" in str(load_run(tmp_path / "ra-v5-dims" / "seed-2", "ra-v5-dims", 2).damage)


def test_a_repetition_is_not_the_run_itself(tmp_path: Path) -> None:
    plan = planned(tmp_path, STUDIES["reruns"])
    write_as_done(plan)
    shutil.rmtree(plan.directory / "baseline" / "seed-1")
    shutil.copytree(plan.directory / "baseline@RERUN=1" / "seed-1", plan.directory / "baseline" / "seed-1")
    (copy,) = (run for run in load_experiment(plan.directory).runs if run.name == "baseline/seed-1")
    assert "RERUN is 1, and 0 by the directory's name" in str(copy.damage)
    failed = {f.run: f.text for f in verify(plan.directory) if f.check == "config" and f.outcome == FAIL}
    assert list(failed) == ["baseline/seed-1"] and "RERUN is 1, and 0" in failed["baseline/seed-1"]


def test_each_of_its_runs_belongs_under_its_own_name_alone(experiment: Path) -> None:
    runs = load_experiment(experiment).runs
    for run, other in zip(runs, runs[1:] + runs[:1], strict=True):
        if run.step != other.step:
            shutil.rmtree(other.path)
            shutil.copytree(run.path, other.path)
            (copy,) = (of for of in load_experiment(experiment).runs if of.path == other.path)
            assert copy.damage is not None and "it was trained as another run" in copy.damage
            return
