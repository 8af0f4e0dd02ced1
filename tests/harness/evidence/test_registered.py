"""Verdicts at planned looks, on the seeds that were registered."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from gpt2.base.errors import UserError
from harness.configure.registration import read_registration
from harness.evidence.comparison import Comparison
from harness.evidence.stats import compare
from harness.evidence.store import load_experiment
from harness.report.verdict import verdict
from tests.harness.synthetic_runs import write_run

REGISTERED, AMENDED = "2026-01-01T00:00:00+00:00", "2026-02-01T00:00:00+00:00"
LATE = "2026-03-01T00:00:00+00:00"
ARMS = {"baseline": [], "ra-v5-eager": ["baseline"]}


def entry(when: str = REGISTERED, **values: Any) -> dict[str, Any]:
    known = {"when": when, "question": "?", "metric": "val_loss", "margin": 0.01, "arms": ARMS, "seeds": [1, 2, 3, 4]}
    rest = {"looks": 1, "lengths": [], "reruns": 0, "tuning": None, "sizes": [], "hashes": {}, "previous": None}
    return {**known, **rest, **values}


def chained(*entries: Mapping[str, Any]) -> str:
    """registration.json, each entry with the hash of the one before."""
    found: list[dict[str, Any]] = []
    for entry in entries:
        before = hashlib.sha256(json.dumps(found[-1], sort_keys=True).encode()).hexdigest() if found else None
        found.append({**entry, "previous": before})
    return json.dumps({"entries": found})


def register(path: Path, *entries: Mapping[str, Any]) -> None:
    path.mkdir(exist_ok=True)
    (path / "registration.json").write_text(chained(*entries))


def write_seeds(path: Path, deltas: Sequence[float], *, seeds: Sequence[int] = (), **values: Any) -> None:
    """Pairs whose differences are these."""
    for seed, delta in zip(seeds or range(1, len(deltas) + 1), deltas, strict=True):
        write_run(path, "baseline", seed, val_loss=3.5 + 0.01 * seed, **values)
        write_run(path, "ra-v5-eager", seed, val_loss=3.5 + 0.01 * seed + delta, **values)


def rows(path: Path, step: str = "ra-v5-eager") -> list[Comparison]:
    return [c for c in compare(load_experiment(path)) if (c.metric.name, c.step) == ("val_loss", step)]


CLEAR = [-0.010, -0.011, -0.012, -0.0105, -0.0115, -0.0108]


def test_without_a_registration_all_seeds_count_at_once(tmp_path: Path) -> None:
    write_seeds(tmp_path, CLEAR[:3])
    (c,) = rows(tmp_path)
    assert (c.verdict, c.registered, c.look, c.failed) == ("better", "no", "1 of 1", "0 of 3")


def test_before_the_first_look_nothing_is_decided(tmp_path: Path) -> None:
    register(tmp_path, entry(seeds=[1, 2, 3, 4, 5]))
    write_seeds(tmp_path, CLEAR[:3])
    (c,) = rows(tmp_path)
    assert (c.verdict, c.look, c.p_holm) == ("undecided", "0 of 1", None)
    assert c.note == "3 of 5 seeds: the first planned look is at 5"
    write_seeds(tmp_path, CLEAR[:5])
    (c,) = rows(tmp_path)
    assert (c.verdict, c.registered, c.look, c.n, c.note) == ("better", "yes", "1 of 1", 5, "")


def test_a_look_takes_its_seeds_in_the_registered_order_and_stays_until_the_next(tmp_path: Path) -> None:
    register(tmp_path, entry(seeds=[6, 5, 4, 3, 2, 1], looks=2))
    write_seeds(tmp_path, [*CLEAR[:3]], seeds=[6, 5, 4])
    (first,) = rows(tmp_path)
    write_seeds(tmp_path, [0.5, -0.7], seeds=[1, 2])
    (between,) = rows(tmp_path)
    assert list(first.deltas) == list(between.deltas) == [6, 5, 4]
    assert (first.verdict, between.verdict, between.look) == ("better", "better", "1 of 2")
    assert between.note == "5 of 6 seeds: the next planned look is at 6"
    assert first.level == pytest.approx(0.00517, rel=0.1)
    assert first.p_value is not None and first.p_holm is not None and first.p_value < first.level < first.p_holm < 0.05


def test_an_early_look_asks_for_more_than_one_at_the_end(tmp_path: Path) -> None:
    deltas = [-0.010, -0.012, -0.0145]  # p = 0.011
    write_seeds(tmp_path, deltas)
    assert rows(tmp_path)[0].verdict == "better"
    register(tmp_path, entry(seeds=[1, 2, 3, 4, 5, 6], looks=2))
    (c,) = rows(tmp_path)
    assert (c.verdict, c.look) == ("undecided", "1 of 2")
    assert c.ci_low is not None and c.ci_high is not None and c.ci_low < 0 < c.ci_high  # as the verdict


def test_what_a_look_has_shown_stays(tmp_path: Path) -> None:
    register(tmp_path, entry(seeds=[1, 2, 3, 4, 5, 6], looks=2))
    write_seeds(tmp_path, [*CLEAR[:3], 0.1, -0.2, 0.3])
    (c,) = rows(tmp_path)
    assert (c.verdict, c.look, c.n) == ("better", "2 of 2", 6)
    assert c.p_value is not None and c.p_value > 0.5
    assert c.ci_low is not None and c.ci_high is not None and c.ci_low < 0 < c.ci_high
    assert "shown at an earlier look, which stays" in c.note
    assert "; shown at an earlier look, which stays)" in verdict(load_experiment(tmp_path), [c])
    write_seeds(tmp_path, CLEAR[:6])
    (c,) = rows(tmp_path)
    assert c.verdict == "better" and "earlier look" not in c.note


def test_a_failed_seed_counts_for_a_look_and_one_that_goes_on_does_not(tmp_path: Path) -> None:
    register(tmp_path, entry())
    write_seeds(tmp_path, CLEAR[:4])
    write_run(tmp_path, "ra-v5-eager", 4, status=None)
    assert rows(tmp_path)[0].note == "3 of 4 seeds: the first planned look is at 4"
    write_run(tmp_path, "ra-v5-eager", 4, status="failed")
    (c,) = rows(tmp_path)
    assert (c.verdict, c.look, c.failed, c.n) == ("undecided", "1 of 1", "1 of 4", 3)
    assert c.note.startswith("better on the seeds it survived, failed on 1 of 4")


def test_seeds_added_one_at_a_time_are_verdicts_of_one_seed_each(tmp_path: Path) -> None:
    register(tmp_path, entry(), entry(AMENDED, seeds=[1, 2, 3, 4, 5]), entry(AMENDED, seeds=[1, 2, 3, 4, 5, 6]))
    write_seeds(tmp_path, [0.01, -0.02, 0.005, -0.004])
    write_seeds(tmp_path, [-0.2, -0.2], seeds=[5, 6], started=LATE)
    first, *added = rows(tmp_path)
    assert (first.registered, first.n, first.verdict) == ("yes", 4, "undecided")
    assert [(c.registered, list(c.deltas), c.verdict) for c in added] == [
        ("amendment 2026-02-01", [5], "undecided"),
        ("amendment 2026-02-01", [6], "undecided"),
    ]


def test_an_added_arm_is_compared_on_all_seeds_and_flagged(tmp_path: Path) -> None:
    arms = {**ARMS, "ra-v5-direct": ["baseline"]}
    write_seeds(tmp_path, CLEAR[:4])
    register(tmp_path, entry())
    before = rows(tmp_path)
    register(tmp_path, entry(), entry(AMENDED, arms=arms))
    for seed in range(1, 5):
        write_run(tmp_path, "ra-v5-direct", seed, val_loss=3.49 + 0.0101 * seed, started=LATE)
    (c,) = rows(tmp_path, "ra-v5-direct")
    assert (c.registered, c.n, c.verdict) == ("amendment 2026-02-01", 4, "better")
    assert c.p_overall is not None and c.p_holm is not None and c.p_holm >= c.p_overall
    # What is added corrects no verdict that was registered.
    assert [(x.p_holm, x.verdict) for x in rows(tmp_path)] == [(x.p_holm, x.verdict) for x in before]


def test_what_began_before_is_not_registered(tmp_path: Path) -> None:
    register(tmp_path, entry(LATE))
    write_seeds(tmp_path, CLEAR[:4])
    (c,) = rows(tmp_path)
    assert (c.registered, c.note) == ("no", "ra-v5-eager/seed-1 began before that was registered")


def test_what_no_entry_names_is_not_registered(tmp_path: Path) -> None:
    register(tmp_path, entry())
    write_seeds(tmp_path, CLEAR[:5])
    for seed in range(1, 6):
        write_run(tmp_path, "ra-v5-direct", seed, val_loss=3.4 + 0.0101 * seed)
    (c,) = rows(tmp_path)
    assert (c.n, c.registered, c.note) == (4, "yes", "without seed 5: not registered")
    assert [(c.registered, c.n, c.verdict) for c in rows(tmp_path, "ra-v5-direct")] == [("no", 5, "better")]


def test_arms_that_have_not_run_are_counted(tmp_path: Path) -> None:
    alone = {"ra-v5-compiled": ["baseline-compiled"]}  # it has no reference, and so no comparison
    register(tmp_path, entry(arms={**ARMS, **alone, **{f"arm-{i}": ["baseline"] for i in range(7)}}))
    write_seeds(tmp_path, CLEAR[:4])
    (c,) = rows(tmp_path)
    assert c.p_value is not None and c.p_holm == pytest.approx(8 * c.p_value)


def test_a_size_is_registered_with_its_arms(tmp_path: Path) -> None:
    register(tmp_path, entry(sizes=["9m", "45m"]))
    for size in ("9m", "45m"):
        for seed, delta in enumerate(CLEAR[:4], start=1):
            write_run(tmp_path, f"baseline@STUDY_SIZE={size}", seed, val_loss=3.5)
            write_run(tmp_path, f"ra-v5-eager@STUDY_SIZE={size}", seed, val_loss=3.5 + delta)
    for size in ("9m", "45m"):
        (c,) = rows(tmp_path, f"ra-v5-eager@STUDY_SIZE={size}")
        assert (c.registered, c.verdict, c.reference) == ("yes", "better", f"baseline@STUDY_SIZE={size}")


def test_the_margin_is_the_registered_one(tmp_path: Path) -> None:
    register(tmp_path, entry(margin=0.5))
    write_seeds(tmp_path, CLEAR[:4])
    for iters in (400, 625):
        for seed in range(1, 5):
            loss = 3.5 + 0.01 * seed + (0.15 if iters == 400 else -0.15)
            write_run(tmp_path, f"baseline@MAX_ITERS={iters}", seed, val_loss=loss, iters=iters)
    assert rows(tmp_path)[0].verdict == "equivalent"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "registration.json: "),
        ('{"entries": []}', "registration.json: has no list of entries"),
        ('{"entries": [3]}', "registration.json: has no list of entries"),
        (chained(entry(), entry(seeds="1,2")), "entry 2: seeds must be a list of whole numbers"),
        (chained(entry("tomorrow")), "entry 1: when must be a time with its zone, ISO 8601"),
        (chained(entry("2026-01-01T00:00:00")), "entry 1: when must be a time with its zone"),
        (chained(entry(tuning={"a": 1})), "entry 1: tuning must be symbols, each with a list of values"),
        (chained(entry(looks=0)), "entry 1: looks must be a whole number, 1 at least"),
        (chained(entry(margin=1)), "entry 1: margin must be a share of compute"),
        (chained({k: v for k, v in entry().items() if k != "arms"}), "entry 1: arms is missing"),
    ],
)
def test_a_damaged_registration_is_named_in_one_line(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "registration.json"
    path.write_text(text)
    with pytest.raises(UserError, match=message) as raised:
        read_registration(path)
    assert "\n" not in str(raised.value)
