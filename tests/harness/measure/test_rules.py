"""The simulation of rules: it computes what the evidence does, the level holds, and its record is what the docs say."""

from __future__ import annotations

import json
import math
import re
from dataclasses import asdict

import numpy as np
import pytest

from gpt2.base.files import ROOT
from harness.evidence.effects import compute_effect
from harness.evidence.looks import look_sizes, overall_p
from harness.evidence.paired import holm, paired_test
from harness.evidence.pooled import pooled_test
from harness.measure.rules import (
    Finding,
    holm_p,
    look_p,
    paired_p,
    pooled_p,
    ratio_interval,
    simulate,
    table_row,
)

DRAWS = 4000
OFFERED = re.compile(
    "paired t|paired t, 8 arms|pooled error, 8 arms|equivalent|[124] looks?(, Holm, 8 arms)?|costs in an order"
)


def test_formulas_are_those_of_the_evidence() -> None:
    losses = np.random.default_rng(0).normal(3.5, 0.01, (20, 5, 4))
    pooled, paired = pooled_p(losses), paired_p(losses[:, 1:] - losses[:, :1])
    for i, table in enumerate(losses):
        for arm in range(1, 5):
            expected = pooled_test(table, arm=arm, reference=0)
            assert pooled[i, arm - 1] == pytest.approx(expected.p_value)
            assert paired[i, arm - 1] == pytest.approx(paired_test(list(table[arm] - table[0])).p_value)
        assert holm_p(paired)[i] == pytest.approx(holm(list(paired[i])))
    sizes = look_sizes(8, 2)
    assert look_p(paired, sizes, 1) == pytest.approx(np.vectorize(lambda p: overall_p(p, sizes, 1))(paired), rel=2e-2)


@pytest.mark.parametrize("slopes", [3, 5])
def test_the_interval_of_a_ratio_is_that_of_the_evidence(slopes: int) -> None:
    rng = np.random.default_rng(0)
    d, b = rng.normal(0.01, 0.01, (30, 5)), rng.normal(0.2, 0.15, (30, slopes))
    for deltas, by_seed, low, high in zip(d, b, *ratio_interval(d, b), strict=True):
        effect = compute_effect(dict(enumerate(deltas)), dict(enumerate(by_seed)))
        if effect.low is None or effect.high is None:
            assert math.isinf(low) and math.isinf(high)
        else:
            assert (effect.low, effect.high) == pytest.approx((math.expm1(-high), math.expm1(-low)))


def test_the_level_holds_under_the_rules_that_are_offered() -> None:
    found = list(simulate(DRAWS, seed=7))
    # Four standard errors: there are some forty of them.
    most = 0.05 + 4 * math.sqrt(0.05 * 0.95 / DRAWS)
    level = [f for f in found if OFFERED.match(f.rule) and "false" in f.what and "uncorrected" not in f.case]
    level = [f for f in level if not (f.rule.startswith("pooled") and "nothing there" not in f.case)]
    assert len(level) > 30
    assert [f for f in level if f.value > most] == []
    covered = [f for f in found if f.what == "coverage"]
    assert covered and min(f.value for f in covered) > 1 - most
    (cheat,) = [f for f in found if f.rule == "adding seeds until significant" and f.seeds == "3 to 8"]
    (kept,) = [f for f in found if f.rule == "the same, registered and amended" and f.seeds == "3 to 8"]
    assert kept.value <= most < 0.1 < cheat.value
    fixed, drawn = (
        [f.value for f in found if f.rule == f"costs in {o}"] for o in ("a fixed order", "an order drawn per seed")
    )
    assert min(fixed) > 0.5 and max(drawn) < 0.05
    apart, beside = (
        [f.value for f in found if f.rule == f"tuning: {rule}" and f.case.startswith("nothing there")]
        for rule in ("each arm its lowest loss", "its reference's unless better")
    )
    assert max(beside) < 0.05 < max(apart)


def test_the_docs_have_the_committed_figures() -> None:
    record = json.loads((ROOT / "results" / "cpu" / "rules.json").read_text())
    assert record["draws"] >= 20_000
    findings = [Finding(**finding) for finding in record["findings"]]
    first = next(simulate(record["draws"], record["seed"]))
    assert asdict(first) == asdict(findings[0])
    cells = [
        [cell.strip() for cell in line.strip("| ").split("|")]
        for line in evidence().splitlines()
        if line.startswith("|")
    ]
    rows = [row for row in cells if len(row) == 5 and row[0] != "rule" and not row[0].startswith("-")]
    assert len(rows) > 30
    known = [table_row(finding) for finding in findings]
    assert [row for row in rows if row not in known] == []


def evidence() -> str:
    return (ROOT / "docs" / "evidence.md").read_text()
