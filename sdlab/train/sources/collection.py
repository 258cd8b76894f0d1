"""The entries of a data set in any form, checked by decoding each picture once."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from hashlib import sha256

from rich.console import Console
from rich.progress import track

from sdlab.metrics.pictures import FORMATS, pictures_in
from sdlab.system.errors import UsageError
from sdlab.system.output import remark
from sdlab.system.paths import user_path
from sdlab.train import processes
from sdlab.train.sources import caption_files, metadata, shards
from sdlab.train.sources.entry import Entry, Skipped

_NAMED = 5  # skipped pictures in a report


@lru_cache(maxsize=4)
def read_collection(data: str) -> tuple[Entry, ...]:
    """The usable pictures of a folder or of tar shards. The others are skipped and reported on standard error.

    All pictures are decoded once, so that a damaged one is found before training. The result is kept for the stages
    that follow in the same process.

    Raises:
        UsageError: the data set does not exist, is in no known form or has no usable picture, or a caption is
            malformed.
    """
    console, first = Console(stderr=True), processes.rank() == 0
    shown = console.is_terminal and first
    listed = track(list(_listed(data)), "reading pictures", console=console, transient=True, disable=not shown)
    found = [_decoded(one) if isinstance(one, Entry) else one for one in listed]
    kept = tuple(one for one in found if isinstance(one, Entry))
    skipped = [one for one in found if isinstance(one, Skipped)]
    if skipped and first:
        for one in skipped[:_NAMED]:
            remark(f"skipped {one.reason}")
        remark(f"{data}: skipped {len(skipped)} of {len(found)} pictures")
    if not kept:
        raise UsageError(f"{data}: has no picture with a caption")
    return kept


def split(entries: tuple[Entry, ...], held_out: float) -> tuple[tuple[Entry, ...], tuple[Entry, ...]]:
    """The pictures for training and those held out for measurements: the share `held_out`, at least one.

    The choice depends on the names of the pictures alone.
    """
    hashed = sorted(range(len(entries)), key=lambda i: sha256(entries[i].path.name.encode(errors="replace")).digest())
    held = set(hashed[: max(1, round(held_out * len(entries)))])
    return (
        tuple(one for i, one in enumerate(entries) if i not in held),
        tuple(one for i, one in enumerate(entries) if i in held),
    )


def _listed(data: str) -> Iterator[Entry | Skipped]:
    path = user_path(data)
    if path.is_dir():
        if metadata.metadata_in(path):
            return metadata.entries(path)
        if pictures_in(path):
            return caption_files.entries(path)
    if tars := shards.shards_in(data):
        return shards.entries(tars)
    raise UsageError(f"{data}: has no pictures; give a folder of pictures ({FORMATS}) with captions, or tar shards")


def _decoded(one: Entry) -> Entry | Skipped:
    try:
        one.picture((8, 8), "stretch")
    except UsageError as error:
        return Skipped(str(error))
    return one
