"""Several processes train what one trains, stop together, and end together."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gpt2.base.errors import UserError
from gpt2.base.files import ROOT
from gpt2.config import TrainConfig
from gpt2.data.batches import EvalSet
from gpt2.dotconfig import Resolved
from gpt2.machine.ranks import Ranks
from gpt2.run import agreement
from gpt2.run.agreement import AgreedStop
from gpt2.run.checkpoint import read_checkpoint
from gpt2.run.lock import RunLock
from gpt2.run.parts import Parts
from gpt2.run.run import Run
from gpt2.run.stop import Stop
from gpt2.symbols import run_config
from gpt2.train_ra_mla import train, train_step
from tests.gpt2.run.test_resume import counting, result
from tests.tiny import tiny

TRAINER = str(ROOT / "gpt2" / "train_ra_mla.py")

# Of eleven evaluation batches two and four ranks have some once more.
SETTINGS = {
    "ATTENTION_RA_V5": "y",
    "GRADIENT_ACCUMULATION_STEPS": "4",
    "EVAL_TOKENS": "1344",
    "DROPOUT": "0.1",
    "LOG_INTERVAL": "1",
    "CHECKPOINT_INTERVAL": "3",
}
SEVERAL = {"PROCESSES_PER_RUN": "2"}
STRATEGIES = ("DDP", "ZERO1", "FSDP2")
ENDLESS = {"MAX_ITERS": "100000", "EVAL_INTERVAL": "100000", "LOG_INTERVAL": "10"}


def start(resolved: Resolved, out: Path, *by: str) -> subprocess.Popen[str]:
    """The trainer, started as a command; what it prints goes to a file beside its directory."""
    config = out.with_suffix(".config")
    resolved.write(config)
    command = [*(by or [sys.executable]), TRAINER, "--config", str(config), "--out", str(out)]
    with out.with_suffix(".log").open("a") as log:
        return subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, text=True, cwd=ROOT)


def run(resolved: Resolved, out: Path, *by: str, status: int = 0) -> str:
    """Run the trainer to its end; what it printed."""
    with start(resolved, out, *by) as trainer:
        assert trainer.wait(300) == status, out.with_suffix(".log").read_text()
    return out.with_suffix(".log").read_text()


def ranks_of(trainer: subprocess.Popen[str]) -> dict[int, int]:
    """Rank -> pid of the processes that a trainer has started."""
    found = {}
    for process in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((process / "stat").read_text().rpartition(")")[2].split()[1])
            variables = (process / "environ").read_bytes().split(b"\0")
        except OSError:
            continue
        rank = next((v for v in variables if v.startswith(b"RANK=")), None)
        if parent == trainer.pid and rank:
            found[int(rank[5:])] = int(process.name)
    return found


def wait_for(what: Callable[[], Any], seconds: float = 60) -> Any:
    until = time.monotonic() + seconds
    while not (value := what()):
        assert time.monotonic() < until
        time.sleep(0.05)
    return value


def logged_steps(out: Path) -> int:
    path = out / "metrics.jsonl"
    return path.read_text().count('"kind": "train"') if path.exists() else 0


def checkpoint_of(out: Path) -> dict[str, Any]:
    return read_checkpoint(max((out / "checkpoints").glob("step-*.pt")))


def assert_equal(theirs: Any, ours: Any, *, within: float = 2e-5) -> None:
    """Numbers are the same but for the order in which sums are added up; everything else is the same."""
    if isinstance(ours, dict):
        assert theirs.keys() == ours.keys()
        for key in ours:
            assert_equal(theirs[key], ours[key], within=within)
    elif isinstance(ours, list | tuple):
        assert len(theirs) == len(ours)
        for a, b in zip(theirs, ours, strict=True):
            assert_equal(a, b, within=within)
    elif isinstance(ours, torch.Tensor):
        torch.testing.assert_close(theirs, ours, rtol=within, atol=within / 10)
    elif isinstance(ours, float):
        assert theirs == pytest.approx(ours, rel=within, abs=within / 10)
    else:
        assert theirs == ours


def assert_same_run(theirs: Path, ours: Path) -> None:
    """What two directories hold of a run is the same but for the order of sums: lines, summary, checkpoint."""
    assert_equal(counting(theirs), counting(ours))
    assert_equal(result(theirs), result(ours))
    kept = ("step", "config_hash", "model_config", "model", "optimizer", "scaler")
    their_state, our_state = checkpoint_of(theirs), checkpoint_of(ours)
    assert their_state.keys() == our_state.keys()
    assert_equal({key: their_state[key] for key in kept}, {key: our_state[key] for key in kept})
    model = their_state["model"]
    assert model["lm_head.weight"].data_ptr() == model["transformer.wte.weight"].data_ptr()


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The run of one process, and what its configuration needs beside it."""
    folder = tmp_path_factory.mktemp("alone")
    out = folder / "run"
    out.mkdir()
    assert train(Run(run_config(tiny(folder, **SETTINGS).symbols), out), Stop()) == "done"
    yield out


def test_two_ranks_train_what_one_trains(alone: Path) -> None:
    out = alone.parent / "two"
    printed = run(tiny(alone.parent, **SETTINGS, **SEVERAL), out)
    assert_same_run(out, alone)
    assert printed.count("step     12 | val_loss") == 1  # one of them speaks
    provenance = json.loads((out / "provenance.json").read_text())
    assert provenance["parallel"] == {"processes": 2, "nodes": 1, "strategy": "ddp"}
    assert provenance["identity"] == json.loads((alone / "provenance.json").read_text())["identity"]
    assert not RunLock.is_held(out)
    assert "has finished already" in run(tiny(alone.parent, **SETTINGS, **SEVERAL), out)


@pytest.mark.slow
@pytest.mark.parametrize(
    "settings",
    [
        *({"PROCESSES_PER_RUN": n, f"PARALLEL_{s}": "y"} for n in ("2", "4") for s in STRATEGIES),
        *({**SEVERAL, f"PARALLEL_{s}": "y", "ACTIVATION_CHECKPOINTING": "y"} for s in STRATEGIES),
    ],
    ids=lambda settings: " ".join(settings.values()) + " " + list(settings)[1],
)
def test_ranks_train_what_one_trains_however_they_share_it(
    alone: Path, tmp_path: Path, settings: dict[str, str]
) -> None:
    run(tiny(alone.parent, **SETTINGS, **settings), tmp_path / "run")
    assert_same_run(tmp_path / "run", alone)


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["DDP", "ZERO1"])
def test_ranks_average_weights_as_one_does(tmp_path: Path, strategy: str) -> None:
    settings = SETTINGS | {"EMA_DECAY": "0.9", "EVAL_TAIL": "2"}
    run(tiny(tmp_path, **settings), tmp_path / "alone")
    run(tiny(tmp_path, **settings, **SEVERAL, **{f"PARALLEL_{strategy}": "y"}), tmp_path / "ranks")
    assert_same_run(tmp_path / "ranks", tmp_path / "alone")
    assert_equal(checkpoint_of(tmp_path / "ranks")["ema"], checkpoint_of(tmp_path / "alone")["ema"])


def test_no_average_is_kept_of_shares_of_weights(tmp_path: Path) -> None:
    shared = {"PROCESSES_PER_RUN": "2", "GRADIENT_ACCUMULATION_STEPS": "2", "PARALLEL_FSDP2": "y"}
    with pytest.raises(UserError, match=r"EMA_DECAY=0\.9: PARALLEL_FSDP2 has a share of each weight"):
        tiny(tmp_path, **shared, EMA_DECAY="0.9")


@pytest.mark.slow
@pytest.mark.parametrize("compiled", ["COMPILE_MODEL", "COMPILE_ATTENTION", "DTYPE_FLOAT16", "DTYPE_BFLOAT16"])
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_ranks_compile_and_scale_as_one_does(tmp_path: Path, strategy: str, compiled: str) -> None:
    settings = SETTINGS | {compiled: "y", "DROPOUT": "0.0", "MAX_ITERS": "4"}
    run(tiny(tmp_path, **settings), tmp_path / "alone")
    run(tiny(tmp_path, **settings, **SEVERAL, **{f"PARALLEL_{strategy}": "y"}), tmp_path / "ranks")
    assert "compile_fallback" not in (tmp_path / "ranks" / "metrics.jsonl").read_text()
    within = 1e-2 if compiled.startswith("DTYPE") else 1e-4  # half precision rounds each rank's share
    assert_equal(counting(tmp_path / "ranks"), counting(tmp_path / "alone"), within=within)
    assert result(tmp_path / "ranks")["compile"] == result(tmp_path / "alone")["compile"]


@pytest.mark.slow
@pytest.mark.parametrize("path", [("1", "2 FSDP2", "1"), ("2 FSDP2", "4 ZERO1", "2 DDP"), ("4 ZERO1", "1", "2 ZERO1")])
def test_a_run_goes_on_with_other_ranks(alone: Path, tmp_path: Path, path: tuple[str, ...]) -> None:
    out = tmp_path / "run"
    for number, ranks in enumerate(path):
        processes, *strategy = ranks.split()
        shared = {f"PARALLEL_{s}": "y" for s in strategy}
        resolved = tiny(alone.parent, **SETTINGS, PROCESSES_PER_RUN=processes, **shared)
        run(resolved, out)
        if number == len(path) - 1:
            break
        # As one that was killed after its checkpoint of step 3, or 6 or 9.
        (out / "summary.json").unlink()
        keep = 3 * (number + 1)
        for checkpoint in (out / "checkpoints").iterdir():
            if f"step-{keep:08d}" not in checkpoint.name:
                checkpoint.unlink()
    assert_same_run(out, alone)
    resumed = json.loads((out / "provenance.json").read_text())["resumed"]
    assert [of["parallel"]["processes"] for of in resumed] == [int(ranks.split()[0]) for ranks in path[1:]]


@pytest.mark.slow
@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("rank", [0, 1])
def test_a_dead_rank_ends_the_run_in_seconds_and_it_goes_on(
    alone: Path, tmp_path: Path, strategy: str, rank: int
) -> None:
    out = tmp_path / "run"
    shared = {**SEVERAL, f"PARALLEL_{strategy}": "y"}
    with start(tiny(alone.parent, **SETTINGS | ENDLESS, **shared), out) as trainer:
        wait_for(lambda: logged_steps(out) > 2)
        ranks = ranks_of(trainer)
        os.kill(ranks[rank], signal.SIGKILL)
        killed = time.monotonic()
        assert trainer.wait(30) == 1
        assert time.monotonic() - killed < 20
    assert not any(Path(f"/proc/{pid}").exists() for pid in ranks.values())
    summary = json.loads((out / "summary.json").read_text())
    assert summary["status"] == "failed"
    assert summary["error"] == f"rank {rank} of 2 was killed by SIGKILL"
    assert summary["error"] in out.with_suffix(".log").read_text()
    # What it has left is whole, and is gone on from, by as many steps as it has time for.
    before = checkpoint_of(out)["step"]
    with start(tiny(alone.parent, **SETTINGS | ENDLESS, **shared), out) as trainer:
        wait_for(lambda: f"resumed at step {before}" in out.with_suffix(".log").read_text())
        trainer.terminate()
        assert trainer.wait(60) == 130


@pytest.mark.slow
def test_a_killed_rank_changes_no_number(alone: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    resolved = tiny(alone.parent, **SETTINGS, **SEVERAL)
    with start(resolved, out) as trainer:
        wait_for(lambda: logged_steps(out) > 4)
        os.kill(ranks_of(trainer)[1], signal.SIGKILL)
        trainer.wait(30)
    run(resolved, out)
    assert_same_run(out, alone)


@pytest.mark.slow
@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("whom", ["launcher", "rank 0", "rank 1", "parent"])
def test_a_stop_is_agreed(alone: Path, tmp_path: Path, strategy: str, whom: str) -> None:
    out = tmp_path / "run"
    resolved = tiny(
        alone.parent, **SETTINGS | ENDLESS | {"CHECKPOINT_INTERVAL": "0"}, **SEVERAL, **{f"PARALLEL_{strategy}": "y"}
    )
    config = out.with_suffix(".config")
    resolved.write(config)
    command = [sys.executable, TRAINER, "--stop-with-parent", "--config", str(config), "--out", str(out)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT) as trainer:
        wait_for(lambda: logged_steps(out) > 2)
        asked = time.monotonic()
        if whom == "parent":
            assert trainer.stdin is not None
            trainer.stdin.close()
        else:
            os.kill(
                {"launcher": trainer.pid, **{f"rank {r}": p for r, p in ranks_of(trainer).items()}}[whom], signal.SIGINT
            )
        assert trainer.wait(30) == 130
        assert time.monotonic() - asked < 20
    summary = json.loads((out / "summary.json").read_text())
    assert summary["status"] == "interrupted"
    assert checkpoint_of(out)["step"] == summary["iters"] > 0


@pytest.mark.slow
def test_a_killed_launcher_leaves_no_rank_behind(alone: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    with start(tiny(alone.parent, **SETTINGS | ENDLESS, **SEVERAL), out) as trainer:
        wait_for(lambda: logged_steps(out) > 2)
        ranks = ranks_of(trainer)
        trainer.kill()
        trainer.wait()
        assert RunLock.is_held(out)  # as long as a rank may write
        wait_for(lambda: not RunLock.is_held(out), 10)
        wait_for(lambda: not any(Path(f"/proc/{pid}").exists() for pid in ranks.values()), 10)


@pytest.mark.slow
def test_what_is_wrong_is_one_line(alone: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    printed = run(tiny(alone.parent, **SETTINGS, **SEVERAL, INIT_FROM="nothing.pt"), out, status=2)
    assert printed.count("nothing.pt") == 1
    printed = run(tiny(alone.parent, **SETTINGS, **SEVERAL, SEED="2"), alone, status=2)
    assert printed.count("SEED is 1 there and 2 here") == 1


@pytest.mark.slow
def test_torchrun_starts_ranks_too(alone: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    resolved = tiny(alone.parent, **SETTINGS, **SEVERAL)
    printed = run(tiny(alone.parent, **SETTINGS, PROCESSES_PER_RUN="4"), out, *torchrun, status=1)
    assert "PROCESSES_PER_RUN=4: torchrun has started 2 (WORLD_SIZE)" in printed
    run(resolved, out, *torchrun)
    assert_same_run(out, alone)
    endless = tmp_path / "endless"
    with start(tiny(alone.parent, **SETTINGS | ENDLESS, **SEVERAL), endless, *torchrun) as trainer:
        wait_for(lambda: logged_steps(endless) > 2)
        os.kill(ranks_of(trainer)[1], signal.SIGKILL)
        killed = time.monotonic()
        trainer.wait(60)
        assert time.monotonic() - killed < 20
    assert not RunLock.is_held(endless)


@pytest.mark.gpu
@pytest.mark.slow
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_two_gpus_train_what_one_trains(tmp_path: Path, strategy: str) -> None:
    if torch.cuda.device_count() < 2:
        pytest.skip("needs two CUDA devices")
    settings = SETTINGS | {"DEVICE_CUDA": "y", "DROPOUT": "0.0", "TF32": "n", "COMPILE_MODEL": "y"}
    run(tiny(tmp_path, **settings), tmp_path / "alone")
    run(tiny(tmp_path, **settings, **SEVERAL, **{f"PARALLEL_{strategy}": "y"}), tmp_path / "ranks")
    assert_equal(counting(tmp_path / "ranks"), counting(tmp_path / "alone"), within=1e-4)


@given(batch=st.integers(1, 64), accumulation=st.integers(1, 64), processes=st.integers(1, 64))
def test_a_batch_that_cannot_be_shared_is_refused_with_one_that_can(
    batch: int, accumulation: int, processes: int
) -> None:
    given = {"batch_size": batch, "gradient_accumulation_steps": accumulation, "processes": processes}
    if accumulation % processes == 0:
        TrainConfig(**given)
        return
    with pytest.raises(UserError) as refusal:
        TrainConfig(**given)
    line = str(refusal.value)
    assert line.startswith(f"PROCESSES_PER_RUN={processes}: ")
    if batch * accumulation % processes:
        assert "nor does it divide" in line
        return
    words = dict(word.split("=") for word in line.split(": ")[-1].split() if "=" in word)
    size, steps = int(words["BATCH_SIZE"]), int(words["GRADIENT_ACCUMULATION_STEPS"])
    assert size * steps == batch * accumulation and size <= batch
    TrainConfig(batch_size=size, gradient_accumulation_steps=steps, processes=processes)


@given(n=st.integers(1, 40), world_size=st.integers(1, 9))
def test_evaluation_is_dealt_and_put_together(n: int, world_size: int) -> None:
    batches = [(torch.tensor(i), torch.tensor(i)) for i in range(n)]
    of = EvalSet(batches=batches, counts=[1] * n, n_bytes=None)
    dealt = [[float(x) for x, _ in of.dealt(rank, world_size)] for rank in range(world_size)]
    assert len({len(turn) for turn in dealt}) == 1
    assert of.put_together(dealt) == [float(i) for i in range(n)]


class Together(Ranks):
    """A rank of several that are threads."""

    def __init__(self, rank: int, world_size: int, barrier: threading.Barrier) -> None:
        self.rank, self.world_size, self._barrier = rank, world_size, barrier

    def gather(self, value: Any) -> list[Any]:
        self._barrier.wait()
        return [value] * self.world_size


class Wish(Stop):
    """Is to stop when somebody says so."""

    reason: str | None = None

    @property
    def requested(self) -> str | None:
        return self.reason


@pytest.mark.parametrize("world_size, wishing", [(2, [0]), (2, [1]), (3, [0, 2])])
def test_all_stop_at_the_same_look_however_far_they_are(
    monkeypatch: pytest.MonkeyPatch, world_size: int, wishing: list[int]
) -> None:
    monkeypatch.setattr(agreement, "POLL_S", 0.01)
    store: Any = torch.distributed.HashStore()
    barrier = threading.Barrier(world_size)
    wishes = [Wish() for _ in range(world_size)]
    ended: dict[int, tuple[int, str]] = {}

    def loop(rank: int) -> None:
        stop = AgreedStop(Together(rank, world_size, barrier), store, wish=wishes[rank])
        looks = 1
        while not (reason := stop.requested):
            time.sleep(0.001 * (1 + 3 * rank))  # one is ahead of the other
            looks += 1
            if looks == 20 and rank in wishing:
                wishes[rank].reason = f"SIGINT at {rank}"
        ended[rank] = looks, reason
        barrier.wait()
        stop.leave()

    threads = [threading.Thread(target=loop, args=(rank,)) for rank in range(world_size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert len(ended) == world_size
    assert len(set(ended.values())) == 1
    assert ended[0][1] in {f"SIGINT at {rank}" for rank in wishing}


@pytest.mark.parametrize("attention", ["BASELINE", "RA_V5", "MLA", "RA_MLA"])
@pytest.mark.parametrize(
    "compiled",
    [
        "COMPILE_NONE",
        pytest.param("COMPILE_ATTENTION", marks=pytest.mark.slow),
        pytest.param("COMPILE_MODEL", marks=pytest.mark.slow),
    ],
)
def test_activations_that_are_computed_again_change_no_bit(tmp_path: Path, attention: str, compiled: str) -> None:
    settings = {f"ATTENTION_{attention}": "y", compiled: "y", "DROPOUT": "0.1"}
    losses = []
    for again in "ny":
        torch.compiler.reset()
        config = tiny(tmp_path, **settings, ACTIVATION_CHECKPOINTING=again).run_config()
        parts = Parts(config)
        parts.compile(config.train.compile, config.train.compile_mode)
        with closing(parts.batches(0)) as stream:
            losses.append([train_step(parts, next(stream), step=step) for step in range(3)])
        losses[-1] += [p.detach() for p in parts.parameters]
    assert all(torch.equal(a, b) for a, b in zip(*losses, strict=True))


def test_dropout_depends_on_the_micro_batch_and_not_on_who_takes_it(tmp_path: Path) -> None:
    config = tiny(tmp_path, GRADIENT_ACCUMULATION_STEPS="4", DROPOUT="0.1").run_config()
    parts = Parts(config)

    def drawn(rank: int, world_size: int) -> list[float]:
        parts.ranks = Together(rank, world_size, threading.Barrier(1))
        draws = []
        for i in range(4 // world_size):
            with parts.micro_batch(7, i, is_last=True):
                draws.append(torch.rand(()).item())
        return draws

    alone = drawn(0, 1)
    assert len(set(alone)) == 4
    assert [drawn(0, 2), drawn(1, 2)] == [alone[::2], alone[1::2]]
    assert [drawn(rank, 4) for rank in range(4)] == [[draw] for draw in alone]
    torch.manual_seed(config.train.seed * 1_000_003 + 7)  # that of the only micro-batch of a step, as it always was
    assert torch.rand(()).item() == alone[0]


def test_compiled_blocks_and_dropout_are_refused_together(tmp_path: Path) -> None:
    shared = {"PROCESSES_PER_RUN": "2", "GRADIENT_ACCUMULATION_STEPS": "2", "PARALLEL_FSDP2": "y"}
    with pytest.raises(UserError, match=r"DROPOUT=0\.1: PARALLEL_FSDP2 compiles block by block"):
        tiny(tmp_path, **shared, COMPILE_MODEL="y", DROPOUT="0.1")
    tiny(tmp_path, **shared, COMPILE_ATTENTION="y", DROPOUT="0.1")


@pytest.mark.slow
def test_what_one_rank_cannot_compile_none_does(tmp_path: Path) -> None:
    """A trainer whose second rank has a compiler that does not work."""
    program = tmp_path / "trainer.py"
    program.write_text(
        f"import os, sys\nsys.path.insert(0, {str(ROOT)!r})\nfrom gpt2.run import parallel\n"
        "from gpt2.base.errors import run_command\nfrom gpt2 import train_ra_mla\n"
        "def broken(graph, inputs):\n    raise RuntimeError('no compiler here')\n"
        "def compile_scope(model, scope, **options):\n"
        "    model.compile(backend=broken) if scope == 'model' and os.environ.get('RANK') == '1' else None\n"
        "parallel.compile_scope = compile_scope\ntrain_ra_mla.__file__ = __file__\nrun_command(train_ra_mla.main)\n"
    )
    out = tmp_path / "run"
    config = tmp_path / "run.config"
    tiny(tmp_path, **SETTINGS | SEVERAL | {"COMPILE_MODEL": "y", "MAX_ITERS": "2"}).write(config)
    command = [sys.executable, str(program), "--config", str(config), "--out", str(out)]
    assert subprocess.run(command, cwd=ROOT, timeout=120).returncode == 0
    assert result(out)["compile"] == {"asked": "model", "ran": "none", "mode": None}
    events = json.loads((out / "summary.json").read_text())["events"]
    assert any(line.startswith("torch.compile failed, running eager: ") for line in events)
