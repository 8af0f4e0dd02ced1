"""Where two runs part: every number that counts, at its place, and nothing else."""

from __future__ import annotations

import copy
import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from gpt2.base.errors import UserError
from gpt2.run.checkpoint import save_checkpoint
from harness.evidence.parting import (
    ABSENT,
    TIMES,
    compare_all,
    compare_metrics,
    compare_rests,
    compare_runs,
    compare_values,
    compare_weights,
    new_keys,
)


def metrics_lines() -> list[dict[str, Any]]:
    """Of three steps, in the order in which the trainer writes them."""
    lines: list[dict[str, Any]] = [{"kind": "eval", "step": 0, "tokens": 0, "val_loss": 5.5, "time_s": 0.0}]
    for step in (1, 2, 3):
        speed = {"ms_per_step": 3.0 + step, "tokens_per_s": 1000.0, "mfu": 0.25, "time_s": 0.5 * step}
        lines.append({"kind": "train", "step": step, "tokens": 64 * step, "loss": 5.0 / step, "grad_norm": 1.5} | speed)
        gates = {"w_std": [[1.0, 0.9], [1.1, 1.0]], "w_rec": [[0.0, 0.1], [0.2, -0.1 * step]]}
        lines.append({"kind": "gates", "step": step, "gates": gates})
    return [*lines, {"kind": "eval", "step": 3, "tokens": 192, "val_loss": 4.5, "time_s": 1.5}]


def weights() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    matrix = torch.randn(4, 3, generator=generator)
    return {"c_attn.weight": matrix, "w_rec": torch.tensor([0.0, 0.5]), "scale": torch.tensor(2.0)}


def numbers(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Paths of the floats in something nested."""
    if isinstance(value, float):
        return [path]
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [found for key, item in items for found in numbers(item, (*path, key))]


@given(st.sampled_from(numbers(metrics_lines())), st.booleans())
def test_any_number_that_differs_in_its_last_bit_parts_at_its_line(path: tuple[Any, ...], up: bool) -> None:
    before, after = metrics_lines(), metrics_lines()
    *way, last = path
    holder: Any = after
    for key in way:
        holder = holder[key]
    holder[last] = math.nextafter(holder[last], math.inf if up else -math.inf)
    parting = compare_metrics(before, after)
    if path[1] in TIMES:
        assert parting is None
        return
    line = before[path[0]]
    name = str(path[1]) + "".join(f".{key}" if isinstance(key, str) else f"[{key}]" for key in path[2:])
    assert parting is not None
    assert parting.where == f"{line['kind']} at step {line['step']}, {name}"
    assert parting.a != parting.b == holder[last]


@given(st.data())
def test_of_several_differences_the_first_step_is_told(data: st.DataObject) -> None:
    before, after = ([line | {"tokens": 7} for line in metrics_lines()] for _ in range(2))
    changed = data.draw(st.sets(st.integers(0, len(after) - 1), min_size=1))
    for i in changed:
        after[i]["tokens"] = 8
    parting = compare_metrics(before, after)
    first = after[min(changed)]
    assert parting is not None
    assert parting.where.startswith(f"{first['kind']} at step {first['step']}, ")


@pytest.mark.parametrize("i", range(len(metrics_lines())))
def test_a_line_that_one_side_alone_has_parts(i: int) -> None:
    whole, part = metrics_lines(), metrics_lines()
    line = part.pop(i)
    where = f"{line['kind']} at step {line['step']}"
    for a, b, told in ((whole, part, ("a line", ABSENT)), (part, whole, (ABSENT, "a line"))):
        parting = compare_metrics(a, b)
        assert parting is not None
        assert (parting.where, (parting.a, parting.b)) == (where, told)


def test_a_key_that_goes_parts_and_one_that_comes_does_not() -> None:
    less = copy.deepcopy(metrics_lines())
    del less[1]["grad_norm"]
    assert str(compare_metrics(metrics_lines(), less)) == "train at step 1, grad_norm: 1.5 / absent"
    assert compare_metrics(less, metrics_lines()) is None


@pytest.mark.parametrize(
    ("a", "b"),
    [(0.0, -0.0), (1.0, None), (None, float("nan")), (1, "1"), (0.1, 0.1 + 2**-56), (True, "y"), (None, ABSENT)],
)
def test_values_that_look_alike_are_told_apart(a: object, b: object) -> None:
    assert compare_values({"x": a, "y": 1}, {"x": b, "y": 1}) is not None
    assert compare_values({"x": a}, {"x": copy.copy(a)}) is None


def test_an_identity_parts_at_a_setting_and_counts_the_others() -> None:
    before = {"SEED": 1, "EVAL_ITERS": 10, "config_hash": "a"}
    after = {"SEED": 1, "EVAL_TOKENS": 1000, "config_hash": "b"}
    assert str(compare_values(before, after)) == "EVAL_ITERS: 10 / absent (and 2 more)"


def test_weights_are_compared_bit_by_bit() -> None:
    nan = {"x": torch.tensor([float("nan")])}
    assert compare_weights(weights(), weights()) is None
    assert compare_weights(nan, copy.deepcopy(nan)) is None
    for name in weights():
        for i in range(weights()[name].numel()):
            other = weights()
            bits = other[name].view(torch.int32).reshape(-1)
            bits[i] ^= 1
            parting = compare_weights(weights(), other)
            assert parting is not None
            assert parting.where.startswith(f"{name}[")
            assert parting.a != parting.b


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"w_rec": torch.tensor([-0.0, 0.5])}, "w_rec[0]: 0.0 / -0.0"),
        ({"w_rec": torch.tensor([0.0])}, "w_rec: torch.float32 [2] / torch.float32 [1]"),
        ({"scale": torch.tensor(2.0, dtype=torch.bfloat16)}, "scale: torch.float32 [] / torch.bfloat16 []"),
        ({"new": torch.zeros(1)}, "new: absent / there"),
        ({"w_rec": torch.tensor([0.0, 0.25]), "scale": torch.tensor(3.0)}, "w_rec[1]: 0.5 / 0.25 (and 1 more)"),
    ],
)
def test_weights_part_in_words(change: dict[str, Tensor], told: str) -> None:
    assert str(compare_weights(weights(), weights() | change)) == told


def write_run(path: Path, lines: list[dict[str, Any]], tensors: dict[str, Tensor], resumed: list[int]) -> Path:
    path.mkdir(parents=True)
    (path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    provenance = {"identity": {"SEED": 1}, "config_hash": "a", "resumed": [{"step": step} for step in resumed]}
    (path / "provenance.json").write_text(json.dumps(provenance))
    save_checkpoint(path / "checkpoints", 2, {"model": {name: torch.zeros(()) for name in tensors}})
    save_checkpoint(path / "checkpoints", 3, {"model": tensors})
    return path


def test_directories_of_runs(tmp_path: Path) -> None:
    a = write_run(tmp_path / "a", metrics_lines(), weights(), [])
    event = {"kind": "event", "step": 1, "event": "start", "message": "on another machine"}
    b = write_run(tmp_path / "b", [event, *(line | {"new": 1} for line in metrics_lines())], weights(), [])
    same = compare_runs("x/seed-1", a, b)
    assert (same.partings, same.lines) == ({}, len(metrics_lines()))
    assert new_keys(a, b) == ["eval.new", "gates.new", "train.new"]
    assert new_keys(b, a) == []
    assert [*compare_runs("x/seed-1", b, a).partings] == ["metrics"]
    c = write_run(tmp_path / "c", metrics_lines(), weights() | {"scale": torch.tensor(1.0)}, [])
    assert [*compare_runs("x/seed-1", a, c).partings] == ["weights"]
    with pytest.raises(UserError, match="only one of both has the runs y/seed-1"):
        compare_all({"x/seed-1": a}, {"x/seed-1": a, "y/seed-1": b})


def test_of_a_resumed_run_what_came_after_counts(tmp_path: Path) -> None:
    lines = metrics_lines()
    lines[1]["loss"] = 9.0  # of step 1, by whoever began it
    whole = {"x/seed-1": write_run(tmp_path / "whole", metrics_lines(), weights(), [])}
    for at, parts in ((1, False), (0, True)):
        resumed = {"x/seed-1": write_run(tmp_path / f"from-{at}", lines, weights(), [at])}
        assert bool(compare_rests(resumed, whole)[0].partings) is parts
    with pytest.raises(UserError, match="begun anew"):
        compare_rests(whole, whole)
