"""That kills happen where they are meant to, that what they spoil would be seen, and that they spoil nothing."""

from __future__ import annotations

import json
import random
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from rich.console import Console

from gpt2.run.checkpoint import save_checkpoint
from gpt2.run.run import Run
from gpt2.run.stop import Stop
from gpt2.train_ra_mla import train
from harness.configure.plan import Plan
from harness.evidence.store import load_experiment
from harness.evidence.summary_table import write_summary_csv
from harness.launch.status import print_status
from harness.measure import faults
from harness.measure.makes import fault_environment, prepared
from harness.measure.places import PLACES, Deck, Place, what_is_there
from harness.measure.torture import Tortured, torture
from harness.measure.truths import newest_steps, what_differs, what_is_false

# Each call that can be struck, in the order of a file's life.
PROGRAM = """
import fcntl, os
from pathlib import Path

path = Path("file")
path.parent.joinpath("folder").mkdir()
with path.open("w") as file:
    file.write("0123456789")
    file.flush()
    os.fsync(file.fileno())
lock = os.open("lock", os.O_RDWR | os.O_CREAT)
fcntl.flock(lock, fcntl.LOCK_EX)
os.pwrite(lock, b"17", 0)
os.ftruncate(lock, 1)
os.truncate(path, 9)
path.replace("renamed")
Path("absent").unlink(missing_ok=True)
Path("renamed").unlink()
"""

LIFE: list[tuple[str, str, str, dict[str, str | None]]] = [
    ("mkdir", "folder", "before", {}),
    ("mkdir", "folder", "after", {"folder": None}),
    ("open", "file", "before", {"folder": None}),
    ("open", "file", "after", {"folder": None, "file": ""}),
    ("write", "file", "before", {"folder": None, "file": "01234"}),
    ("fsync", "file", "before", {"folder": None, "file": "0123456789"}),
    ("flock", "lock", "before", {"folder": None, "file": "0123456789", "lock": ""}),
    ("pwrite", "lock", "after", {"folder": None, "file": "0123456789", "lock": "17"}),
    ("ftruncate", "lock", "after", {"folder": None, "file": "0123456789", "lock": "1"}),
    ("truncate", "file", "after", {"folder": None, "file": "012345678", "lock": "1"}),
    ("replace", "f*", "before", {"folder": None, "file": "012345678", "lock": "1"}),
    ("replace", "f*", "after", {"folder": None, "renamed": "012345678", "lock": "1"}),
    ("unlink", "*", "before", {"folder": None, "renamed": "012345678", "lock": "1"}),
    ("unlink", "*", "after", {"folder": None, "lock": "1"}),
]


@pytest.mark.parametrize(("call", "pattern", "when", "left"), LIFE)
def test_a_process_is_struck_at_the_very_call(
    tmp_path: Path, call: str, pattern: str, when: str, left: dict[str, str | None]
) -> None:
    folder = tmp_path / "trial"
    (folder / "scripts").mkdir(parents=True)
    (folder / "scripts" / "__init__.py").touch()
    (folder / "scripts" / "run.py").write_text(PROGRAM)
    fault = faults.Fault(
        call=call,
        pattern=f"{folder}/{pattern}",
        when=when,
        nth=1,
        by="runner",
        signal=signal.SIGKILL,
        target="trainer",  # there is none: it is who comes here
        folder=str(folder),
        marker=str(tmp_path / "marker"),
    )
    environment = fault_environment(fault, tmp_path)
    done = subprocess.run([sys.executable, "-m", "scripts.run"], cwd=folder, env=environment)
    assert done.returncode == -signal.SIGKILL
    assert (tmp_path / "marker").exists()
    there = {path.name: None if path.is_dir() else path.read_text() for path in folder.iterdir()}
    assert there == {"scripts": None, **left}
    if call == "write":  # and no second time
        shutil.rmtree(folder / "folder")
        done = subprocess.run([sys.executable, "-m", "scripts.run"], cwd=folder, env=environment)
        assert done.returncode == 0


def test_every_card_comes_once_before_any_comes_twice() -> None:
    deck = Deck(range(10), random.Random(1))
    assert sorted(deck.draw(lambda card: card != 3) or 0 for _ in range(9)) == [0, 1, 2, 4, 5, 6, 7, 8, 9]
    assert deck.draw(lambda card: True) == 3
    assert deck.draw(lambda card: card > 10) is None


def test_what_a_place_needs_is_seen(tmp_path: Path) -> None:
    run = tmp_path / "baseline" / "seed-1"
    assert what_is_there(run) == {"no checkpoints", "nothing asked"}
    (run / "checkpoints").mkdir(parents=True)
    (run / "metrics.jsonl").touch()
    assert what_is_there(run) == {"metrics", "nothing asked"}
    (tmp_path / "asked").mkdir()
    (tmp_path / "asked" / "then.config").touch()
    (run / "checkpoints" / "step-00000005.pt.sha256").touch()
    assert what_is_there(run) == {"metrics", "leftovers"}


@pytest.fixture(scope="module")
def peaceful(tmp_path_factory: pytest.TempPathFactory) -> Plan:
    """An experiment that was trained in peace."""
    folder = tmp_path_factory.mktemp("torture")
    plan = prepared(folder / "peaceful", folder / "data", {"MAX_ITERS": "12"})
    for run in plan.runs:
        run.path.mkdir(parents=True)
        run.resolved.write(run.path / "config")
        assert train(Run(run.config, run.path), Stop()) == "done"
    write_summary_csv(load_experiment(plan.directory))
    return plan


@pytest.fixture
def struck(peaceful: Plan, tmp_path: Path) -> Plan:
    """The same, in another folder."""
    plan = prepared(tmp_path / "struck", peaceful.directory.parents[2] / "data", {"MAX_ITERS": "12"})
    shutil.copytree(peaceful.directory, plan.directory)
    return plan


def edited(path: Path, change: Callable[[str], str]) -> None:
    text = path.read_text()
    assert change(text) != text
    path.write_text(change(text))


def reweighted(run: Path) -> None:
    """The last checkpoint, whole, with another weight."""
    path = max((run / "checkpoints").glob("step-*.pt"))
    state = torch.load(path, weights_only=True)
    state["model"]["transformer.h.0.mlp.c_fc.weight"][0, 0] += 1e-6
    save_checkpoint(path.parent, state["step"], state)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


SPOILED: dict[str, Callable[[Path], object]] = {
    "a loss": lambda run: edited(run / "metrics.jsonl", lambda text: text.replace('"loss": 5', '"loss": 6', 1)),
    "a line less": lambda run: edited(
        run / "metrics.jsonl", lambda text: "".join(x for x in text.splitlines(True) if '"eval", "step": 7' not in x)
    ),
    "a line more": lambda run: edited(
        run / "metrics.jsonl", lambda text: text + '{"kind": "eval", "step": 13, "val_loss": 1.0}\n'
    ),
    "a weight": reweighted,
    "a summary's number": lambda run: edited(run / "summary.json", lambda text: text.replace('loss": 5', 'loss": 6')),
    "a summary that failed": lambda run: edited(run / "summary.json", lambda text: text.replace("done", "failed")),
    "half a summary": lambda run: edited(run / "summary.json", lambda text: text[: len(text) // 2]),
    "half a provenance": lambda run: edited(run / "provenance.json", lambda text: text[: len(text) // 2]),
    "half a line amid others": lambda run: edited(run / "metrics.jsonl", lambda text: text.replace("}\n", "\n", 1)),
    "half a checkpoint": lambda run: cut(max((run / "checkpoints").glob("step-*.pt"))),
    "a checkpoint without checksum": lambda run: max((run / "checkpoints").glob("*.sha256")).unlink(),
    "another run's identity": lambda run: edited(
        run / "provenance.json", lambda text: text.replace('"SEED": 1', '"SEED": 2')
    ),
}


def look(plan: Plan) -> None:
    print_status(plan, Console(quiet=True))


def test_what_is_as_it_was_is_neither_false_nor_different(peaceful: Plan, struck: Plan) -> None:
    assert what_is_false(struck, peaceful, look) == []
    assert what_differs(struck, peaceful) == []
    assert newest_steps(struck) == {run.name: 12 for run in struck.runs}


@pytest.mark.parametrize("how", SPOILED)
def test_whatever_is_spoiled_is_seen(peaceful: Plan, struck: Plan, how: str) -> None:
    run = struck.runs[1]
    SPOILED[how](run.path)
    assert [line for line in what_is_false(struck, peaceful, look) if run.name in line or "make status" in line]


def test_a_report_that_says_something_else_is_seen(peaceful: Plan, struck: Plan) -> None:
    edited(struck.directory / "summary.csv", lambda text: text.replace("done", "failed", 1))
    assert [line for line in what_differs(struck, peaceful) if line.startswith("report: ")]


def test_what_was_interrupted_says_what_its_log_says(peaceful: Plan, struck: Plan) -> None:
    path = struck.runs[0].path / "summary.json"
    edited(path, lambda text: text.replace("done", "interrupted"))
    assert what_is_false(struck, peaceful, look) == []
    path.write_text(json.dumps(json.loads(path.read_text()) | {"val_loss": 1.0}))
    assert "val_loss" in what_is_false(struck, peaceful, look)[0]


def tortured(folder: Path, kills: int, places: list[Place], **options: object) -> Tortured:
    found = torture(folder, kills=kills, seed=1, look=look, places=places, **options)  # type: ignore[arg-type]
    assert found.wrong == []
    assert len(found.kills) == kills
    return found


@pytest.mark.slow
def test_makes_that_are_killed_lose_nothing(tmp_path: Path) -> None:
    """Half a checkpoint, then what is left of it: the most telling places. `python -m scripts.torture` has them all."""
    names = ("checkpoint: half written", "what was left: about to be swept")
    places = [place for place in PLACES if place.name in names]
    settings = {"RA_MLA_ABLATION_STEPS": "ra-v5-eager", "MAX_ITERS": "30"}
    strikes = [(signal.SIGKILL, "everything")]
    found = tortured(tmp_path, 2, places, workers=1, moments=False, strikes=strikes, settings=settings)
    assert [kill.place for kill in found.kills] == list(names)
    assert found.trials == 1


@pytest.mark.slow
def test_makes_that_are_killed_anywhere_lose_nothing(tmp_path: Path) -> None:
    tortured(tmp_path, 30, list(PLACES), workers=2)
