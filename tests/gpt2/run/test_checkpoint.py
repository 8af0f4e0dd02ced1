"""Checkpoints: whole or not at all, verified, the newest two."""

from __future__ import annotations

import pickle
import subprocess
from pathlib import Path

import pytest
import torch

from gpt2.base.errors import UserError
from gpt2.run.checkpoint import load_newest, read_checkpoint, save_checkpoint


def save(folder: Path, step: int) -> Path:
    return save_checkpoint(folder, step, {"step": step, "model": {"w": torch.arange(1000) * step}})


def test_the_newest_two_are_kept_and_the_newest_is_read(tmp_path: Path) -> None:
    for step in (5, 10, 200):
        save(tmp_path, step)
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "step-00000010.pt",
        "step-00000010.pt.sha256",
        "step-00000200.pt",
        "step-00000200.pt.sha256",
    ]
    loaded = load_newest(tmp_path)
    assert loaded is not None
    assert loaded.state["step"] == 200
    assert torch.equal(loaded.state["model"]["w"], torch.arange(1000) * 200)
    assert loaded.damaged == ()


def test_checksums_are_those_of_sha256sum(tmp_path: Path) -> None:
    save(tmp_path, 1)
    subprocess.run(["sha256sum", "--check", "--strict", "step-00000001.pt.sha256"], cwd=tmp_path, check=True)


@pytest.mark.parametrize("damage", ["truncate", "flip", "no checksum"])
def test_a_damaged_checkpoint_is_passed_over_and_named(tmp_path: Path, damage: str) -> None:
    save(tmp_path, 1)
    newest = save(tmp_path, 2)
    content = bytearray(newest.read_bytes())
    if damage == "truncate":
        newest.write_bytes(content[: len(content) // 2])
    elif damage == "flip":
        content[len(content) // 2] ^= 1
        newest.write_bytes(content)
    else:
        newest.with_name(newest.name + ".sha256").unlink()
    loaded = load_newest(tmp_path)
    assert loaded is not None
    assert loaded.state["step"] == 1
    assert loaded.damaged == (newest,)


def test_nothing_is_started_over_where_every_checkpoint_is_damaged(tmp_path: Path) -> None:
    save(tmp_path, 1).write_bytes(b"")
    with pytest.raises(UserError, match="every checkpoint is damaged"):
        load_newest(tmp_path)


def test_no_checkpoints(tmp_path: Path) -> None:
    assert load_newest(tmp_path / "none") is None


class Evil:
    def __reduce__(self) -> tuple[object, ...]:
        return (print, ("this must never run",))


def test_a_pickle_that_is_not_plain_tensors_is_not_loaded(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "evil.pt"
    torch.save({"model": Evil()}, path)
    with pytest.raises(UserError, match=r"evil\.pt: holds something other than plain tensors"):
        read_checkpoint(path)
    assert capsys.readouterr().out == ""


def test_files_that_are_no_checkpoints(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("hello")
    (tmp_path / "pickle").write_bytes(pickle.dumps([1]))
    torch.save([1], tmp_path / "list")
    whole = save(tmp_path, 1)
    (tmp_path / "half").write_bytes(whole.read_bytes()[:500])
    for name in ("text", "pickle", "list", "half", "missing", "."):
        with pytest.raises(UserError) as caught:
            read_checkpoint(tmp_path / name)
        assert "\n" not in str(caught.value)
        assert str(tmp_path) in str(caught.value)
