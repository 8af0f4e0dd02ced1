"""Reading an experiment's directory."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpt2.base.errors import UserError
from gpt2.run.records import read_metrics
from harness.configure.directories import run_directory
from harness.evidence.store import load_experiment
from harness.evidence.summary_table import write_summary_csv
from tests.harness.synthetic_runs import write_ablation, write_config, write_lengths, write_reruns, write_run


def write_lines(path: Path, *lines: object) -> Path:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def train(step: int, loss: float | None) -> dict[str, object]:
    return {"kind": "train", "step": step, "loss": loss}


def test_of_lines_that_a_resumed_run_repeats_the_later_counts(tmp_path: Path) -> None:
    resume = {"kind": "event", "step": 10, "event": "resume", "message": "from step 10"}
    path = write_lines(tmp_path / "m", train(10, 1.0), train(20, 2.0), resume, train(20, 3.0), train(30, 4.0))
    assert read_metrics(path) == [train(10, 1.0), resume, train(20, 3.0), train(30, 4.0)]


def test_kinds_of_one_step_do_not_replace_each_other_and_events_are_all_kept(tmp_path: Path) -> None:
    lines = [
        train(10, 1.0),
        {"kind": "eval", "step": 10, "val_loss": 2.0},
        {"kind": "event", "step": 10, "event": "checkpoint", "message": "a"},
        {"kind": "event", "step": 10, "event": "checkpoint", "message": "b"},
    ]
    assert read_metrics(write_lines(tmp_path / "m", *lines)) == lines


@given(cut=st.integers(0, 200))
def test_a_file_cut_anywhere_reads_as_its_whole_lines(tmp_path_factory: pytest.TempPathFactory, cut: int) -> None:
    path = write_lines(tmp_path_factory.mktemp("m") / "m", *(train(step, 0.5) for step in range(5)))
    content = path.read_bytes()
    path.write_bytes(content[:cut])
    whole = content[:cut].count(b"\n")
    complete_without_newline = cut < len(content) and content[cut : cut + 1] == b"\n"
    assert len(read_metrics(path)) == whole + complete_without_newline


@pytest.mark.parametrize("bad", ['{"kind": "tra', "[]", '{"step": 1}', "", "null"])
def test_a_malformed_line_elsewhere_is_named(tmp_path: Path, bad: str) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text(f"{json.dumps(train(1, 1.0))}\n{bad}\n{json.dumps(train(2, 1.0))}\n")
    with pytest.raises(UserError, match=r"metrics\.jsonl:2: "):
        read_metrics(path)


def test_series_leaves_out_what_is_not_finite(tmp_path: Path) -> None:
    write_run(tmp_path, "baseline", 1)
    write_lines(tmp_path / "baseline/seed-1/metrics.jsonl", train(1, 4.0), train(2, None), train(3, float("nan")))
    (run,) = load_experiment(tmp_path).runs
    assert run.series("train", "step", "loss") == ([1], [4.0])


def test_status_is_what_the_files_say(tmp_path: Path) -> None:
    write_run(tmp_path, "baseline", 1)
    write_run(tmp_path, "baseline", 2, status="failed", error="loss is nan at step 7")
    write_run(tmp_path, "baseline", 3, status=None)
    write_config(tmp_path / "baseline" / "seed-4", {"SEED": 4})
    assert [run.status for run in load_experiment(tmp_path).runs] == ["done", "failed", "unfinished", "pending"]


def test_arms_come_by_number_and_swept_values_as_numbers(tmp_path: Path) -> None:
    expected = ["baseline", "ra-v5-eager@RA_V5_R=8", "ra-v5-eager@RA_V5_R=12", "mla", "a-new-one"]
    for step in sorted(expected):
        for seed in (10, 9):
            write_run(tmp_path, step, seed)
    (tmp_path / "figures").mkdir()
    experiment = load_experiment(tmp_path)
    assert [arm.step for arm in experiment.arms] == expected
    assert [run.seed for run in experiment.arms[0].runs] == [9, 10]


def test_title_and_references_come_from_the_configuration(tmp_path: Path) -> None:
    write_run(tmp_path, "ra-v5-eager@RA_V5_R=8", 1, title="RA v5", reference="mla, baseline")
    write_run(tmp_path, "odd", 1)
    swept, odd = load_experiment(tmp_path).arms
    assert (swept.title, swept.base, swept.references) == ("RA v5 (RA_V5_R=8)", "ra-v5-eager", ["mla", "baseline"])
    assert odd.title == "odd"


def test_a_directory_without_runs_says_how_to_make_some(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "absent"):
        with pytest.raises(UserError, match="holds no runs; `make`"):
            load_experiment(path)


@pytest.mark.parametrize("content", ["{", "[1]"])
def test_a_damaged_summary_is_named(tmp_path: Path, content: str) -> None:
    (write_run(tmp_path, "baseline", 1) / "summary.json").write_text(content)
    with pytest.raises(UserError, match=r"baseline/seed-1/summary\.json: "):
        load_experiment(tmp_path)


def test_summary_csv(tmp_path: Path) -> None:
    write_ablation(tmp_path)
    write_run(tmp_path, "mla", 1, status=None)
    with write_summary_csv(load_experiment(tmp_path)).open(newline="") as file:
        reader = csv.DictReader(file)
        rows = list(reader)
    assert reader.fieldnames == [
        *("step", "seed", "status", "val_loss", "val_bpb", "train_loss", "iters", "tokens", "ms_per_step"),
        *("tokens_per_s", "mfu", "peak_mem_gib", "train_time_s", "params", "config_hash", "compile", "device_name"),
    ]
    assert len(rows) == 13
    assert (rows[0]["step"], rows[0]["seed"], float(rows[0]["val_loss"])) == ("baseline", "1", 3.4211)
    compiled = next(row for row in rows if row["step"] == "ra-v5-compiled")
    assert (compiled["compile"], compiled["device_name"]) == ("model", "NVIDIA H100 80GB HBM3")
    unfinished = rows[-1]
    assert (unfinished["step"], unfinished["status"], unfinished["val_loss"]) == ("mla", "unfinished", "")
    assert len(unfinished["config_hash"]) == 64


def test_run_directory() -> None:
    assert run_directory(Path("results"), "x", "baseline", 3) == Path("results/x/baseline/seed-3")


def test_lengths_and_reruns_are_no_arms(tmp_path: Path) -> None:
    losses = [3.5, 3.6]
    for seed, loss in enumerate(losses, start=1):
        for step in ("baseline", "baseline@STUDY_SIZE=45m", "ra-v5-eager", "ra-v5-eager@STUDY_SIZE=45m"):
            write_run(tmp_path, step, seed, val_loss=loss)
        for rate in ("400", "500"):  # a sweep: there is no such arm without it
            write_run(tmp_path, f"mla@MAX_ITERS={rate}", seed, val_loss=loss)
    write_lengths(tmp_path, losses)
    write_lengths(tmp_path, losses, step="baseline@STUDY_SIZE=45m")
    write_reruns(tmp_path, [losses, losses])
    experiment = load_experiment(tmp_path)
    arms = {arm.step: arm for arm in experiment.arms}
    assert {arm.step for arm in experiment.compared} == {
        *("baseline", "baseline@STUDY_SIZE=45m", "ra-v5-eager", "ra-v5-eager@STUDY_SIZE=45m"),
        *("mla@MAX_ITERS=400", "mla@MAX_ITERS=500"),
    }
    lengths = {step: [arm.step for arm in experiment.lengths_of(of)] for step, of in arms.items()}
    assert {step: found for step, found in lengths.items() if found} == {
        "baseline": ["baseline@MAX_ITERS=400", "baseline@MAX_ITERS=625"],
        "baseline@STUDY_SIZE=45m": ["baseline@STUDY_SIZE=45m@MAX_ITERS=400", "baseline@STUDY_SIZE=45m@MAX_ITERS=625"],
    }
    reruns = {step: [arm.step for arm in experiment.reruns_of(of)] for step, of in arms.items()}
    assert {step: found for step, found in reruns.items() if found} == {
        "baseline": ["baseline@RERUN=1", "baseline@RERUN=2"]
    }
