"""The record of an experiment is all that was ever asked of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from gpt2.base.errors import UserError
from harness.configure.plan import Plan, make_plan
from harness.configure.requests import asked_plan, record_request, requests
from tests.tiny import tiny


def asked(folder: Path, **symbols: str) -> Plan:
    settings = {"RA_MLA_ABLATION_MODE": "y", "RA_MLA_ABLATION_STEPS": "1,2", "ABLATION_SEEDS": "1"} | symbols
    plan = make_plan(tiny(folder, **settings))
    record_request(plan)
    return plan


def test_an_arm_that_is_added_joins_what_was_asked_before(tmp_path: Path) -> None:
    first = asked(tmp_path)
    second = asked(tmp_path, RA_MLA_ABLATION_STEPS="6")
    third = asked(tmp_path, ABLATION_SEEDS="2")
    assert asked(tmp_path, RA_MLA_ABLATION_STEPS="6").directory == first.directory, "asked before: nothing new"
    together = asked_plan(first.directory)
    assert [run.name for run in together.runs] == [run.name for plan in (first, second, third) for run in plan.runs]
    assert {run.path: run.resolved.text() for run in together.runs} == {
        run.path: run.resolved.text() for plan in (first, second, third) for run in plan.runs
    }
    dates = [request.when for request in requests(first.directory)]
    assert len(dates) == 3 and None not in dates and dates == sorted(dates)


def test_an_experiment_from_before_joins_too(tmp_path: Path) -> None:
    old = make_plan(tiny(tmp_path, RA_MLA_ABLATION_MODE="y", RA_MLA_ABLATION_STEPS="5", ABLATION_SEEDS="1"))
    old.directory.mkdir(parents=True)
    old.base.write(old.directory / "config")
    assert [run.name for run in asked_plan(old.directory).runs] == ["baseline-compiled/seed-1"]
    asked(tmp_path)
    names = [run.name for run in asked_plan(old.directory).runs]
    assert names == ["baseline-compiled/seed-1", "baseline/seed-1", "ra-v5-eager/seed-1"]


@pytest.mark.parametrize("content", ["", "CONFIG_SEED=1\n", "nonsense\n"])
@pytest.mark.parametrize("which", ["config", "asked"])
def test_a_damaged_record_is_never_taken_for_the_defaults(tmp_path: Path, which: str, content: str) -> None:
    plan = asked(tmp_path)
    path = plan.directory / "config" if which == "config" else requests(plan.directory)[0].path
    path.write_text(content)
    with pytest.raises(UserError, match=str(path.name)):
        asked_plan(plan.directory)


def test_a_file_that_is_no_request_is_named(tmp_path: Path) -> None:
    plan = asked(tmp_path)
    (plan.directory / "asked" / "mine.config").write_text("")
    with pytest.raises(UserError, match=r"mine\.config: is no name of a time"):
        asked_plan(plan.directory)
