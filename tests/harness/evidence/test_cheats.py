"""What the report says of whoever cheats: each row of the table in docs/evidence.md, done and looked at."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gpt2.assignments import Assignment
from gpt2.base.errors import UserError
from gpt2.base.files import ROOT
from gpt2.config import identity_hash
from gpt2.dotconfig import resolve
from harness.configure import registration, requests
from harness.configure.plan import Plan, PlannedRun, make_plan, running_order
from harness.configure.registration import register
from harness.configure.requests import record_request
from harness.configure.tuning import add_choices, read_tuned
from harness.evidence.comparison import Comparison
from harness.evidence.findings import FAIL, NOTE, OK
from harness.evidence.launches import Launch
from harness.evidence.retrained import retrained
from harness.evidence.stats import compare
from harness.evidence.store import load_experiment
from harness.evidence.tuning import choose
from harness.evidence.verify import verify_whole
from harness.report.report import make_report, render
from tests.harness.synthetic_runs import write_run

SETTINGS = {
    "RA_MLA_ABLATION_MODE": "y",
    "RA_MLA_ABLATION_STEPS": "baseline,ra-v5-eager",
    "ABLATION_SEEDS": "1-6",
    "STUDY_LOOKS": "2",
    "STUDY_TUNE": "LEARNING_RATE=3e-4,6e-4,1.2e-3",
}
ARM, REFERENCE = "ra-v5-eager", "baseline"


class Clock(datetime):
    """A time that goes by as runs are trained."""

    at = datetime(2026, 1, 1, tzinfo=timezone.utc)

    @classmethod
    def now(cls, tz: Any = None) -> Any:
        return cls.at


@dataclass
class Lab:
    """An experiment, and somebody who wants an arm that changes nothing to be better."""

    folder: Path
    settings: dict[str, str] = field(default_factory=lambda: dict(SETTINGS))
    name: str = "study"
    luck: dict[str, float] = field(default_factory=dict)
    """By how much the loss of a run comes out otherwise the next time."""

    @property
    def path(self) -> Path:
        return self.folder / self.name

    def plan(self) -> Plan:
        settings = {**self.settings, "RESULTS_DIR": str(self.folder), "MODEL_NAME": self.name}
        return make_plan(resolve([Assignment(symbol, value, "test") for symbol, value in settings.items()]))

    def make(self, **settings: str) -> None:
        """What `make` does, but that losses are drawn."""
        self.settings |= settings
        self.path.mkdir(exist_ok=True)
        plan = self.plan()
        record_request(plan)
        register(plan, code={"commit": "c" * 40, "dirty": False}, data={})
        if plan.trials is not None and plan.study is not None:
            self.train(plan.trials.plan)
            known = read_tuned(plan.directory, plan.study)
            choices = choose(plan.trials, known.choices if known else {})
            add_choices(plan.directory, plan.study, plan.trials.runs, choices)
        self.train(self.plan())

    def train(self, plan: Plan) -> None:
        done = {run.name: self.run(run) for run in running_order(plan.runs) if not run.is_done}
        Launch(devices=1, slots=1, runs=len(done), train_s=1.0, wall_s=1.0, done=done).record(plan.directory)

    def run(self, run: PlannedRun) -> float:
        Clock.at += timedelta(seconds=100)
        rate = run.config.optimizer.learning_rate
        loss = 3.5 + abs(np.log(rate / 6e-4)) + 0.02 * np.sin(7 * run.seed + 3 * len(run.step)) + 0.1 / run.seed
        loss += self.luck.get(run.name, 0.0)
        identity = {"LEARNING_RATE": rate, "ATTENTION": run.config.model.attention}
        parent = run.path.parent.parent
        write_run(parent, run.step, run.seed, val_loss=loss, started=Clock.at.isoformat(), identity=identity, iters=50)
        run.resolved.write(run.path / "config")
        return loss

    def remove(self, *names: str) -> None:
        for name in names:
            shutil.rmtree(self.path / name) if (self.path / name).is_dir() else (self.path / name).unlink()

    def edit(self, name: str, change: Callable[[Any], object]) -> None:
        content = json.loads((self.path / name).read_text())
        change(content)
        (self.path / name).write_text(json.dumps(content))

    def rows(self) -> list[Comparison]:
        return [c for c in compare(load_experiment(self.path)) if c.metric.name == "val_loss"]

    def report(self) -> str:
        experiment = load_experiment(self.path)
        text = render(make_report(experiment, compare(experiment), []), "report.md")
        return re.sub(r"\\(.)", r"\1", text)


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (registration, requests):
        monkeypatch.setattr(module, "datetime", Clock)


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        for module in (registration, requests):
            patch.setattr(module, "datetime", Clock)
        lab = Lab(tmp_path_factory.mktemp("cheats"))
        lab.make()
    return lab.path


@pytest.fixture
def lab(original: Path, tmp_path: Path) -> Lab:
    shutil.copytree(original, tmp_path / original.name)
    Clock.at = datetime(2026, 1, 10, tzinfo=timezone.utc)
    return Lab(tmp_path)


def trained_again(lab: Lab) -> None:
    runs = [f"{ARM}/seed-2", f"{ARM}/seed-4"]
    lab.luck = dict.fromkeys(runs, -0.1)
    lab.remove(*runs)
    lab.make()


def trained_again_without_launches(lab: Lab) -> None:
    lab.remove("launches.jsonl")
    trained_again(lab)


def reference_trained_again(lab: Lab) -> None:
    lab.luck = {f"{REFERENCE}/seed-{seed}": 0.1 for seed in range(1, 7)}
    lab.remove(REFERENCE, "launches.jsonl")
    lab.make()


def seeds_left_out(lab: Lab) -> None:
    lab.remove(f"{ARM}/seed-2", f"{REFERENCE}/seed-2")


def registration_removed(lab: Lab) -> None:
    lab.remove("registration.json")


def registered_anew(lab: Lab) -> None:
    lab.remove("registration.json", "asked", "config")
    lab.make(STUDY_MARGIN="20", STUDY_LOOKS="1")


def registered_anew_in_the_past(lab: Lab) -> None:
    registered_anew(lab)
    lab.edit("registration.json", lambda of: of["entries"][0].update(when="2025-12-31T00:00:00+00:00"))


def registration_edited(lab: Lab) -> None:
    lab.edit("registration.json", lambda of: of["entries"][0].update(margin=0.5, looks=1, seeds=[1, 3, 5]))


def an_entry_edited(lab: Lab) -> None:
    lab.make(ABLATION_SEEDS="1-7")
    registration_edited(lab)


def margin_raised(lab: Lab) -> None:
    before = lab.rows()
    lab.make(STUDY_MARGIN="50", STUDY_LOOKS="6")
    assert [(c.verdict, c.look, c.p_holm, c.registered) for c in lab.rows()] == [
        (c.verdict, c.look, c.p_holm, "yes") for c in before
    ]


def order_changed(lab: Lab) -> None:
    before = lab.rows()
    lab.make(ABLATION_SEEDS="6,5,4,3,2,1")
    assert [(c.verdict, list(c.deltas)) for c in lab.rows()] == [(c.verdict, list(c.deltas)) for c in before]


def seeds_added_one_by_one(lab: Lab) -> None:
    for last in (7, 8):
        lab.luck = {f"{ARM}/seed-{last}": -0.3}
        lab.make(ABLATION_SEEDS=f"1-{last}", STUDY_LOOKS="1")
    assert [(c.n, c.registered[:9], c.verdict) for c in lab.rows()] == [
        (6, "yes", "undecided"),
        (1, "amendment", "undecided"),
        (1, "amendment", "undecided"),
    ]


def arms_added(lab: Lab) -> None:
    lab.luck = {f"qk-norm/seed-{seed}": -0.1 for seed in range(1, 7)}
    for arms in ("rope", "rope,qk-norm"):
        lab.make(RA_MLA_ABLATION_STEPS=f"baseline,ra-v5-eager,{arms}")
    assert "Before you believe it" not in lab.report()
    rows = {c.step: c for c in lab.rows()}
    assert (rows[ARM].registered, rows["qk-norm"].registered[:9]) == ("yes", "amendment")
    assert rows["qk-norm"].p_holm == pytest.approx(3 * (rows["qk-norm"].p_overall or 0))


def _badly_tuned(lab: Lab) -> None:
    def change(of: Any) -> None:
        of["arms"][REFERENCE]["settings"]["LEARNING_RATE"] = "1.2e-3"

    lab.edit("tuned.json", change)


def reference_badly_tuned(lab: Lab) -> None:
    lab.remove(ARM, REFERENCE)
    _badly_tuned(lab)
    lab.make()


def trials_invented(lab: Lab) -> None:
    def change(of: Any) -> None:
        of["arms"][REFERENCE]["trials"][2]["val_loss"] = 3.0

    lab.edit("tuned.json", change)
    reference_badly_tuned(lab)


def trials_trained_again(lab: Lab) -> None:
    trial = f"{REFERENCE}@LEARNING_RATE=6e-4"
    lab.luck = {f"{trial}/seed-1001": 1.0}
    lab.remove(f"tuning/{trial}", "tuned.json", ARM, REFERENCE, "launches.jsonl")
    lab.make()


def trials_removed(lab: Lab) -> None:
    lab.remove("tuning")


def each_its_lowest(lab: Lab) -> None:
    """As early records have it, where an arm did not keep its reference's."""
    lab.edit("tuned.json", lambda of: of.pop("runs"))


def trial_left_out(lab: Lab) -> None:
    """The rate that won, so that another is the best."""

    def change(of: Any) -> None:
        arm = of["arms"][REFERENCE]
        arm["trials"] = [trial for trial in arm["trials"] if trial["settings"] != arm["settings"]]
        arm["settings"] = arm["trials"][0]["settings"]

    lab.edit("tuned.json", change)


def choice_removed(lab: Lab) -> None:
    lab.remove("tuned.json")


def tuned_afterwards(lab: Lab) -> None:
    _badly_tuned(lab)


def copied_to_another_seed(lab: Lab) -> None:
    lab.remove(f"{ARM}/seed-2")
    shutil.copytree(lab.path / ARM / "seed-1", lab.path / ARM / "seed-2")


def copied_and_renamed(lab: Lab) -> None:
    copied_to_another_seed(lab)

    def change(of: Any) -> None:
        of["identity"]["SEED"] = 2
        of["config_hash"] = identity_hash(of["identity"])

    lab.edit(f"{ARM}/seed-2/provenance.json", change)
    provenance = json.loads((lab.path / ARM / "seed-2" / "provenance.json").read_text())
    lab.edit(f"{ARM}/seed-2/summary.json", lambda of: of.update(config_hash=provenance["config_hash"]))


def another_experiment(lab: Lab) -> None:
    lab.name = "again"
    lab.make(ABLATION_SEEDS="11-16")


CHEATS: Mapping[str, Callable[[Lab], None]] = {
    "take away runs that displease, and train them again": trained_again,
    "the same, and remove `launches.jsonl`": trained_again_without_launches,
    "train a whole arm again, and remove `launches.jsonl`": reference_trained_again,
    "leave out seeds that displease": seeds_left_out,
    "remove `registration.json`": registration_removed,
    "remove it and `asked/`, and have `make` register what suits": registered_anew,
    "the same, and date it back": registered_anew_in_the_past,
    "edit margin, looks or seeds in it": registration_edited,
    "the same, where it has been amended": an_entry_edited,
    "raise STUDY_MARGIN, or plan more looks, later": margin_raised,
    "change the order of ABLATION_SEEDS, so that another half is looked at": order_changed,
    "add seeds, one by one, until it is better": seeds_added_one_by_one,
    "add arms until one is better": arms_added,
    "give the reference a bad learning rate in `tuned.json`": reference_badly_tuned,
    "the same, with other losses of its trials": trials_invented,
    "have `make` tune the reference again, and badly": trials_trained_again,
    "take out of it that arms were tuned beside each other": each_its_lowest,
    "leave out the rate that won": trial_left_out,
    "edit `tuned.json` once the arms are trained": tuned_afterwards,
    "remove `tuning/`": trials_removed,
    "remove `tuned.json`": choice_removed,
    "copy a run to another seed": copied_to_another_seed,
    "the same, and put the seed in its records": copied_and_renamed,
    "run it again under another MODEL_NAME": another_experiment,
}


def table() -> dict[str, list[str]]:
    """Rows of "Whoever wants to cheat": what they do -> what is quoted of the report."""
    text = (ROOT / "docs/evidence.md").read_text().partition("## Whoever wants to cheat")[2].partition("\n## ")[0]
    rows = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("| ")]
    return {what: re.findall('"(.*?)"', says) for what, says in rows[1:]}


def test_the_table_has_every_cheat() -> None:
    assert list(table()) == list(CHEATS)


def test_nothing_is_said_of_who_does_not_cheat(lab: Lab) -> None:
    assert "Before you believe it" not in lab.report()
    lab.make(ABLATION_SEEDS="1-8")
    report = lab.report()
    assert "Before you believe it" not in report
    assert "1 comparison on 6 seeds, 2 looks (at 3, 6), margin 1 % of compute; hash " in report
    content = json.loads((lab.path / "registration.json").read_text())
    assert f"hash {content['entries'][1]['previous']}" in report
    assert "Amended: 2026-01-10 00:00 UTC: seeds 7, 8" in report
    assert "Chosen: baseline LEARNING_RATE=6e-4; ra-v5-eager LEARNING_RATE=6e-4" in report
    assert [c.registered for c in lab.rows() if c.step == ARM] == ["yes", "amendment 2026-01-10"]


COMMITTED = sorted(path.parent for path in (ROOT / "results").glob("*/*/registration.json"))


@pytest.mark.parametrize("experiment", COMMITTED, ids=lambda path: path.name)
def test_committed_experiments_are_as_they_were_registered_and_tuned(experiment: Path) -> None:
    """By today's code, though they are of earlier ones, and lie elsewhere than they were made."""
    assert [finding for finding in verify_whole(experiment) if finding.outcome == FAIL] == []


def test_an_arm_that_is_added_to_a_tuned_experiment_is_verified_wherever_that_lies(lab: Lab, tmp_path: Path) -> None:
    """From how many runs it was chosen is in tuned.json, which is not where its configuration says any more."""
    tune = {"STUDY_TUNE": "LEARNING_RATE=3e-4,6e-4,1.2e-3;RA_V5_GATE_LR_MULT=1,10"}
    added = Lab(tmp_path, {**SETTINGS, **tune}, name="before")
    added.make()
    added.make(RA_MLA_ABLATION_STEPS="baseline,gqa")
    added.path.rename(tmp_path / "moved")
    assert [finding for finding in verify_whole(tmp_path / "moved") if finding.outcome == FAIL] == []


def verified(experiment: Path) -> list[tuple[str, str]]:
    """What make verify says of the experiment's own files: check, outcome."""
    return [(finding.check, finding.outcome) for finding in verify_whole(experiment)]


@pytest.mark.parametrize(
    ("cheat", "found"),
    [
        (order_changed, [("registered", OK), ("tuned", OK), ("once", OK)]),
        (registration_removed, [("registered", FAIL), ("tuned", OK), ("once", OK)]),
        (choice_removed, [("registered", OK), ("tuned", FAIL), ("once", OK)]),
        (trained_again_without_launches, [("registered", OK), ("tuned", OK), ("once", NOTE)]),
        (registration_edited, [*[("registered", FAIL)] * 3, ("tuned", OK), ("once", OK)]),
        (an_entry_edited, [("registered", FAIL), ("tuned", OK), ("once", OK)]),
        (trials_invented, [("registered", OK), *[("tuned", FAIL)] * 2, ("once", NOTE)]),
        (trained_again, [("registered", OK), ("tuned", OK), ("once", NOTE)]),
    ],
)
def test_make_verify_looks_at_it_too(lab: Lab, cheat: Callable[[Lab], None], found: list[tuple[str, str]]) -> None:
    cheat(lab)
    assert verified(lab.path) == found


def test_a_run_that_is_not_the_one_that_ended_there_is_told(lab: Lab) -> None:
    path = lab.path / "launches.jsonl"
    lines = [json.loads(text) for text in path.read_text().splitlines()]
    name, loss = next((name, loss) for of in lines for name, loss in of["done"].items())
    for of in lines:
        of["done"] = {key: loss + 0.5 if key == name else value for key, value in of["done"].items()}
    path.write_text("".join(json.dumps(of) + "\n" for of in lines))
    (said,) = retrained(load_experiment(lab.path))
    assert said.startswith("runs that had finished have other losses here than by launches.jsonl: ")
    assert said.endswith(f"{name} ({loss + 0.5}, and here {loss})")


@pytest.mark.parametrize("n", [1, 2, 3, 7])
def test_nothing_is_said_of_who_has_not_finished_yet(lab: Lab, n: int) -> None:
    for run in running_order(lab.plan().runs)[n:]:
        lab.remove(run.name)
    lab.remove("launches.jsonl")  # which would have been written at the end
    assert list(retrained(load_experiment(lab.path))) == []


@pytest.mark.parametrize(
    ("gone", "said"),
    [((5,), "This is look 1 of 2:"), ((3,), "Before its first planned look nothing is decided: RA v5.")],
)
def test_the_verdict_says_that_looks_are_to_come(lab: Lab, gone: tuple[int, ...], said: str) -> None:
    assert "look" not in lab.report().partition("Before")[0].partition("## ")[0]
    lab.remove(*(f"{ARM}/seed-{seed}" for seed in gone))
    assert said in lab.report().partition("\n\n")[2].partition("\n\n")[0]


def test_who_only_tunes_so_far_is_told_where(lab: Lab) -> None:
    lab.remove(ARM, REFERENCE)
    with pytest.raises(UserError, match=r"holds no runs yet: they are being tuned, in .*/tuning"):
        lab.report()


@pytest.mark.parametrize("what", CHEATS)
def test_the_report_says_what_the_table_says(lab: Lab, what: str) -> None:
    CHEATS[what](lab)
    said = table()[what]
    try:
        report = lab.report()
    except UserError as error:  # the message is what the report says
        report = str(error)
    assert said
    for words in said:
        assert words in report, report[:3000]
    is_warned = "Before you believe it" in report or "registration.json: entry" in report
    assert is_warned or not any(c.verdict == "better" and c.registered == "yes" for c in lab.rows())
