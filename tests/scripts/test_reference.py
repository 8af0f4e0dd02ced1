"""Reference measurements: each is taken once, what failed is said and tried again, nothing half-written passes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from gpt2.base.errors import UserError
from scripts import reference


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr("sys.argv", ["reference", *arguments])
    return reference.main()


def test_a_measurement_is_taken_once_and_leaves_record_and_text(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    small = ["--device", "cpu", "--repeats", "2", "--batch-sizes", "1", "--n-head", "2", "--block-size", "16"]
    monkeypatch.setitem(reference.MEASUREMENTS, "attention", ["scripts.benchmark_attention", *small])
    assert run(monkeypatch, str(tmp_path / "out"), "--only", "attention") == 0
    record = tmp_path / "out" / "attention.json"
    assert json.loads(record.read_text())["hardware"]["device"] == "cpu"
    assert "RA v5 lerp" in (tmp_path / "out" / "attention.txt").read_text()
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"attention.json", "attention.txt"}
    before = record.stat().st_mtime_ns
    capsys.readouterr()
    assert run(monkeypatch, str(tmp_path / "out"), "--only", "attention") == 0
    assert record.stat().st_mtime_ns == before
    assert "is there" in capsys.readouterr().out


def test_what_fails_is_said_and_does_not_stop_the_rest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(reference.MEASUREMENTS, "parity", ["scripts.check_parity", "--dtypes", "float31"])
    monkeypatch.setitem(
        reference.MEASUREMENTS,
        "data",
        ["scripts.benchmark_data", "--device", "cpu", "--batch-size", "1", "--block-size", "16", "--repeats", "2"],
    )
    assert run(monkeypatch, str(tmp_path), "--only", "parity,data") == 1
    assert not (tmp_path / "parity.json").exists()
    assert "there is no 'float31'" in (tmp_path / "parity.txt").read_text()
    assert (tmp_path / "data.json").exists()
    assert capsys.readouterr().out.endswith("failed: parity\n")


def test_what_is_missing_is_an_error_before_anything_is_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UserError, match="--data: name a directory of token files"):
        run(monkeypatch, str(tmp_path / "out"))
    with pytest.raises(UserError, match="there is no 'speed'"):
        run(monkeypatch, str(tmp_path / "out"), "--only", "speed")
    assert not (tmp_path / "out").exists()
