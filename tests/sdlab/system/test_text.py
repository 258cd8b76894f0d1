"""Text from outside has no effect on a terminal, whatever characters it has."""

from __future__ import annotations

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sdlab.system.text import PLAINLY, encodable, shown


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("a\nb\r\tc", r"a\nb\r\tc"),
        ("\x1b]0;title\x07", r"\x1b]0;title\x07"),
        ("\x9b31m\x7f", r"\x9b31m\x7f"),
        ("abc\u202edef\u2066", r"abc\u202edef\u2066"),
        ("a\u2028b\u2029c\x85", r"a\u2028b\u2029c\x85"),
        ("\ufeffa\u200bb", r"\ufeffa\u200bb"),
        ("caf\udce9", r"caf\udce9"),
        ("é 漢 🎨 👩\u200d🎨 ± σ", "é 漢 🎨 👩\u200d🎨 ± σ"),
        (r"C:\new", r"C:\new"),
    ],
)
def test_characters_that_move_the_cursor_or_cannot_be_seen_are_escaped(text: str, wanted: str):
    assert shown(text) == wanted
    assert shown(shown(text)) == shown(text)


@given(st.text(st.characters(categories=["Cc", "Cs", "Zl", "Zp", "L", "S"])))
def test_shown_text_is_one_line_that_every_stream_can_encode(text: str):
    line = shown(text)
    assert all(c.isprintable() for c in line)
    for encoding in ("ascii", "latin-1", "cp1252", "utf-8"):
        stream = io.TextIOWrapper(io.BytesIO(), encoding, PLAINLY)
        stream.write(line)
        stream.flush()


def test_a_narrow_stream_gets_similar_letters():
    stream = io.TextIOWrapper(io.BytesIO(), "ascii", PLAINLY)
    stream.write("3.21±.20 ★ ≈ 64 × 64 · σ … Kyōto")
    stream.flush()
    assert stream.buffer.getvalue() == rb"3.21+-.20 * ~ 64 x 64 - sigma ... Ky\u014dto"  # type: ignore[attr-defined]


def test_undecoded_bytes_of_the_command_line_are_read_as_utf_8_or_refused():
    assert encodable("Kyōto".encode().decode("ascii", "surrogateescape")) == "Kyōto"
    assert encodable("café") == "café"
    for text in ("a caf\udce9", "\ud800"):
        with pytest.raises(ValueError, match=r"is not UTF-8 text; write it in UTF-8$"):
            encodable(text)
