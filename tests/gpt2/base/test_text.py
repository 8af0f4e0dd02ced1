"""Text from elsewhere, made fit to be shown."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpt2.base.text import quoted, showable, shown

OBEYED = [chr(i) for i in range(0x110000) if unicodedata.category(chr(i)) in ("Cc", "Cf", "Cs", "Zl", "Zp")]
"""Every character that a terminal or a reader of text obeys instead of showing it."""


def test_nothing_that_is_obeyed_is_left() -> None:
    assert {"\x1b", "\x9b", "\u202e", "\u200b", "\u2066", "\ufeff", "\r", "\n", "\u2028", "\udc80"} <= {*OBEYED}
    for c in OBEYED:
        assert showable(f"a{c}b") == f"a{repr(c)[1:-1]}b"
        assert showable(f"a{c}b", keep=c) == f"a{c}b"


@pytest.mark.parametrize("text", ["", "plain", "ra-v5@RA_V5_R=8", "Δ loss ± 0.1", "日本語 عربي 👍", "no\u00a0break"])
def test_what_has_a_picture_stays(text: str) -> None:
    assert showable(text) == text == shown(text)


@given(st.text(st.characters(), max_size=400), st.integers(3, 100))
def test_a_value_is_one_short_line(text: str, limit: int) -> None:
    line = shown(text, limit)
    assert len(line.splitlines()) <= 1
    assert len(line) <= 10 * limit + 40  # each character may need ten
    line.encode()
    if len(text) <= limit:
        assert line == showable(text)
    else:
        assert line.startswith(showable(text[: limit - limit // 3])) and line.endswith(showable(text[-(limit // 3) :]))


def test_a_long_value_keeps_its_ends() -> None:
    assert shown("a" * 50_000 + "z" * 50_000, 9) == "aaaaaa[... 99,991 characters ...]zzz"


def test_a_number_of_more_digits_than_python_writes_is_said_to_be_one() -> None:
    for show in (shown, quoted):
        assert show(10**5000) == "int with thousands of digits"
        assert show([-(10**5000)]) == "list with thousands of digits"
    assert (quoted("12"), quoted(12), shown("12")) == ("'12'", "12", "12")
