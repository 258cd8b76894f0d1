"""Tar shards in the form of webdataset: `0001.jpg` and `0001.txt` or `0001.json` are one example.

A `.txt` has one caption per line. A `.json` has captions under `text` or `caption`, one or a list. Pictures are read
from the shard on demand, so the shards must not be compressed. Nothing is unpacked.
"""

from __future__ import annotations

import json
import re
import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath

from sdlab.metrics.pictures import FORMATS, SUFFIXES
from sdlab.system.errors import UsageError
from sdlab.system.files import reason
from sdlab.system.paths import user_path
from sdlab.system.reading import check_regular
from sdlab.train.sources.entry import Entry, Skipped, checked, entry

_RANGE = re.compile(r"(.*)\{(\d{1,9})\.\.(\d{1,9})\}(.*)")
_LONGEST = 2**20  # bytes of a caption file


def shards_in(text: str) -> list[Path]:
    """The shards that a text names: a folder, a file, a pattern such as `a-*.tar`, or a range `a-{000..012}.tar`.

    Raises:
        UsageError: a shard does not exist, or the range is empty.
    """
    if found := _RANGE.fullmatch(text):
        head, first, last, tail = found.groups()
        numbers = range(int(first), int(last) + 1)
        if not numbers:
            raise UsageError(f"{text}: its range has no number; write the smaller one first")
        shards: Iterator[Path] = (user_path(f"{head}{number:0{len(first)}}{tail}") for number in numbers)
    else:
        path = user_path(text)
        pattern = re.sub(r"\*+", "*", path.name) if "*" in path.name else "*.tar"
        folder = path if path.is_dir() else path.parent
        shards = iter(sorted(folder.glob(pattern)) if path.is_dir() or "*" in path.name else [path])
    listed = []
    for shard in shards:
        check_regular(shard)  # before the next: a mistaken range may be endless
        listed.append(shard)
    return listed


def entries(shards: Sequence[Path]) -> Iterator[Entry | Skipped]:
    """The examples of some shards, in order.

    Raises:
        UsageError: a shard is not a tar file, is compressed or is cut off, or a caption is malformed.
    """
    for shard in shards:
        try:
            with tarfile.open(shard, "r:") as tar:
                yield from _entries(shard, tar)
                _check_end(shard, tar)
        except tarfile.TarError as error:
            raise UsageError(f"{shard}: is not a tar file, or is compressed or damaged ({error})") from None
        except OSError as error:
            raise UsageError(f"{shard}: {reason(error)}") from None


def _check_end(shard: Path, tar: tarfile.TarFile) -> None:
    """Check that a shard was read to its end mark, a block of zeros. `tarfile` also stops at a damaged header.

    Raises:
        UsageError: the mark is missing.
    """
    with shard.open("rb") as file:
        file.seek(tar.offset)
        if file.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
            raise UsageError(f"{shard}: is cut off or damaged at byte {tar.offset:,}; copy it again")


def _entries(shard: Path, tar: tarfile.TarFile) -> Iterator[Entry | Skipped]:
    pictures: dict[str, tarfile.TarInfo] = {}
    dotted: list[tuple[str, str]] = []  # such as a.seg.png, or a.b.png with a dot in the key
    captions: dict[str, dict[str, list[str]]] = {}
    for member in tar:
        name = PurePosixPath(member.name)
        if not member.isreg() or member.issparse() or any(part.startswith(".") for part in name.parts):
            continue
        stem, _, suffix = name.name.partition(".")
        key, suffix = str(name.with_name(stem or name.name)), f".{suffix.lower()}"
        if suffix in SUFFIXES:
            pictures[key] = member
        elif suffix.endswith(SUFFIXES):
            dotted.append((key, member.name))
        elif suffix in (".txt", ".json"):
            captions.setdefault(key, {})[suffix] = _captions(tar, member, suffix, f"{shard}: {member.name}")
    for key, found in dotted:
        if key not in pictures:
            yield Skipped(f"{shard / found}: its key ends at the first dot; write other dots as - or _")
    bare = captions.keys() - pictures.keys() - {key for key, _ in dotted}
    for key in sorted(key for key in bare if any(captions[key].values())):
        yield Skipped(f"{shard / key}: has a caption and no picture in a format that is read: {FORMATS}")
    for key, member in pictures.items():
        given = captions.get(key, {})
        span = member.offset_data, member.size
        yield entry(shard / member.name, given.get(".txt") or given.get(".json") or [], shard, span)


def _captions(tar: tarfile.TarFile, member: tarfile.TarInfo, suffix: str, where: str) -> list[str]:
    if member.size > _LONGEST:
        raise UsageError(f"{where}: has {member.size} bytes; a caption file may have {_LONGEST}")
    file = tar.extractfile(member)
    assert file is not None  # the member is a regular file
    try:
        text = file.read().decode("utf-8-sig")
        content = json.loads(text) if suffix == ".json" else text
    except (ValueError, RecursionError):
        kind = "JSON" if suffix == ".json" else "UTF-8 text"
        raise UsageError(f"{where}: is not {kind}; write the shard again with captions in UTF-8") from None
    if suffix == ".txt":
        return [checked(line, where) for line in text.splitlines()]
    if not isinstance(content, dict):
        raise UsageError(f"{where}: must be an object with `text` or `caption`")
    given = content.get("text", content.get("caption", []))
    return [checked(one, where) for one in (given if isinstance(given, list) else [given])]
