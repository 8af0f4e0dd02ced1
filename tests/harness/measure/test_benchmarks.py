"""The benchmarks time what they say: the same function, the trainer's own step, nanoGPT's step. Not how fast it is."""

from __future__ import annotations

import math
import sys
from pathlib import Path

import pytest
import torch

from gpt2.attention.baseline import CausalSelfAttention
from gpt2.base.errors import UserError
from gpt2.base.files import read_json
from gpt2.model import GPT
from gpt2.run.parts import Parts
from gpt2.train_ra_mla import train_step
from harness.measure import attention, loss, training
from harness.measure.attention import MODES, VARIANTS, CopyingAttention, Layer, benchmark_attention
from harness.measure.loss import Head, benchmark_loss, ways_here
from harness.measure.nanogpt import NanoGPT, nanogpt_optimizer
from harness.measure.timing import Stopwatch
from harness.measure.training import OURS, Arm, Load, OurTrainer, arms_here, benchmark_training
from scripts import benchmark_attention as attention_script
from scripts import benchmark_loss as loss_script
from scripts import benchmark_training as training_script

CPU = torch.device("cpu")
LAYER = Layer(n_head=2, head_dim=8, block_size=16, R=2, dtype="float32")
LOAD = Load(n_layer=1, n_head=2, n_embd=16, block_size=16, vocab_size=32, batch_size=2, dtype="float32")


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_every_variant_of_the_layer_is_timed(mode: str, dtype: str) -> None:
    layer = Layer(n_head=2, head_dim=8, block_size=16, R=2, dtype=dtype)
    rows = benchmark_attention(CPU, layer, 2, mode, compiled=False, repeats=2)
    assert [row.variant for row in rows] == list(VARIANTS)
    assert all(row.device is None and row.wall.n == 2 and not row.compiled for row in rows)
    assert rows[0].ratio == rows[0].ratio_to_eager == 1
    assert rows[3].ratio == rows[3].wall.median / rows[0].wall.median


@pytest.mark.slow
@pytest.mark.parametrize("mode", MODES)
def test_compiled_layers_stand_beside_eager_ones(mode: str) -> None:
    rows = benchmark_attention(CPU, LAYER, 2, mode, compiled=True, repeats=2)
    assert [(row.variant, row.compiled) for row in rows] == [(v, c) for v in VARIANTS for c in (False, True)]
    assert rows[1].ratio == 1
    assert rows[1].ratio_to_eager == rows[1].wall.median / rows[0].wall.median


@pytest.mark.gpu
@pytest.mark.parametrize("mode", MODES)
def test_on_a_gpu_the_device_time_is_measured(mode: str) -> None:
    layer = Layer(n_head=2, block_size=128)
    rows = benchmark_attention(torch.device("cuda"), layer, 2, mode, compiled=False, repeats=2)
    # A device cannot take longer than the host that waits for it, up to the spread of two samples.
    assert all(row.device is not None and 0 < row.device.median < 2 * row.wall.median for row in rows)


def test_a_variant_that_computes_something_else_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    class Wrong(CausalSelfAttention):
        def forward(self, x: torch.Tensor, cache: object = None) -> torch.Tensor:
            return super().forward(x.flip(1))

    monkeypatch.setitem(attention.VARIANTS, "wrong", lambda layer: Wrong(layer.n_embd, layer.n_head))
    with pytest.raises(RuntimeError, match="wrong: output differs"):
        benchmark_attention(CPU, LAYER, 2, "forward", compiled=False, repeats=2)


def test_the_copying_baseline_is_the_baseline() -> None:
    torch.manual_seed(1)
    baseline, copying = CausalSelfAttention(16, 2), CopyingAttention(16, 2)
    copying.load_state_dict(baseline.state_dict())
    x = torch.randn(2, 8, 16)
    assert torch.equal(copying(x), baseline(x))


@pytest.mark.parametrize("gelu_tanh", [True, False])
def test_nanogpt_is_our_baseline_on_the_same_weights(gelu_tanh: bool) -> None:
    ours = GPT(LOAD.model(gelu_tanh=gelu_tanh), seed=1).double()
    theirs = NanoGPT(LOAD.model(gelu_tanh=gelu_tanh)).double()
    theirs.load_state_dict(ours.state_dict())
    x, y = torch.randint(32, (2, 2, 16), generator=torch.Generator().manual_seed(1))
    (_, our_loss), (_, their_loss) = ours(x, y), theirs(x, y)
    # Ours takes the loss in float32 whatever the logits are.
    assert their_loss.item() == pytest.approx(our_loss.item(), rel=1e-6)
    our_loss.backward()
    their_loss.backward()
    for (name, p), (other, q) in zip(ours.named_parameters(), theirs.named_parameters(), strict=True):
        assert name == other
        torch.testing.assert_close(p.grad, q.grad, rtol=1e-4, atol=1e-8)


def test_nanogpts_optimizer_decays_every_matrix_and_nothing_else() -> None:
    model = NanoGPT(LOAD.model())
    matrices, rest = nanogpt_optimizer(model, "cpu").param_groups
    assert (matrices["weight_decay"], rest["weight_decay"]) == (0.1, 0.0)
    assert {p.dim() for p in matrices["params"]} == {2} and {p.dim() for p in rest["params"]} == {1}
    assert len(matrices["params"]) + len(rest["params"]) == len(list(model.parameters()))


def test_every_arm_takes_steps_and_every_phase_is_timed() -> None:
    rows, failures = benchmark_training(CPU, LOAD, arms_here(), repeats=7)
    assert failures == []
    assert [row.arm for row in rows] == arms_here()
    for row in rows:
        assert row.total.n == 10  # two turns of five
        assert 0 < row.forward.median < row.total.median
        assert row.tokens_per_s == pytest.approx(1000 * 2 * 16 / row.total.median)
        assert row.mfu is None and row.peak_mem_gib is None
    baseline, nanogpt = rows[0], next(row for row in rows if row.arm == "nanogpt")
    assert baseline.ratio_to_baseline == nanogpt.ratio_to_nanogpt == 1
    assert baseline.ratio_to_nanogpt == pytest.approx(1 / (nanogpt.ratio_to_baseline or math.nan))


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_what_is_timed_is_the_trainers_step(tmp_path: Path, dtype: str) -> None:
    load = Load(n_layer=1, n_head=2, n_embd=16, block_size=16, vocab_size=32, batch_size=2, dtype=dtype)
    training._write_tokens(load, tmp_path)
    batches = training._batches(load, CPU, tmp_path)
    watch = Stopwatch(CPU)
    arm = OURS["ra_v5"]
    timed = OurTrainer(load, arm, CPU, tmp_path, watch)
    plain = Parts(training._run_config(load, arm, CPU, tmp_path))
    for batch in batches:
        assert torch.equal(timed.step(batch), train_step(plain, [batch], step=0)[0])
    for p, q in zip(timed.parts.model.parameters(), plain.model.parameters(), strict=True):
        assert torch.equal(p, q)
    assert [list(lap) for lap in watch.laps()] == [["forward", "backward", "optimizer", "total"]] * len(batches)


def test_an_arm_without_speed_ups_takes_the_same_steps_otherwise(tmp_path: Path) -> None:
    load = Load(n_layer=1, n_head=2, n_embd=16, block_size=16, vocab_size=32, batch_size=2, dtype="bfloat16")
    training._write_tokens(load, tmp_path)
    batch = training._batches(load, CPU, tmp_path)[0]
    runs = {name: OurTrainer(load, OURS[name], CPU, tmp_path, Stopwatch(CPU)) for name in ("baseline", "plain")}
    configs = {name: trainee.parts.config for name, trainee in runs.items()}
    settings = {name: (config.model.residual_bfloat16, config.train.fused_loss) for name, config in configs.items()}
    assert settings == {"baseline": (True, True), "plain": (False, False)}
    losses = [trainee.step(batch).item() for trainee in runs.values()]
    assert losses[0] == pytest.approx(losses[1], rel=2 * torch.finfo(torch.bfloat16).eps)


def test_an_arm_that_fails_does_not_stop_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(OURS, "too-wide", Arm(model={"attention": "ra_v5", "ra_v5_R": 8}))
    rows, failures = benchmark_training(CPU, LOAD, ["too-wide", "nanogpt"], repeats=1)
    assert [row.arm for row in rows] == ["nanogpt"]
    assert rows[0].ratio_to_baseline is None
    assert [failure.arm for failure in failures] == ["too-wide"]
    assert "must be from 1 to 7" in failures[0].reason


@pytest.mark.slow
def test_compiled_arms_take_the_same_steps() -> None:
    load = Load(
        n_layer=1, n_head=2, n_embd=16, block_size=16, vocab_size=32, batch_size=2, dtype="float32", compiled=True
    )
    rows, failures = benchmark_training(CPU, load, ["baseline", "ra_v5", "nanogpt"], repeats=1)
    assert failures == []
    assert [row.compiled for row in rows] == [True] * 3


@pytest.mark.gpu
def test_on_a_gpu_the_memory_of_an_arm_is_its_own() -> None:
    load = Load(n_layer=1, n_head=2, n_embd=64, block_size=64, vocab_size=512, batch_size=2)
    rows, _ = benchmark_training(torch.device("cuda"), load, ["baseline", "baseline-again"], repeats=1)
    first, second = (row.peak_mem_gib for row in rows)
    assert first is not None and second == pytest.approx(first, rel=0.02)


def test_the_scripts_write_what_they_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "out.json"
    small = ["--device", "cpu", "--repeats", "2", "--json", str(out)]
    monkeypatch.setattr(sys, "argv", ["x", *small, "--batch-sizes", "1,2", "--n-head", "2", "--block-size", "16"])
    attention_script.main()
    record = read_json(out)
    assert [row["batch_size"] for row in record["rows"]] == [b for b in (1, 2) for _ in range(2 * len(VARIANTS))]
    assert record["layer"]["n_head"] == 2 and record["hardware"]["device"] == "cpu"

    monkeypatch.setattr(sys, "argv", ["x", *small, "--arms", "ra_v5,nanogpt", "--batch-size", "1"])
    assert training_script.main() == 0
    record = read_json(out)
    assert [row["arm"] for row in record["rows"]] == ["ra_v5", "nanogpt"]
    assert record["load"]["batch_size"] == 1 and "re-implemented" in record["labels"]["nanogpt"]


def test_an_unknown_arm_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["x", "--arms", "baseline,rav5"])
    with pytest.raises(UserError, match="there is no 'rav5'"):
        training_script.main()


def test_a_module_of_transformers_is_timed_only_where_it_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert "transformers" not in arms_here()
    monkeypatch.setattr(sys, "argv", ["x", "--arms", "transformers"])
    with pytest.raises(UserError, match="not installed"):
        training_script.main()


HEAD = Head(tokens=24, n_embd=8, vocab_size=40, dtype="float32")


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_every_way_to_a_loss_is_timed(dtype: str) -> None:
    rows = benchmark_loss(CPU, Head(tokens=24, n_embd=8, vocab_size=40, dtype=dtype), repeats=2)
    assert [row.way for row in rows] == list(ways_here())
    assert all(row.peak_mem_gib is None and row.wall.n == 2 for row in rows)
    assert rows[0].ratio == 1
    assert rows[2].ratio == rows[2].wall.median / rows[0].wall.median


def test_torchs_own_loss_is_there_where_torch_has_one() -> None:
    theirs = {"torch's", "torch's, by chunks"}
    assert theirs & ways_here().keys() == (theirs if hasattr(torch.nn.functional, "linear_cross_entropy") else set())


def test_a_loss_that_is_another_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loss, "linear_cross_entropy", lambda x, weight, y: 1.01 * loss._whole(x, weight, y))
    with pytest.raises(RuntimeError, match=r"by chunks: a gradient differs .* by 0\.01"):
        benchmark_loss(CPU, HEAD, repeats=2)


@pytest.mark.gpu
def test_on_a_gpu_chunks_take_less_memory_than_whole_logits() -> None:
    head = Head(tokens=32768, n_embd=64)
    memory = {row.way: row.peak_mem_gib for row in benchmark_loss(torch.device("cuda"), head, repeats=2)}
    assert 0 < (memory["by chunks"] or 0) < (memory["logits whole"] or 0)


def test_the_command_of_the_loss_writes_what_it_prints(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--tokens", "16", "--n-embd", "8", "--vocab-size", "40", "--repeats", "2", "--device", "cpu"]
    monkeypatch.setattr(sys, "argv", ["benchmark_loss", *options, "--json", str(tmp_path / "loss.json")])
    loss_script.main()
    written = read_json(tmp_path / "loss.json")
    assert written["head"] == {"tokens": 16, "n_embd": 8, "vocab_size": 40, "dtype": "float32"}
    printed = capsys.readouterr().out
    assert all(row["way"] in printed for row in written["rows"]) and "versions" in written


@pytest.mark.parametrize(
    ("option", "value"),
    [
        *(("--repeats", "1"), ("--repeats", "0"), ("--tokens", "0"), ("--tokens", "-5"), ("--n-embd", "0")),
        *(("--vocab-size", "1"), ("--vocab-size", "x"), ("--tokens", "9" * 30)),
    ],
)
def test_what_cannot_be_timed_is_refused(option: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["benchmark_loss", f"{option}={value}", "--device", "cpu"])
    with pytest.raises(UserError, match=rf"^{option} {value}: must be a whole number, [12] or more"):
        loss_script.main()
