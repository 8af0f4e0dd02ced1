"""What a study asks for besides arms and seeds: lengths, reruns, sizes, tuning, and its registration."""

import json
import re
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpt2.assignments import Assignment
from gpt2.base.errors import UserError
from gpt2.dotconfig import resolve
from gpt2.run.records import NONFINITE
from harness.configure.plan import Plan, PlannedRun, make_plan, running_order
from harness.configure.registration import read_registration, register
from harness.configure.tuning import Choice, Trial, Tuned, add_choices, read_tuned, runs_each, trial_seeds
from harness.evidence.tuning import at_edges, choose
from tests.harness.synthetic_runs import write_run

SETTINGS = {"RA_MLA_ABLATION_MODE": "y", "RA_MLA_ABLATION_STEPS": "baseline,ra-v5-eager,mla", "ABLATION_SEEDS": "1,2,3"}
CODE = {"commit": "0" * 40, "dirty": False}
TRIAL = Trial(arm="x", settings={"LEARNING_RATE": "1e-4"}, val_loss=3.0)


def planned(folder: Path = Path("results"), **symbols: str) -> Plan:
    settings = SETTINGS | {"RESULTS_DIR": str(folder)} | symbols
    return make_plan(resolve([Assignment(symbol, value, "test") for symbol, value in settings.items()]))


def arms(plan: Plan) -> list[str]:
    return [run.step for run in plan.arms]


def test_lengths_and_reruns_are_of_what_others_are_compared_with():
    plan = planned(MAX_ITERS="100", STUDY_LENGTHS="0.8,1.25", STUDY_RERUNS="2")
    beside = {"baseline@MAX_ITERS=80", "baseline@MAX_ITERS=125", "baseline@RERUN=1", "baseline@RERUN=2"}
    assert set(arms(plan)) == {"baseline", "ra-v5-eager", "mla"} | beside
    configs = {run.step: run.config for run in plan.arms}
    assert configs["baseline@MAX_ITERS=80"].train.max_iters == 80
    # A rerun is the same run again.
    assert configs["baseline@RERUN=1"].identity() == configs["baseline"].identity()
    assert {run.seed for run in plan.runs if run.step == "baseline@RERUN=2"} == {1, 2, 3}
    assert set(plan.references) == {"baseline", "ra-v5-eager", "mla"}


def test_every_size_has_every_arm_and_lengths_of_its_own():
    plan = planned(ABLATION_SIZES="bytes-0.1m,bytes-0.8m", STUDY_LENGTHS="0.5")
    assert len(plan.arms) == 2 * (3 + 1)
    wide = {run.step: run.config for run in plan.arms}
    assert wide["ra-v5-eager@STUDY_SIZE=bytes-0.8m"].model.n_embd == 128
    assert wide["baseline@STUDY_SIZE=bytes-0.1m@MAX_ITERS=18"].model.n_embd == 64


def test_every_step_can_be_compiled_and_the_same_run_twice_is_said(capsys):
    plan = planned(STUDY_COMPILE="y")
    assert {run.config.train.compile for run in plan.runs} == {"model"}
    planned(STUDY_COMPILE="y", RA_MLA_ABLATION_STEPS="1,5")
    planned(GQA_KV_HEADS="1", RA_MLA_ABLATION_STEPS="gqa,mqa")
    said = capsys.readouterr().err
    assert "baseline and baseline-compiled are the same run" in said
    assert "gqa and mqa are the same run" in said


def test_every_arm_has_as_many_trials_on_seeds_of_their_own():
    tune = "LEARNING_RATE=1e-4,4e-4;RA_V5_GATE_LR_MULT=1,10"
    plan = planned(STUDY_TUNE=tune, STUDY_TUNE_SEEDS="7,8", MIN_LR="0")
    assert plan.trials is not None
    trials = plan.trials
    assert {arm: len(of) for arm, of in trials.arms.items()} == {"baseline": 2, "ra-v5-eager": 4, "mla": 2}
    # An arm that gates do not concern tries its settings on further seeds instead.
    seeds = {(run.step.partition("@")[0], run.seed) for run in trials.plan.runs}
    assert seeds == {(arm, seed) for arm in ("baseline", "mla") for seed in (7, 8, 9, 10)} | {
        ("ra-v5-eager", 7),
        ("ra-v5-eager", 8),
    }
    runs = Counter(run.step.partition("@")[0] for run in trials.plan.runs)
    assert runs == {"baseline": 8, "ra-v5-eager": 8, "mla": 8}
    # All try the same rates, and every trial is a run of its own.
    rates = {arm: {s["LEARNING_RATE"] for s in of.values()} for arm, of in trials.arms.items()}
    assert set(map(frozenset, rates.values())) == {frozenset({"1e-4", "4e-4"})}
    assert len({str(run.config.identity()) for run in trials.plan.runs}) == 3 * 8
    assert trials.references == {"ra-v5-eager": "baseline", "mla": "baseline"}


def test_the_further_seeds_of_trials_judge_nothing_either(tmp_path):
    tune = {"STUDY_TUNE": "LEARNING_RATE=1e-4,4e-4;RA_V5_GATE_LR_MULT=1,10", "MIN_LR": "0", "STUDY_TUNE_SEEDS": "7,8"}
    for seeds in ("9", "1,10"):
        with pytest.raises(UserError, match=r"STUDY_TUNE_SEEDS: (9|10) is of ABLATION_SEEDS too"):
            planned(tmp_path, ABLATION_SEEDS=seeds, **tune)
    # Nor do they when they were used earlier.
    plan = planned(tmp_path, ABLATION_SEEDS="1", **tune)
    assert plan.study is not None and plan.trials is not None
    plan.directory.mkdir(parents=True)
    choices = {
        arm: Choice(settings={"LEARNING_RATE": "1e-4"}, trials=(TRIAL, TRIAL), at_edge=()) for arm in plan.trials.arms
    }
    add_choices(plan.directory, plan.study, plan.trials.runs, choices)
    with pytest.raises(UserError, match=r"STUDY_TUNE_SEEDS: 9 is of ABLATION_SEEDS too"):
        planned(tmp_path, ABLATION_SEEDS="1,9", **tune)


def test_what_was_tuned_is_what_is_compared(tmp_path):
    symbols = {"STUDY_TUNE": "LEARNING_RATE=1e-4,4e-4", "MIN_LR": "0", "STUDY_LENGTHS": "0.5"}
    before = planned(tmp_path, **symbols)
    assert before.trials is not None and before.study is not None
    for run in before.trials.plan.runs:
        sign = {"baseline": 1, "ra-v5-eager": -1, "mla": 0}[run.step.partition("@")[0]]
        finished(run, 3 + sign * run.config.optimizer.learning_rate)
    choices = choose(before.trials)
    assert {arm: choice.settings["LEARNING_RATE"] for arm, choice in choices.items()} == {
        "baseline": "1e-4",
        "ra-v5-eager": "4e-4",
        "mla": "1e-4",
    }
    add_choices(before.directory, before.study, before.trials.runs, choices)
    assert read_tuned(before.directory, before.study) == Tuned(
        asked=before.study.tune, seeds=before.study.tune_seeds, runs=4, choices=choices
    )
    after = planned(tmp_path, **symbols)
    assert after.trials is None
    rates = {run.step: run.config.optimizer.learning_rate for run in after.arms}
    assert rates["baseline"] == rates["baseline@MAX_ITERS=2500"] == 1e-4
    assert rates["ra-v5-eager"] == 4e-4
    # An arm that is added is tuned for itself.
    more = planned(tmp_path, **symbols | {"RA_MLA_ABLATION_STEPS": "baseline,ra-v5-eager,mla,ra-mla"})
    assert more.trials is not None and set(more.trials.arms) == {"ra-mla"}
    with pytest.raises(UserError, match=r"is chosen from .* another experiment"):
        planned(tmp_path, **symbols | {"STUDY_TUNE": "LEARNING_RATE=1e-4,3e-4"})


def test_an_arm_that_is_added_has_as_many_runs_as_those_before(tmp_path):
    """Or it would win, or lose, by its tuning."""
    tune = {"STUDY_TUNE": "LEARNING_RATE=1e-4,4e-4;RA_V5_GATE_LR_MULT=1,10", "MIN_LR": "0"}

    def begun(folder: Path, steps: str) -> Plan:
        plan = planned(folder, RA_MLA_ABLATION_STEPS=steps, **tune)
        assert plan.study is not None and plan.trials is not None
        plan.directory.mkdir(parents=True)
        add_choices(plan.directory, plan.study, plan.trials.runs, {})
        return plan

    begun(tmp_path, "baseline,ra-v5-eager")
    added = planned(tmp_path, RA_MLA_ABLATION_STEPS="mla", **tune).trials
    assert added is not None and added.runs == len(added.plan.runs) == 8
    # What is to be added has more to tune than there was: too late.
    begun(tmp_path / "other", "baseline")
    with pytest.raises(UserError, match=r"tuned\.json: each arm is chosen from 4 runs, and ra-v5-eager has 4 settings"):
        planned(tmp_path / "other", RA_MLA_ABLATION_STEPS="baseline,ra-v5-eager", **tune)
    # Nor can an arm be tuned beside those of a record in which each had its lowest loss.
    early = begun(tmp_path / "early", "baseline").directory / "tuned.json"
    content = json.loads(early.read_text())
    del content["runs"]
    early.write_text(json.dumps(content))
    with pytest.raises(UserError, match=r"tuned\.json: is of an earlier version.*: mla cannot be tuned beside"):
        planned(tmp_path / "early", RA_MLA_ABLATION_STEPS="mla", **tune)


@given(st.lists(st.integers(2, 12), min_size=1, max_size=4), st.integers(1, 5))
def test_all_arms_have_the_same_number_of_runs_whatever_each_has_to_try(settings, seeds):
    runs = runs_each(settings, seeds)
    assert all(runs % n == 0 and runs // n >= seeds for n in settings)


def test_several_makes_add_to_what_each_other_chose_and_registered(tmp_path):
    tune = {"STUDY_TUNE": "LEARNING_RATE=1e-4,4e-4", "MIN_LR": "0"}
    plans = [planned(tmp_path, RA_MLA_ABLATION_STEPS=steps, **tune) for steps in ("baseline", "mla", "ra-mla")] * 3
    plans[0].directory.mkdir(parents=True)
    choice = Choice(settings={"LEARNING_RATE": "1e-4"}, trials=(TRIAL,), at_edge=())

    def make(plan: Plan) -> None:
        assert plan.study is not None
        add_choices(plan.directory, plan.study, 4, {plan.runs[0].step: choice})
        register(plan, code=CODE, data={})

    with ThreadPoolExecutor(len(plans)) as pool:
        list(pool.map(make, plans))
    tuned = read_tuned(plans[0].directory, plans[0].study)
    assert tuned is not None and set(tuned.choices) == {"baseline", "mla", "ra-mla"}
    entries = read_registration(plans[0].directory / "registration.json")
    assert sorted(arm for entry in entries for arm in entry.arms) == ["baseline", "mla", "ra-mla"]


def finished(run: PlannedRun, val_loss: float, **how: Any) -> Path:
    """The record of a run of an experiment, or of a trial."""
    return write_run(run.path.parent.parent, run.step, run.seed, val_loss=val_loss, **how)


@pytest.mark.parametrize(
    ("symbols", "message"),
    [
        ({"STUDY_LENGTHS": "0.8,1"}, "STUDY_LENGTHS.*'1' is no other length"),
        ({"STUDY_LENGTHS": "-1"}, "STUDY_LENGTHS.*no other length"),
        ({"STUDY_LENGTHS": "nan"}, "STUDY_LENGTHS.*no other length"),
        ({"STUDY_LENGTHS": "half"}, "STUDY_LENGTHS.*half"),
        ({"STUDY_LENGTHS": "0.8,1.25", "MAX_ITERS": "1"}, "STUDY_LENGTHS.*too few steps"),
        ({"STUDY_LENGTHS": "0.8", "ABLATION_SWEEP": "MAX_ITERS=5,6"}, "STUDY_LENGTHS.*swept already"),
        ({"STUDY_MARGIN": "0"}, "STUDY_MARGIN=.*above 0"),
        ({"STUDY_MARGIN": "one"}, "STUDY_MARGIN=.*is not a number"),
        ({"STUDY_LOOKS": "4"}, "STUDY_LOOKS=4.*more than there are seeds, 3"),
        (
            {"STUDY_TUNE": "LEARNING_RATE=1e-3,2e-3", "STUDY_TUNE_SEEDS": "3,4"},
            "STUDY_TUNE_SEEDS.*3 is of ABLATION",
        ),
        ({"STUDY_TUNE": "RA_V5_R=2,4"}, "STUDY_TUNE: RA_V5_R: tunes nothing in baseline"),
        ({"STUDY_TUNE": "LEARNING_RATE=1e-3;RA_V5_R=2,4"}, "STUDY_TUNE: LEARNING_RATE.*|tunes nothing"),
        ({"STUDY_TUNE": "SEED=1,2"}, "STUDY_TUNE.*SEED cannot be swept"),
        ({"STUDY_TUNE": "NO_SUCH=1,2"}, "NO_SUCH"),
        ({"STUDY_TUNE": "LEARNING_RATE=1,2", "ABLATION_SWEEP": "LEARNING_RATE=1,2"}, "STUDY_TUNE.*swept already"),
        ({"ABLATION_SIZES": "huge"}, "ABLATION_SIZES.*no defconfigs/sizes/huge.config"),
        (
            {"ABLATION_SIZES": "45m", "N_LAYER": "3", "MODEL_CUSTOM": "y"},
            "N_LAYER=3: every step and size .*alldefconfig",
        ),
    ],
)
def test_what_cannot_be_is_refused_in_a_line(symbols, message):
    with pytest.raises(UserError, match=message) as error:
        planned(**symbols)
    assert "\n" not in str(error.value)


@given(st.lists(st.integers(0, 10**6), min_size=1, max_size=4, unique=True), st.integers(2, 20), st.integers(0, 9))
def test_an_arm_goes_on_to_further_seeds_behind_those_asked_for(asked, settings, more):
    seeds = trial_seeds(tuple(asked), settings, settings * (len(asked) + more))
    assert seeds[: len(asked)] == tuple(asked) and len(set(seeds)) == len(seeds) == len(asked) + more


def test_edges():
    tried = [{"LEARNING_RATE": value} for value in ("1e-3", "3e-3", "2e-3")]
    assert at_edges({"LEARNING_RATE": "3e-3"}, tried) == ["LEARNING_RATE"]
    assert at_edges({"LEARNING_RATE": "2e-3"}, tried) == []
    assert at_edges({"LEARNING_RATE": "2e-3"}, tried[2:]) == []


def test_each_seed_has_an_order_of_its_own_and_keeps_it():
    plan = planned(RA_MLA_ABLATION_STEPS="1-8", ABLATION_SEEDS="1-6")
    order = running_order(plan.runs)
    assert sorted(run.name for run in order) == sorted(run.name for run in plan.runs)
    assert [run.seed for run in order] == [seed for seed in range(1, 7) for _ in range(8)]
    orders = {tuple(run.step for run in order if run.seed == seed) for seed in range(1, 7)}
    assert len(orders) > 4
    assert [run.name for run in order] == [run.name for run in running_order(plan.runs)]


def test_what_is_asked_first_is_registered_and_what_comes_later_is_an_amendment(tmp_path):
    plan = planned(tmp_path, ABLATION_SEEDS="1,2,3,4", STUDY_LOOKS="2", STUDY_MARGIN="2", STUDY_LENGTHS="0.5")
    plan.directory.mkdir(parents=True)
    path = plan.directory / "registration.json"
    assert "registered before" in register(plan, code=CODE, data={"text": "abc"})
    (entry,) = read_registration(path)
    assert (entry.margin, entry.looks, entry.seeds, entry.lengths) == (0.02, 2, (1, 2, 3, 4), (0.5,))
    assert entry.arms == {"baseline": (), "ra-v5-eager": ("baseline",), "mla": ("baseline",)}
    assert re.fullmatch("[0-9a-f]{64}", entry.hashes["config"])
    same = path.read_bytes()
    fewer = planned(
        tmp_path, RA_MLA_ABLATION_STEPS="baseline,mla", STUDY_LOOKS="2", STUDY_MARGIN="2", STUDY_LENGTHS="0.5"
    )
    for again in (plan, fewer):  # nothing new in it
        assert register(again, code=CODE, data={}) == ""
    assert path.read_bytes() == same
    for symbols in ({"ABLATION_SEEDS": "1-5"}, {"STUDY_MARGIN": "3"}, {"RA_MLA_ABLATION_STEPS": "baseline,ra-mla"}):
        settings = {"ABLATION_SEEDS": "1,2,3,4", "STUDY_LOOKS": "2", "STUDY_MARGIN": "2", "STUDY_LENGTHS": "0.5"}
        assert "amended" in register(planned(tmp_path, **settings | symbols), code=CODE, data={})
    assert len(read_registration(path)) == 4


@pytest.mark.parametrize("damage", ["margin", "drop", "empty", "text", "list"])
def test_a_registration_that_was_changed_is_refused(tmp_path, damage):
    for steps in ("baseline,mla", "baseline,ra-mla", "baseline,ra-v5-eager"):
        plan = planned(tmp_path, RA_MLA_ABLATION_STEPS=steps)
        plan.directory.mkdir(parents=True, exist_ok=True)
        register(plan, code=CODE, data={})
    path = plan.directory / "registration.json"
    content = json.loads(path.read_text())
    if damage == "margin":
        content["entries"][0]["margin"] = 0.5
    elif damage == "drop":
        del content["entries"][1]
    elif damage == "empty":
        content["entries"] = []
    elif damage == "list":
        content = [1]
    path.write_text("{" if damage == "text" else json.dumps(content))
    for read in (lambda: read_registration(path), lambda: register(plan, code=CODE, data={})):
        with pytest.raises(UserError, match=r"registration\.json") as error:
            read()
        assert "\n" not in str(error.value)


def test_a_tuned_json_that_was_damaged_is_refused(tmp_path):
    symbols = {"STUDY_TUNE": "LEARNING_RATE=1e-4,4e-4", "MIN_LR": "0"}
    plan = planned(tmp_path, **symbols)
    assert plan.study is not None
    plan.directory.mkdir(parents=True)
    path = plan.directory / "tuned.json"
    choice = Choice(settings={"LEARNING_RATE": "1e-4"}, trials=(TRIAL,), at_edge=())
    add_choices(plan.directory, plan.study, 4, {"baseline": choice})
    good = json.loads(path.read_text())
    huge = {"arm": "baseline", "settings": {}, "val_loss": 10**400}
    of = {"settings": {}, "at_edge": [], "trials": [huge]}
    for bad in (
        *(
            {},
            [],
            {**good, "arms": 3},
            {**good, "arms": {"baseline": {}}},
            {**good, "seeds": ["x"]},
            {**good, "seeds": []},
        ),
        *({**good, "runs": runs} for runs in (0, -4, "x", 10**9)),
        *({**good, "arms": {"baseline": of | {"trials": trials}}} for trials in ([huge], [])),
    ):
        path.write_text(json.dumps(bad))
        with pytest.raises(UserError, match=r"tuned\.json"):
            planned(tmp_path, **symbols)


@pytest.mark.parametrize("event", NONFINITE)
def test_a_trial_that_diverged_is_not_chosen(tmp_path, event):
    plan = planned(tmp_path, STUDY_TUNE="LEARNING_RATE=1e-4,4e-4", MIN_LR="0")
    assert plan.trials is not None
    for run in plan.trials.plan.runs:
        fast = run.config.optimizer.learning_rate > 2e-4
        path = finished(run, 3.0 - fast, status="failed" if fast else "done", error="loss nan" if fast else None)
        if fast:
            with (path / "metrics.jsonl").open("a") as file:
                line = {"kind": "event", "step": 500, "event": event, "message": "step 500: loss nan"}
                file.write(json.dumps(line) + "\n")
    choices = choose(plan.trials)
    assert {choice.settings["LEARNING_RATE"] for choice in choices.values()} == {"1e-4"}
    assert [trial.val_loss for trial in choices["mla"].trials] == [3.0, None]
    # It is an outcome, which stops nothing; a run of the comparison that fails does, where that is asked for.
    assert plan.trials.plan.keeps_going
    assert not planned(tmp_path, KEEP_GOING="n").keeps_going


@pytest.mark.parametrize("how", ["failed", "absent", "interrupted"])
def test_a_trial_that_ended_otherwise_stops_tuning(tmp_path, how):
    plan = planned(tmp_path, STUDY_TUNE="LEARNING_RATE=1e-4,4e-4", MIN_LR="0")
    assert plan.trials is not None
    *others, last = plan.trials.plan.runs
    for run in others:
        finished(run, 3.0)
    if how != "absent":
        finished(last, 3.0, status=how, error="no space left on device")
    with pytest.raises(UserError, match=r"seed-1002: the trial is .*run make again"):
        choose(plan.trials)
