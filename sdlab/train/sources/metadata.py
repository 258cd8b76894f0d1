"""Folders with a `metadata.jsonl` or `metadata.csv`: the imagefolder convention of Hugging Face datasets.

Each row has a `file_name`, relative to the folder of the file, and a `text`. A picture may have several rows. In a
`metadata.jsonl` the text may also be a list of captions.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from io import StringIO
from pathlib import Path, PurePosixPath
from typing import Any

from sdlab.metrics.pictures import pictures_in
from sdlab.system.errors import UsageError
from sdlab.system.paths import path_fault
from sdlab.system.reading import files_in, read_text
from sdlab.train.sources.entry import Entry, Skipped, checked, entry

JSONL, CSV = "metadata.jsonl", "metadata.csv"


def metadata_in(folder: Path) -> list[Path]:
    """The metadata files of a folder and its subfolders, hidden ones excepted, sorted.

    Raises:
        UsageError: a folder has one in each form, or cannot be read.
    """
    shown = sorted(path for path in files_in(folder) if path.name in (JSONL, CSV))
    for path in shown:
        if path.name == CSV and path.with_name(JSONL) in shown:
            raise UsageError(f"{path.parent} has {JSONL} and {CSV}; keep one")
    return shown


def entries(folder: Path) -> Iterator[Entry | Skipped]:
    """The pictures that the metadata files of a folder name, and those that they leave out.

    Raises:
        UsageError: a row is malformed, or names a file outside the folder.
    """
    captions: dict[Path, list[str]] = {}
    for path in metadata_in(folder):
        for where, row in _rows(path):
            picture = path.parent / _name(row, where)
            captions.setdefault(picture, []).extend(_captions(row, where))
    for picture, given in captions.items():
        yield entry(picture, given)
    yield from (Skipped(f"{path}: has no caption") for path in pictures_in(folder) if path not in captions)


def _rows(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """The rows of a metadata file, each with its place for messages."""
    text = read_text(path)
    if path.name == CSV:
        reader = csv.DictReader(StringIO(text), strict=True)
        try:
            yield from ((f"{path}:{reader.line_num}", row) for row in reader)
        except csv.Error as error:
            raise UsageError(f"{path}:{reader.line_num}: is not CSV: {error}") from None
        return
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            where = f"{path}:{number}"
            try:
                row = json.loads(line)
            except (ValueError, RecursionError):
                raise UsageError(f"{where}: is not JSON; write one object per line") from None
            if not isinstance(row, dict):
                raise UsageError(f"{where}: must be an object with `file_name` and `text`, got {line[:80]}")
            yield where, row


def _name(row: dict[str, Any], where: str) -> PurePosixPath:
    if "file_name" not in row:
        raise UsageError(f"{where}: `file_name` is missing; it names the picture")
    text = checked(row["file_name"], f"{where}: `file_name`").strip()
    name = PurePosixPath(text)
    if name.is_absolute() or ".." in name.parts:
        raise UsageError(f"{where}: `file_name` = {text!r} is outside the folder; give a path inside it")
    if not name.parts:
        raise UsageError(f"{where}: `file_name` is empty")
    if fault := path_fault(text):
        raise UsageError(f"{where}: `file_name`: {fault}")
    return name


def _captions(row: dict[str, Any], where: str) -> list[str]:
    if "text" not in row:
        raise UsageError(f"{where}: `text` is missing; it is the caption")
    text = row["text"]
    if text is None:  # a short row of a CSV file
        return []
    return [checked(one, f"{where}: `text`") for one in (text if isinstance(text, list) else [text])]
