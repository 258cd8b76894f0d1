"""Folders with a caption file beside each picture: `cat.png` and `cat.txt`, with one caption per line."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from sdlab.metrics.pictures import pictures_in
from sdlab.system.reading import read_text
from sdlab.train.sources.entry import Entry, Skipped, entry


def entries(folder: Path) -> Iterator[Entry | Skipped]:
    """The pictures of a folder and its subfolders.

    Raises:
        UsageError: a caption file is not UTF-8 text, or cannot be read.
    """
    for path in pictures_in(folder):
        text = path.with_suffix(".txt")
        yield entry(path, read_text(text).split("\n") if text.exists() else [])
