"""Small files are read whole or refused in one line. No kind of file makes the reader hang."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from sdlab.picture import read_picture
from sdlab.sweep.plan import load_plan
from sdlab.sweep.prompts import prompts_in
from sdlab.system import reading
from sdlab.system.errors import UsageError
from sdlab.system.reading import read_text, read_toml


@pytest.mark.parametrize("read", [read_text, read_toml, prompts_in, load_plan, lambda path: read_picture(path, (8, 8))])
def test_pipes_devices_and_folders_are_refused_at_once(read, tmp_path: Path):
    os.mkfifo(tmp_path / "pipe")
    for path, fault in (
        (tmp_path / "pipe", "is not a regular file"),
        (Path("/dev/zero"), "is not a regular file"),
        (Path("/dev/null"), "is not a regular file"),
        (tmp_path, "is a directory"),
    ):
        with pytest.raises(UsageError, match=f"^{path}: {fault}$"):
            read(path)


def test_a_text_has_no_byte_order_mark_and_one_kind_of_line_end(tmp_path: Path):
    (tmp_path / "a.txt").write_bytes("\ufeffa\r\nb\rc\n\ufeffd".encode())
    assert read_text(tmp_path / "a.txt") == "a\nb\nc\n\ufeffd"


@pytest.mark.parametrize(
    "content", ["café".encode("latin-1"), "a".encode("utf-16"), "a b".encode("utf-16-le"), b"\xed\xa0\x80"]
)
def test_other_encodings_are_refused(content: bytes, tmp_path: Path):
    (tmp_path / "a.txt").write_bytes(content)
    with pytest.raises(UsageError, match=r"a\.txt: is not UTF-8 text; save it as UTF-8$"):
        read_text(tmp_path / "a.txt")


def test_a_file_that_is_too_large_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(reading, "_LARGEST", 2**20)
    (tmp_path / "a.txt").write_bytes(bytes(2**20 + 1))
    with pytest.raises(UsageError, match=r"a\.txt: is larger than 1 MiB, the most that is read$"):
        read_text(tmp_path / "a.txt")


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        ("a = ", "is not TOML: Invalid value"),
        ("a = " + "[" * 100_000, "is not TOML: its lists or tables are nested too deeply"),
        (f"a = {'9' * 5000}", "is not TOML: Exceeds the limit"),
    ],
    ids=["syntax", "deep", "digits"],
)
def test_invalid_toml_is_one_line(content: str, fault: str, tmp_path: Path):
    (tmp_path / "a.toml").write_text(content)
    with pytest.raises(UsageError, match=fault) as caught:
        read_toml(tmp_path / "a.toml")
    assert len(caught.value.lines) == 1


def test_toml_may_have_a_byte_order_mark(tmp_path: Path):
    (tmp_path / "a.toml").write_bytes(b"\xef\xbb\xbfa = 3\r\n")
    assert read_toml(tmp_path / "a.toml") == {"a": 3}


def test_only_line_ends_separate_prompts(tmp_path: Path):
    lines = ["a red\u2028circle", "one\x0ctwo", "three\x85four\x0bfive\x1csix", "seven\u2029eight"]
    (tmp_path / "p.txt").write_bytes(("\ufeff" + "\r\n\r\n".join(lines) + "\n  \n").encode())
    assert prompts_in(tmp_path / "p.txt") == lines


def test_a_file_of_blank_lines_has_no_prompts(tmp_path: Path):
    (tmp_path / "p.txt").write_text("\n  \n")
    with pytest.raises(UsageError, match=r"p\.txt: contains no prompts; write one per line$"):
        prompts_in(tmp_path / "p.txt")
