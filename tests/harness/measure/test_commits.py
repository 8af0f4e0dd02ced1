"""Commits checked out beside each other, trained and compared; and nothing of them left."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from gpt2.base.errors import UserError
from gpt2.base.files import ROOT
from harness.measure import commits
from harness.measure.commits import Side, checked_out, common_steps, refuse_unknown

KCONFIG = """
config MAX_ITERS
\tint "Steps"

menuconfig FAST
\tbool "Fast"

if FAST
  config HOW
\tint "How"
endif
"""


def git(folder: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=A", "-c", "user.email=a@example.com", "-c", "commit.gpgsign=false"]
    done = subprocess.run(["git", *identity, *arguments], cwd=folder, check=True, capture_output=True, text=True)
    return done.stdout


def commit(folder: Path, message: str) -> None:
    git(folder, "add", "--all")
    git(folder, "commit", "--quiet", "--message", message)


@pytest.fixture
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository of one commit, and an empty folder for what is temporary."""
    repository = tmp_path / "small"
    steps = repository / "defconfigs" / "steps"
    steps.mkdir(parents=True)
    for name in ("1-baseline", "10-other", "2-ra"):
        (steps / f"{name}.config").touch()
    (repository / "Kconfig").write_text(KCONFIG)
    git(repository, "init", "--quiet")
    commit(repository, "Begin: a step")
    monkeypatch.setattr(commits, "ROOT", repository)
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr(commits.tempfile, "tempdir", str(tmp_path / "tmp"))
    return repository


def assert_nothing_is_left(repository: Path, temporary: Path) -> None:
    assert len(git(repository, "worktree", "list").splitlines()) == 1
    assert git(repository, "status", "--porcelain") == ""
    assert list(temporary.iterdir()) == []


@pytest.mark.parametrize("end", [None, ValueError, KeyboardInterrupt, UserError])
def test_a_worktree_goes_however_it_is_left(small: Path, tmp_path: Path, end: type[BaseException] | None) -> None:
    def work() -> None:
        with checked_out("HEAD") as a, checked_out("HEAD") as b:
            assert (a.title, a.name) == ("Begin: a step", b.name)
            assert a.path != b.path
            (b.path / "results").write_text("untracked")
            assert len(git(small, "worktree", "list").splitlines()) == 3
            if end:
                raise end

    if end:
        with pytest.raises(end):
            work()
    else:
        work()
    assert_nothing_is_left(small, tmp_path / "tmp")


@pytest.mark.parametrize("name", ["nonesuch", "", "--all", "HEAD~5", "HEAD:Kconfig"])
def test_what_is_no_commit_is_refused(small: Path, tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError, match=repr(name)), checked_out(name):
        pass
    assert_nothing_is_left(small, tmp_path / "tmp")


def test_a_commit_tells_its_steps_and_symbols(small: Path) -> None:
    with checked_out("HEAD") as side:
        assert side.steps == {"baseline": "1", "ra": "2", "other": "10"}
        assert side.symbols == {"MAX_ITERS", "FAST", "HOW"}
        assert side.known({"MAX_ITERS": "2", "EVAL_ITERS": "1"}) == {"MAX_ITERS": "2"}
        refuse_unknown({"HOW": "1"}, [side])
        with pytest.raises(UserError, match=r"MAX_ITER=5: no commit has it; did you mean MAX_ITERS\?"):
            refuse_unknown({"MAX_ITER": "5"}, [side])


def sides_with(tmp_path: Path, *shipped: list[str]) -> list[Side]:
    sides = []
    for i, steps in enumerate(shipped):
        folder = tmp_path / str(i) / "defconfigs" / "steps"
        folder.mkdir(parents=True)
        for step in steps:
            (folder / f"{step}.config").touch()
        sides.append(Side(name=str(i), title="", path=tmp_path / str(i)))
    return sides


def test_steps_are_those_of_both(tmp_path: Path) -> None:
    sides = sides_with(tmp_path, ["1-baseline", "2-ra", "3-mla"], ["1-baseline", "3-ra", "4-new"])
    assert common_steps(*sides, None) == ["baseline", "ra"]
    assert common_steps(*sides, "ra,1") == ["ra", "baseline"]
    for asked in ("mla", "new", "3", "2", "", "baselin"):  # 3 is another step in each
        with pytest.raises(UserError, match=f"--steps: {asked!r} is no step of both commits"):
            common_steps(*sides, asked)


def test_commits_without_a_step_in_common_cannot_be_compared(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="0 and 1 have no ablation step in common"):
        common_steps(*sides_with(tmp_path, ["1-baseline"], []), None)


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """This checkout's tracked files as they are now; then a comment, another commit with other initial weights."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("not a git checkout")
    copy = tmp_path_factory.mktemp("repository")
    for name in filter(None, listed.stdout.split("\0")):
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, copy / name)
    git(copy, "init", "--quiet")
    commit(copy, "As it is")
    model = copy / "gpt2" / "model.py"
    model.write_text(model.read_text() + "# A comment.\n")
    commit(copy, "A comment")
    assert model.read_text().count("std = 0.02\n") == 1
    model.write_text(model.read_text().replace("std = 0.02\n", "std = 0.021\n"))
    commit(copy, "Other initial weights")
    return copy


def compare(repository: Path, temporary: Path, *arguments: str) -> subprocess.Popen[str]:
    temporary.mkdir()
    return subprocess.Popen(
        [sys.executable, "-m", "scripts.compare_commits", *arguments],
        cwd=repository,
        env={**os.environ, "TMPDIR": str(temporary)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


@pytest.mark.slow
def test_a_comment_changes_nothing_and_runs_go_on_across_it(repository: Path, tmp_path: Path) -> None:
    small = ["--steps", "1,ra-v5-eager", "DROPOUT=0.1"]
    process = compare(repository, tmp_path / "tmp", "HEAD~2", "HEAD~1", "--continue-across", *small)
    printed, _ = process.communicate()
    assert process.returncode == 0, printed
    assert printed.count("EQUAL to the bit: 2 runs") == 2
    assert printed.count("ra-v5-eager") == 2
    assert_nothing_is_left(repository, tmp_path / "tmp")


@pytest.mark.slow
def test_other_initial_weights_part_before_the_first_step(repository: Path, tmp_path: Path) -> None:
    process = compare(repository, tmp_path / "tmp", "--steps", "mla", "--iters", "4", "--seeds", "3", "HEAD~1", "HEAD")
    printed, _ = process.communicate()
    assert process.returncode == 1, printed
    for dropout in ("0.0", "0.1"):
        assert f"mla@DROPOUT={dropout}/seed-3 parts in metrics: eval at step 0, val_loss: 5." in printed
        assert f"mla@DROPOUT={dropout}/seed-3 parts in weights: " in printed
    assert "parts in identity" not in printed
    assert "PARTED: 2 of 2 runs" in printed
    assert_nothing_is_left(repository, tmp_path / "tmp")


@pytest.mark.slow
@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_it_leaves_nothing(repository: Path, tmp_path: Path, stop: signal.Signals) -> None:
    process = compare(repository, tmp_path / "tmp", "--iters", "100000", "HEAD~1", "HEAD")
    end = time.monotonic() + 120
    while not list((tmp_path / "tmp").glob("*/code/results/*/*/*/metrics.jsonl")):
        assert time.monotonic() < end and process.poll() is None, "no run has begun"
        time.sleep(0.1)
    process.send_signal(stop)
    printed, _ = process.communicate()
    assert (process.returncode, printed.splitlines()[-1]) == (130, "interrupted")
    assert_nothing_is_left(repository, tmp_path / "tmp")


@pytest.mark.slow
def test_what_a_commit_refuses_is_one_line(repository: Path, tmp_path: Path) -> None:
    process = compare(repository, tmp_path / "tmp", "--steps", "1", "HEAD~1", "HEAD", "N_HEAD=5")
    printed, _ = process.communicate()
    assert process.returncode == 2
    name = git(repository, "rev-parse", "--short", "HEAD~1").strip()
    assert printed.splitlines()[-1].startswith(f"error: {name}: make all: ")
    assert "N_HEAD" in printed.splitlines()[-1]
    assert_nothing_is_left(repository, tmp_path / "tmp")
