"""What trials of an arm show to be best: a reference's settings are kept unless others are shown to be better."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.random import default_rng

from harness.configure.plan import make_plan
from harness.evidence.tuning import LEVEL, Tried, best_of, choose
from tests.harness.configure.test_study import finished, planned

RATES = ("1e-3", "1.4e-3", "2e-3")


def tried(losses, **more):
    return [
        Tried(arm=f"arm@LEARNING_RATE={rate}", settings={"LEARNING_RATE": rate, **more}, losses=tuple(of))
        for rate, of in zip(RATES, losses, strict=True)
    ]


def rate_of(best):
    return best.settings["LEARNING_RATE"]


@pytest.mark.parametrize("seeds", [2, 3, 4])
@pytest.mark.parametrize("kept", RATES)
def test_an_arm_that_changes_nothing_keeps_its_references_rate(seeds, kept):
    """However the trials come out: at LEVEL it gets another, where the lowest mean would be another in two of three."""
    rng = default_rng(7)
    found, lowest = Counter(), Counter()
    for _ in range(2000):
        losses = 3 + 0.01 * rng.standard_normal((3, seeds)) + 0.03 * rng.standard_normal(seeds)
        found[rate_of(best_of(tried(losses), {"LEARNING_RATE": kept}))] += 1
        lowest[rate_of(best_of(tried(losses), {}))] += 1
    assert 1 - found[kept] / 2000 <= LEVEL + 3 * np.sqrt(LEVEL / 2000)
    assert lowest[kept] / 2000 < 0.4


def test_an_arm_that_wants_another_rate_gets_it():
    rng = default_rng(7)
    better = np.array([[0.02], [0.01], [0.0]])
    found = Counter(
        rate_of(best_of(tried(3 + better + 0.006 * rng.standard_normal((3, 4))), {"LEARNING_RATE": "1e-3"}))
        for _ in range(2000)
    )
    assert found["2e-3"] / 2000 > 0.9
    # What every seed has alike is no noise: they are paired.
    harder = 0.5 * np.arange(4)
    assert rate_of(best_of(tried(3 + better + harder), {"LEARNING_RATE": "1e-3"})) == "2e-3"


def test_a_setting_at_the_edge_of_what_trains_does_not_hide_the_others():
    """Its losses spread by many times the others', and would be most of an error that is pooled."""
    rng = default_rng(7)
    means, spreads = np.array([[0.03], [0.0], [0.5]]), np.array([[0.004], [0.004], [0.3]])
    found = Counter(
        rate_of(best_of(tried(3 + means + spreads * rng.standard_normal((3, 4))), {"LEARNING_RATE": "1e-3"}))
        for _ in range(500)
    )
    assert found["1.4e-3"] / 500 > 0.95


def test_what_a_reference_does_not_have_is_the_arms_own():
    """The gates' rate is chosen at the learning rate that is kept."""
    slow, fast = tried([[3.0, 3.1]] * 3, GATES="1"), tried([[2.9, 3.05]] * 3, GATES="10")
    best = best_of([*slow, *fast], {"LEARNING_RATE": "1.4e-3"})
    assert best.settings == {"LEARNING_RATE": "1.4e-3", "GATES": "10"}


def test_what_cannot_be_kept_is_not():
    """Where the reference's rate was not tried, or diverged, the best of the rest is chosen."""
    losses = [[3.0, 3.1], [2.9, 2.8], [3.3, 3.2]]
    assert rate_of(best_of(tried(losses), {"LEARNING_RATE": "5e-3"})) == "1.4e-3"
    *others, last = tried(losses)
    diverged = Tried(arm=last.arm, settings=last.settings, losses=None)
    assert rate_of(best_of([*others, diverged], {"LEARNING_RATE": "2e-3"})) == "1.4e-3"
    assert best_of([diverged], {}) is None


@given(st.lists(st.lists(st.floats(1, 10), min_size=1, max_size=1), min_size=3, max_size=3))
def test_one_seed_shows_nothing(losses):
    assert rate_of(best_of(tried(losses), {"LEARNING_RATE": "1e-3"})) == "1e-3"


@given(
    st.lists(st.lists(st.floats(1, 10), min_size=3, max_size=3), min_size=3, max_size=3),
    st.sampled_from(RATES),
    st.permutations(range(3)),
)
def test_the_order_of_trials_and_of_seeds_changes_no_choice_of_unequal_ones(losses, kept, order):
    if len({sum(of) for of in losses}) < 3:
        return
    trials = tried(losses)
    best = best_of(trials, {"LEARNING_RATE": kept})
    assert best_of([trials[i] for i in order], {"LEARNING_RATE": kept}) == best
    of_seeds = [[of[i] for i in order] for of in losses]
    assert rate_of(best_of(tried(of_seeds), {"LEARNING_RATE": kept})) == rate_of(best)


def test_a_chain_of_references_is_chosen_from_its_end(tmp_path):
    """RA + MLA keeps what MLA does, and MLA what the baseline has, whatever order they were asked for in."""
    symbols = {
        "RA_MLA_ABLATION_STEPS": "ra-mla,mla,baseline",
        "STUDY_TUNE": "LEARNING_RATE=1e-4,4e-4",
        "MIN_LR": "0",
    }
    plan = planned(tmp_path, **symbols)
    for run in plan.trials.plan.runs:
        step, fast = run.step.partition("@")[0], run.config.optimizer.learning_rate > 2e-4
        luck = 0.01 if (run.seed == 1001) == (step == "mla") else 0.0  # of one seed each: nothing is shown
        finished(run, 3 + (luck - 0.006) * fast * (1 if step == "baseline" else -1))
    choices = choose(plan.trials)
    assert plan.trials.references == {"ra-mla": "mla", "mla": "baseline"}
    assert len({of.settings["LEARNING_RATE"] for of in choices.values()}) == 1
    # An arm that is added later keeps to those that were tuned before.
    alone = make_plan(plan.base).trials
    known = {arm: of for arm, of in choices.items() if arm != "ra-mla"}
    assert choose(alone, known)["ra-mla"] == choices["ra-mla"]
