"""What `make` does with a plan that is tuned first. Trainers are stood in for: their runs are written."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pytest

from gpt2.base.errors import UserError
from harness.configure.directories import last_experiment
from harness.configure.plan import Plan, make_plan
from harness.configure.requests import asked_plan
from harness.launch import launch
from tests.harness.synthetic_runs import write_run
from tests.tiny import tiny

TUNE = "LEARNING_RATE=1e-3,4e-3"


class Makes:
    """`make` in a folder, with runs that end as the learning rate has it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.trained: list[str] = []
        self.left = 10**6
        """Runs until Ctrl-C."""

    def plan(self, steps: str = "baseline,mla", **symbols: str) -> Plan:
        settings = {"RA_MLA_ABLATION_MODE": "y", "RA_MLA_ABLATION_STEPS": steps, "ABLATION_SEEDS": "1,2,3"}
        return make_plan(tiny(self.folder, **settings | {"STUDY_TUNE": TUNE} | symbols))

    def train(self, plan: Plan, *_: object) -> int:
        launch.runner.get_ready_to_run(plan)
        for run in plan.runs:
            if self.left == 0:
                return 130
            self.left -= 1
            rate = run.config.optimizer.learning_rate
            write_run(run.path.parent.parent, run.step, run.seed, val_loss=3 - rate)
            path = run.path / "provenance.json"
            identity = launch.runner.run_identity(run.config, launch.runner.open_dataset(run.config.data))
            path.write_text(json.dumps(json.loads(path.read_text()) | {"identity": identity}))
            self.trained.append(f"{run.path.relative_to(self.folder / 'results' / 'tiny')} {rate:g}")
        return 0


@pytest.fixture
def makes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Makes:
    monkeypatch.chdir(tmp_path)
    made = Makes(tmp_path)
    monkeypatch.setattr(launch, "_train", made.train)
    return made


def rates(trained: Sequence[str]) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for line in trained:
        if not line.startswith("tuning/"):
            found.setdefault(line.split("/")[0], set()).add(line.split()[1])
    return found


def test_arms_are_tuned_and_then_compared_at_their_best(makes: Makes) -> None:
    assert launch.run_plan(makes.plan()) == 0
    assert len(makes.trained) == 2 * 2 * 2 + 2 * 3
    assert rates(makes.trained) == {"baseline": {"0.004"}, "mla": {"0.004"}}
    # Once more: nothing is left to tune, and another arm is tuned alone.
    assert makes.plan().trials is None
    more = makes.plan("baseline,mla,gqa")
    assert more.trials is not None and set(more.trials.arms) == {"gqa"}


def test_gates_are_trained_on_noise_last_as_their_arm_is_tuned(
    makes: Makes, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = {"STUDY_GATE_NOISE": "2", "ABLATION_SEEDS": "5,1,3"}
    steps = "baseline,placebo,qk-norm,ra-v5-eager@RA_V5_R=2"
    makes.left = 4 * 2 + 3 * 4 + 1
    assert launch.run_plan(makes.plan(steps, **asked)) == 130
    plan = asked_plan(makes.plan(steps, **asked).directory)
    makes.left = 10**6
    assert launch.run_plan(plan) == 0
    # Not the baseline, which has no gates, nor the placebo, whose gates are held.
    on_noise = {f"noise/{arm}/seed-{seed} 0.004" for arm in ("qk-norm", "ra-v5-eager@RA_V5_R=2") for seed in (5, 1)}
    assert {line for line in makes.trained if line.startswith("noise/")} == on_noise
    assert set(makes.trained[-4:]) == on_noise
    assert f"gates on noise, which has nothing to learn: 4 runs in {plan.directory}/noise" in capsys.readouterr().out
    assert plan.gate_noise is not None and len(plan.all_runs) == 3 * 4 + 4
    for run in plan.gate_noise.runs:
        data, real = run.config.data, next(r.config for r in plan.runs if r.step == run.step)
        assert (data.dataset, data.vocab_size) == ("bin", real.data.vocab_size)
        assert (run.config.model, run.config.optimizer) == (real.model, real.optimizer)
    assert last_experiment() == plan.directory


def test_gates_that_an_earlier_make_wanted_on_noise_are_trained_by_continue(makes: Makes) -> None:
    untuned = {"STUDY_TUNE": "", "ABLATION_SEEDS": "1,2"}
    makes.left = 2 * 2 + 1
    assert launch.run_plan(makes.plan("baseline,ra-v5-eager", **untuned, STUDY_GATE_NOISE="2")) == 130
    makes.left = 10**6
    others = makes.plan("baseline,qk-norm", **untuned, STUDY_GATE_NOISE="1")
    assert launch.run_plan(others) == 0
    plan = asked_plan(others.directory)
    assert plan.gate_noise is not None
    wanted = ["ra-v5-eager/seed-1", "ra-v5-eager/seed-2", "qk-norm/seed-1"]
    assert sorted(run.name for run in plan.gate_noise.runs) == sorted(wanted)


@pytest.mark.parametrize(("keep_going", "noise"), [("y", 3), ("n", 0)])
def test_gates_are_not_trained_on_noise_after_a_failure_that_stops_the_rest(
    makes: Makes, monkeypatch: pytest.MonkeyPatch, keep_going: str, noise: int
) -> None:
    monkeypatch.setattr(launch, "_train", lambda plan, *_: makes.train(plan) or int(plan.study is not None))
    asked = {"STUDY_TUNE": "", "STUDY_GATE_NOISE": "3", "KEEP_GOING": keep_going}
    assert launch.run_plan(makes.plan("baseline,ra-v5-eager", **asked)) == 1
    assert sum(line.startswith("noise/") for line in makes.trained) == noise


def test_random_tokens_of_one_run_are_not_those_of_another(makes: Makes) -> None:
    def tokens(**symbols: str) -> str:
        plan = makes.plan("ra-v5-eager", STUDY_TUNE="", STUDY_GATE_NOISE="1", **symbols).gate_noise
        assert plan is not None
        return plan.runs[0].config.data.bin_dir

    assert tokens() == tokens(LEARNING_RATE="2e-3")
    assert len({tokens(), tokens(MAX_ITERS="13"), tokens(EVAL_TOKENS="512")}) == 3


def test_tuning_that_was_interrupted_goes_on_as_it_was_asked_for(makes: Makes) -> None:
    makes.left = 3
    assert launch.run_plan(makes.plan()) == 130
    # Others would be chosen from when the first are known.
    with pytest.raises(UserError, match=r"tuned\.json: is chosen from .*another experiment"):
        makes.plan(STUDY_TUNE="LEARNING_RATE=1e-3,5e-3")
    makes.left = 10**6
    assert launch.run_plan(asked_plan(makes.plan().directory)) == 0
    assert rates(makes.trained) == {"baseline": {"0.004"}, "mla": {"0.004"}}


def test_an_arm_that_has_begun_untuned_is_not_tuned_later(makes: Makes) -> None:
    assert launch.run_plan(makes.plan(STUDY_TUNE="")) == 0
    before = len(makes.trained)
    with pytest.raises(UserError, match=r"baseline/seed-1: has begun, and baseline is to be tuned first"):
        launch.run_plan(makes.plan())
    assert len(makes.trained) == before
    assert len(asked_plan(makes.plan().directory).all_runs) == 6


@pytest.mark.parametrize(
    ("first", "arm", "late"),
    [("baseline,ra-mla", "ra-mla", "mla"), ("mla", "mla", "baseline"), ("rope,qk-norm", "rope", "baseline")],
)
def test_an_arm_is_not_tuned_after_one_that_it_is_the_reference_of(
    makes: Makes, first: str, arm: str, late: str
) -> None:
    """RA + MLA, tuned beside the baseline, would be compared with MLA, and not by its rate."""
    assert launch.run_plan(makes.plan(first)) == 0
    before = len(makes.trained)
    with pytest.raises(
        UserError, match=rf"tuned\.json: {arm} was tuned before {late}, which it is to be compared with"
    ):
        launch.run_plan(makes.plan(f"{first},{late}"))
    assert len(makes.trained) == before
    assert launch.run_plan(makes.plan("gated-baseline")) == 0


def test_the_seeds_of_trials_judge_nothing_that_was_asked_for_earlier(makes: Makes) -> None:
    """The baseline goes on to further seeds, and those are the comparison's of the arm before."""
    tune = {"STUDY_TUNE": f"{TUNE};RA_V5_GATE_LR_MULT=1,10", "STUDY_TUNE_SEEDS": "1,2"}
    assert launch.run_plan(makes.plan("ra-v5-eager", ABLATION_SEEDS="3,4", **tune)) == 0
    before = len(makes.trained)
    with pytest.raises(UserError, match=r"STUDY_TUNE_SEEDS: 3, 4 are of ABLATION_SEEDS too"):
        launch.run_plan(makes.plan("placebo", ABLATION_SEEDS="7,8", **tune))
    assert len(makes.trained) == before


def test_an_arm_that_was_asked_for_twice_has_the_more_trials(makes: Makes) -> None:
    """Of an arm with more to tune beside it there were more. What is asked for next to that changes nothing."""
    tune = {"STUDY_TUNE": f"{TUNE};RA_V5_GATE_LR_MULT=1,10"}
    makes.left = 1
    for steps in ("baseline,ra-v5-eager", "baseline"):
        launch.run_plan(makes.plan(steps, **tune))
    plan = asked_plan(makes.plan(**tune).directory)
    assert plan.trials is not None
    assert Counter(run.step.partition("@")[0] for run in plan.trials.plan.runs) == {"baseline": 8, "ra-v5-eager": 8}
