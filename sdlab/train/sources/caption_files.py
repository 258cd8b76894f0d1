"""Folders with a caption file beside each picture: `cat.png` and `cat.txt`, with one caption per line."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from sdlab.metrics.pictures import FORMATS, pictures_in
from sdlab.system.reading import files_in, read_text
from sdlab.train.sources.entry import Entry, Skipped, entry


def entries(folder: Path) -> Iterator[Entry | Skipped]:
    """The pictures of a folder and its subfolders, and the caption files that have none.

    Raises:
        UsageError: a caption file is not UTF-8 text, or cannot be read.
    """
    pictures = pictures_in(folder)
    for path in pictures:
        text = path.with_suffix(".txt")
        yield entry(path, read_text(text).split("\n") if text.exists() else [])
    stems = {path.with_suffix("") for path in pictures}
    for path in sorted(files_in(folder)):
        if path.suffix == ".txt" and path.with_suffix("") not in stems:
            yield Skipped(f"{path}: has no picture beside it in a format that is read: {FORMATS}")
