"""Our trainer and nanoGPT, trained side by side: the same curves where only the order of rounding differs."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from gpt2.assignments import Assignment
from gpt2.base.errors import UserError
from gpt2.base.files import ROOT, read_json
from gpt2.config import RunConfig
from gpt2.data.batches import Batch
from gpt2.dotconfig import resolve
from gpt2.run.parts import Parts
from gpt2.symbols import run_config
from gpt2.train_ra_mla import train_step
from harness.measure import loss_curves
from harness.measure.loss_curves import NANOGPT, OURS, YARDSTICK, Curves, difference, labels, over_seeds, train_curves
from harness.measure.loss_curves_figure import draw_loss_curves
from harness.measure.training import NanoGPTStep
from scripts import compare_loss_curves as script

CPU = torch.device("cpu")
TINY = {
    "MODEL_CUSTOM": "y",
    "N_LAYER": "2",
    "N_HEAD": "2",
    "N_EMBD": "16",
    "BLOCK_SIZE": "16",
    "BATCH_SIZE": "2",
    "MAX_ITERS": "5",
    "WARMUP_ITERS": "1",
    "EVAL_TOKENS": "64",
    "DTYPE_FLOAT32": "y",
    "DATASET_BIN": "y",
    "VOCAB_SIZE": "64",
    "DEVICE_CPU": "y",
}


@pytest.fixture(scope="module")
def tokens(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tokens with something to learn in them: each is followed by one of two."""
    folder = tmp_path_factory.mktemp("tokens")
    random = np.random.default_rng(1)
    for split, n in {"train": 2000, "val": 200}.items():
        (np.cumsum(random.integers(1, 3, size=n)) % 64).astype(np.uint16).tofile(folder / f"{split}.bin")
    return folder


def tiny(tokens: Path, **symbols: str) -> RunConfig:
    settings = TINY | {"DATASET_BIN_DIR": str(tokens), "DATA_DIR": str(tokens)}
    layers = ([Assignment(s, v, "test") for s, v in layer.items()] for layer in (settings, symbols))
    return run_config(resolve(*layers).symbols)


def test_in_float32_the_curves_are_the_same(tokens: Path) -> None:
    heard: list[str] = []
    curves = train_curves(tiny(tokens), CPU, heard.append)
    assert heard == list(curves.losses) == list(curves.val_loss) == [OURS, NANOGPT, YARDSTICK]
    assert [len(losses) for losses in curves.losses.values()] == [5, 5, 5]
    for arm in (OURS, YARDSTICK):
        assert curves.losses[arm] == pytest.approx(curves.losses[NANOGPT], abs=1e-5)
        assert curves.val_loss[arm] == pytest.approx(curves.val_loss[NANOGPT], abs=1e-5)


def test_every_arm_sees_the_same_batches_and_learning_rates(tokens: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, list[tuple[list[list[int]], set[float]]]] = {"ours": [], "theirs": []}
    our_step, their_step = loss_curves.train_step, NanoGPTStep.step

    def note(whose: str, batch: Batch, optimizer: torch.optim.Optimizer) -> None:
        seen[whose].append((batch[0].tolist(), {group["lr"] for group in optimizer.param_groups}))

    def ours(parts: Parts, micro_batches: list[Batch], *, step: int) -> torch.Tensor:
        note("ours", micro_batches[0], parts.optimizer)
        return our_step(parts, micro_batches, step=step)

    def theirs(trainee: NanoGPTStep, batch: Batch) -> torch.Tensor:
        note("theirs", batch, trainee.optimizer)
        return their_step(trainee, batch)

    monkeypatch.setattr(loss_curves, "train_step", ours)
    monkeypatch.setattr(NanoGPTStep, "step", theirs)
    train_curves(tiny(tokens), CPU)
    assert len(seen["ours"]) == 5 and len({str(x) for x, _ in seen["ours"]}) == 5
    assert seen["theirs"] == 2 * seen["ours"]
    rates = [rate for _, (rate,) in seen["ours"]]
    assert rates[0] == pytest.approx(3e-4) and rates[1] == 6e-4 and rates[-1] == pytest.approx(6e-5)


def test_a_seed_is_other_weights_and_other_batches(tokens: Path) -> None:
    first, again, second = (train_curves(tiny(tokens, MAX_ITERS="2", SEED=seed), CPU) for seed in "112")
    assert first == again
    assert second.seed == 2
    assert abs(first.losses[OURS][0] - second.losses[OURS][0]) > 1e-4


def test_a_trainer_that_does_something_else_shows(tokens: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def without_a_position(parts: Parts, micro_batches: list[Batch], *, step: int) -> torch.Tensor:
        return train_step(parts, [(x, y.index_fill(1, torch.tensor([3]), -1)) for x, y in micro_batches], step=step)

    monkeypatch.setattr(loss_curves, "train_step", without_a_position)
    curves = train_curves(tiny(tokens), CPU)
    assert difference(curves, OURS).mean_abs > 100 * difference(curves, YARDSTICK).max_abs


@pytest.mark.parametrize(
    ("symbols", "message"),
    [
        ({"ATTENTION_RA_V5": "y"}, "ATTENTION=ra_v5: cannot be compared with nanoGPT's step, which has baseline"),
        ({"BETA2": "0.99"}, "BETA2=0.99: cannot be compared"),
        ({"GRADIENT_ACCUMULATION_STEPS": "2"}, "GRADIENT_ACCUMULATION_STEPS=2: cannot be compared"),
        ({"BATCH_SIZE": "3"}, "BATCH_SIZE=3: must be even"),
        ({"VOCAB_SIZE": "10"}, "holds token 63, but VOCAB_SIZE=10"),
        ({"BLOCK_SIZE": "256"}, "200 validation tokens do not fill one sequence"),
    ],
)
def test_what_cannot_be_compared_is_refused(tokens: Path, symbols: dict[str, str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        train_curves(tiny(tokens, **symbols), CPU)


def test_the_arms_say_what_they_are(tokens: Path) -> None:
    assert list(labels(tiny(tokens)).values()) == ["ours, eager", "nanoGPT, eager", "nanoGPT, in halves"]
    compiled = labels(tiny(tokens, COMPILE_MODEL="y", BATCH_SIZE="3"))
    assert list(compiled.values()) == ["ours, compiled", "nanoGPT, compiled", "nanoGPT, eager"]


def made_up(seed: int, apart: Callable[[int], float]) -> Curves:
    plain = [5 - step / 50 for step in range(100)]
    losses = {OURS: [loss + apart(step) for step, loss in enumerate(plain)], NANOGPT: plain, YARDSTICK: plain}
    return Curves(seed=seed, losses=losses, val_loss={OURS: 3.5, NANOGPT: 3.25, YARDSTICK: 3.25})


def test_differences_are_counted_in_size_and_at_the_end_with_their_sign() -> None:
    # The first half lies 2 above and below in turns, the second half 1 below.
    d = difference(made_up(1, lambda step: 2.0 * (-1) ** step if step < 50 else -1.0), OURS)
    assert (d.mean_abs, d.max_abs, d.last, d.val_loss) == pytest.approx((1.5, 2, -1, 0.25))
    other = difference(made_up(2, lambda step: 3.0), OURS)
    both = over_seeds([d, other])
    assert both.seed is None
    assert (both.mean_abs, both.max_abs, both.last, both.val_loss) == pytest.approx((2.25, 3, 1, 0.25))


@pytest.mark.parametrize("seeds", [[1], [1, 2]])
def test_the_figure_names_the_arms(tmp_path: Path, seeds: list[int]) -> None:
    curves = [made_up(seed, lambda step: 1e-3 * (step % 3)) for seed in seeds]
    names = {OURS: "ours", NANOGPT: "nanoGPT", YARDSTICK: "nanoGPT again"}
    drawing = draw_loss_curves(curves, names, tmp_path / "curves.png")
    assert drawing.png == tmp_path / "curves.png" and drawing.svg == tmp_path / "curves.svg"
    with Image.open(drawing.png) as image:
        assert image.width == pytest.approx(6.75 * 250, abs=1)
    text = drawing.svg.read_text()
    assert ">difference from nanoGPT<" in text
    assert ">nanoGPT again: none<" in text  # the yardstick is nanoGPT's own curve here


def test_the_command_writes_curves_and_figure(tokens: Path, tmp_path: Path) -> None:
    out, figure = tmp_path / "out.json", tmp_path / "out.png"
    flags = ["--data", str(tokens), "--vocab-size", "64", "--device", "cpu", "--steps", "3", "--seeds", "1,2"]
    small = ["--batch-size", "2", "--block-size", "16", "--eval-tokens", "32", "N_EMBD=16", f"DATA_DIR={tokens}"]
    command = [sys.executable, "-m", "scripts.compare_loss_curves", *flags, *small]
    done = subprocess.run(
        [*command, "--json", str(out), "--figure", str(figure)], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "nanoGPT, in halves" in done.stdout
    record = read_json(out)
    assert record["hardware"]["device"] == "cpu" and record["config"]["model"]["n_embd"] == 16
    assert [(of["seed"], len(of["losses"][OURS])) for of in record["curves"]] == [(1, 3), (2, 3)]
    assert [(of["seed"], of["arm"]) for of in record["differences"]] == [
        (seed, arm) for seed in (1, 2, None) for arm in (OURS, YARDSTICK)
    ]
    assert all(of["max_abs"] < 1e-5 for of in record["differences"])
    assert figure.exists() and figure.with_suffix(".svg").exists()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--seeds", "1,two"], "--seeds: '1,two': 'two' is no seed; expected whole numbers"),
        (["--seeds", "1,-2"], "--seeds: '1,-2': '-2' is no seed"),
        (["--seeds", "1,1"], "--seeds: '1,1': an item stands there twice"),
        (["--figure", "curves.pdf"], "must end in .png"),
        (["--json", "/there/is/none/out.json"], "there is no such directory"),
        (["--steps", "0"], "--steps: CONFIG_MAX_ITERS=0"),
        (["--batch-size", "many"], "--batch-size: CONFIG_BATCH_SIZE=many"),
        (["N_EMBD"], "'N_EMBD': write SYMBOL=value"),
        (["N_EMBED=16"], "N_EMBED"),
        ([], "holds no train.bin"),
    ],
)
def test_mistakes_are_one_line(tmp_path: Path, flags: list[str], message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["x", "--device", "cpu", "--data", str(tmp_path), *flags])
    with pytest.raises(UserError, match=message) as error:
        script.main()
    assert "\n" not in str(error.value)


def test_out_of_memory_names_the_batch_size(tokens: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(loss_curves, "_train", fail)
    with pytest.raises(UserError, match="try a --batch-size below 2"):
        script._train(tiny(tokens), 1, CPU)


@pytest.mark.slow
def test_compiled_curves_are_the_same_too(tokens: Path) -> None:
    curves = train_curves(tiny(tokens, COMPILE_MODEL="y"), CPU)
    for arm in (OURS, YARDSTICK):
        assert curves.losses[arm] == pytest.approx(curves.losses[NANOGPT], abs=1e-5)


@pytest.mark.gpu
def test_on_a_gpu_all_of_it_is_compiled_and_the_curves_stay_close(tokens: Path) -> None:
    symbols = {"DEVICE_CUDA": "y", "DTYPE_BFLOAT16": "y", "COMPILE_MODEL": "y", "N_EMBD": "64", "MAX_ITERS": "20"}
    config = tiny(tokens, **symbols)
    device = torch.device("cuda", torch.cuda.current_device())
    curves = train_curves(config, device)
    assert difference(curves, OURS).max_abs < 0.02
    assert difference(curves, YARDSTICK).max_abs < 0.02
