"""What a file is that is no file of uint16 tokens, as far as its bytes tell.

Any bytes of even number are uint16 tokens to a reader that does not look. Looking must never refuse real ones, whatever
their vocabulary: byte tokens (every second byte 0), GPT-2's, constant or counting streams, random ones. So a kind is
recognized by what such tokens do not have: a magic number of at least four bytes, or for short ones what has to follow
it; every second word 0 and the others various; bytes that do not know which of two they are. Of a large file, pieces
from all over are read.
"""

from __future__ import annotations

import io
import pickletools
import re
import zlib
from pathlib import Path

import numpy as np

_PIECES = 32
_PIECE_BYTES = 8192

_SHORT_TEXT = 32  # bytes below which text is told by its beginning alone

_ADVICE = {
    "astype": "np.fromfile({name!r}, {dtype!r}).astype('<u2').tofile(...) makes uint16 tokens of it",
    "npy": "np.load(...).astype('<u2').tofile(...) makes uint16 tokens of it",
    "unpack": "unpack it",
    "pull": "fetch the file itself, with `git lfs pull` or `git annex get`",
    "download": "what was downloaded is a page or a message: download the file again",
    "text": "text is to be tokenized first: DATASET_TEXT",
    "rows": "text in it is to be tokenized first: DATASET_TEXT",
    "other": "name the right file",
}

_MAGIC = (
    (0, b"\x93NUMPY", "a NumPy array (.npy)", "npy"),
    (0, b"PK\x03\x04", "a zip archive (.zip, .npz, .pt)", "unpack"),
    (0, b"\x28\xb5\x2f\xfd", "zstandard-compressed", "unpack"),
    (0, b"\xfd7zXZ\x00", "xz-compressed", "unpack"),
    (0, b"\x04\x22\x4d\x18", "lz4-compressed", "unpack"),
    (0, b"7z\xbc\xaf\x27\x1c", "a 7z archive", "unpack"),
    (4, b"1AY&SY", "bzip2-compressed", "unpack"),
    (257, b"ustar", "a tar archive", "unpack"),
    (0, b"PAR1", "a Parquet file", "rows"),
    (0, b"ARROW1", "an Arrow file", "rows"),
    (0, b"\x89HDF\r\n\x1a\n", "an HDF5 file", "rows"),
    (0, b"SQLite format 3\x00", "an SQLite database", "rows"),
    (0, b"version https://git-lfs", "a Git LFS pointer", "pull"),
    (0, b"/annex/objects/", "a git-annex pointer", "pull"),
    (0, b"404: Not Found", "an error message", "download"),
    (0, b"Entry not found", "an error message", "download"),
    (0, b"GGUF", "a GGUF model", "other"),
    (0, b"\x7fELF", "a program (ELF)", "other"),
    (0, b"%PDF", "a PDF", "other"),
    (0, b"\x89PNG\r\n", "a picture (PNG)", "other"),
    # llm.c's other files: model, tokenizer, HellaSwag.
    (0, (20240326).to_bytes(4, "little"), "a model of llm.c", "other"),
    (0, (20240328).to_bytes(4, "little"), "a tokenizer of llm.c", "other"),
    (0, (20240522).to_bytes(4, "little"), "a HellaSwag evaluation of llm.c", "other"),
)
_CONTROL = re.compile(r"[\x00-\x07\x0e-\x1a\x1c-\x1f\x7f]")
_MARKUP = (b"<!doctype", b"<html", b"<?xml", b"<error", b"<head", b"<script")


def foreign(path: Path, size: int) -> str | None:
    """What the file seems to be instead of uint16 tokens and what to do, in one line; None if nothing speaks against.

    Raises OSError where it cannot be read.
    """
    with open(path, "rb") as file:
        head = file.read(1024)
        file.seek(max(0, size - 8))
        tail = file.read()
        places = np.linspace(0, max(0, size - _PIECE_BYTES), _PIECES).astype(int) // 8 * 8
        pieces = []
        for at in dict.fromkeys(places.tolist()) if size > _PIECES * _PIECE_BYTES else [0]:
            file.seek(at)
            pieces.append(file.read(_PIECE_BYTES if size > _PIECES * _PIECE_BYTES else size))
    found = _by_beginning(head, tail, size)
    if found is None:
        even = [np.frombuffer(piece[: len(piece) // 8 * 8], dtype=np.uint8) for piece in pieces]
        found = _by_text(pieces) or _by_numbers(np.concatenate(even))
    if found is None:
        return None
    what, advice, *dtype = found
    return f"it seems to be {what}; " + _ADVICE[advice].format(name=path.name, dtype=dtype[0] if dtype else None)


def _by_beginning(head: bytes, tail: bytes, size: int) -> tuple[str, ...] | None:
    """What a magic number says, and what is to be done."""
    for at, magic, what, advice in _MAGIC:
        if head[at : at + len(magic)] == magic:
            return what, advice
    if head.lstrip(b"\xef\xbb\xbf \t\r\n").lower().startswith(_MARKUP):
        return "a page of HTML or XML", "download"
    if head[:3] == b"\x1f\x8b\x08" and _inflates(head):
        return "gzip-compressed", "unpack"
    if head[:1] == b"\x80" and tail[-1:] == b"." and _is_pickle(head):
        return "a Python pickle", "other"
    if head[8:10] == b'{"' and 2 <= int.from_bytes(head[:8], "little") <= size - 8:
        return "a safetensors file", "other"
    return None


def _inflates(head: bytes) -> bool:
    try:
        return bool(zlib.decompressobj(31).decompress(head))
    except zlib.error:
        return False


def _is_pickle(head: bytes) -> bool:
    """Whether the beginning of a file is that of a pickle: opcodes, which are looked at and never run."""
    found = 0
    try:
        for opcode, _, at in pickletools.genops(io.BytesIO(head)):
            if at and opcode.name == "PROTO":
                return False
            found += 1
    except Exception:  # the head ends within an opcode, or there is none of that code
        return found >= 12
    return found >= 3


def _by_text(pieces: list[bytes]) -> tuple[str, ...] | None:
    """Whether it is text: UTF-8 without control characters, the same at even places as at odd ones."""
    if sum(map(len, pieces)) < _SHORT_TEXT:
        return None
    if _is_utf16(pieces[0][: len(pieces[0]) // 2 * 2]):
        return "text in UTF-16", "text"
    if not all(_is_printable(piece, "utf-8") for piece in pieces):
        return None
    places = np.frombuffer(b"".join(piece[: len(piece) // 2 * 2] for piece in pieces), dtype=np.uint8).reshape(-1, 2)
    various = min(len(np.unique(places[:, 0])), len(np.unique(places[:, 1]))) >= 6
    return ("text", "text") if various and _distance(places) <= 0.8 else None


def _is_utf16(piece: bytes) -> bool:
    """Whether bytes begin with UTF-16's mark and go on with various characters of few alphabets."""
    if piece[:2] not in (b"\xff\xfe", b"\xfe\xff") or not _is_printable(piece, "utf-16"):
        return False
    text = piece.decode("utf-16", errors="ignore")
    return "\ufeff" not in text and len(set(text)) >= 8 and len({ord(char) >> 8 for char in text}) <= 8


def _is_printable(piece: bytes, encoding: str) -> bool:
    """Whether bytes are text; a character that is cut off at either end is no harm."""
    start = next((i for i, byte in enumerate(piece[:4]) if byte & 0xC0 != 0x80), 0) if encoding == "utf-8" else 0
    for end in range(4):
        try:
            text = piece[start : len(piece) - end].decode(encoding)
        except UnicodeDecodeError:
            continue
        return not _CONTROL.search(text)
    return False


def _by_numbers(raw: np.ndarray) -> tuple[str, ...] | None:
    """Which other type of number the bytes, uint8 [8 n], are tokens in."""
    words = raw.view("<u2")
    if len(words) < 32:
        return None
    quads, pairs = words.reshape(-1, 4), words.reshape(-1, 2)
    for dtype, zeros in (("<f4", pairs[:, 0]), ("<f8", quads[:, :2])):
        numbers = words.view(dtype)
        with np.errstate(invalid="ignore"):
            whole = (numbers == np.floor(numbers)) & (numbers >= 0) & (numbers < 2**17)
        # Of large ones, any few words could be that by chance.
        if whole.all() and _are_various(numbers, 16 if zeros.any() else 4):
            return f"{np.dtype(dtype).name} tokens", "astype", dtype
    halves = words.view("<f2")
    with np.errstate(invalid="ignore"):
        # Above 1024 every one is whole.
        if ((halves == np.floor(halves)) & (halves >= 0) & (halves < 1024)).all() and _are_various(halves, 16):
            return "float16 tokens", "astype", "<f2"
    for name, dtype, column, zeros in (
        ("int64 tokens", "<i8", quads[:, 0], quads[:, 1:]),
        ("big-endian int64 tokens", ">i8", quads[:, 3], quads[:, :3]),
        ("uint32 tokens", "<u4", pairs[:, 0], pairs[:, 1]),
        ("big-endian uint32 tokens", ">u4", pairs[:, 1], pairs[:, 0]),
    ):
        if not zeros.any() and _are_various(column, 4):
            return name, "astype", dtype
    # Counting in steps of 256 is none of these.
    if not raw[0::2].any() and _are_various(raw[1::2], 8) and len(np.unique(np.diff(raw[1::2]))) >= 8:
        return "big-endian uint16 tokens", "astype", ">u2"
    # Of a vocabulary beyond 65536: the high words are few and small, and the low ones are not.
    low, high = pairs[:, 0], pairs[:, 1]
    if high.max() < 16 and np.median(low) >= 16 and len(np.unique(low)) >= 32:
        return "uint32 tokens, of more than 65536", "other"
    return ("uint8 tokens", "astype", "u1") if _are_single_bytes(raw) else None


def _are_single_bytes(raw: np.ndarray) -> bool:
    """Whether bytes, uint8 [2 n], of an alphabet of some size do not know which of a word's two they are.

    First and second ones are the same in distribution, among all words and among the different ones, and follow each
    other within a word as from one to the next. A vocabulary of two bytes would have to be all pairs of its bytes.
    """
    if (np.diff(raw) == 1).all():  # np.arange
        return True
    words = raw.view("<u2")
    different = np.unique(words)
    if len(words) < 1024 or len(different) < 64 or len(np.unique(raw)) > 200:
        return False
    across = np.unique(raw[1:-1].view("<u2"))
    return (
        _distance(raw.reshape(-1, 2)) < 0.15
        and _distance(different.view(np.uint8).reshape(-1, 2)) < 0.3
        and len(different) > len(across) / 1.5
    )


def _are_various(column: np.ndarray, least: int) -> bool:
    """Whether numbers are at least so many different ones, and mostly not 0."""
    return len(np.unique(column)) >= least and int(np.count_nonzero(column)) > len(column) / 2


def _distance(places: np.ndarray) -> float:
    """How far the distribution of first bytes is from that of second ones, of uint8 [n, 2]: 0 the same, 1 disjoint."""
    first, second = (np.bincount(places[:, i], minlength=256) / len(places) for i in (0, 1))
    return float(np.abs(first - second).sum() / 2)
