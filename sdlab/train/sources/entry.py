"""Entries of a data set: a picture that is decoded on demand, and its captions."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from sdlab.model.config import Size
from sdlab.picture import Fit, opened, read_picture
from sdlab.system.errors import UsageError
from sdlab.system.files import reason
from sdlab.system.text import encodable

_LARGEST = 2**28  # bytes of a picture in an archive


@dataclass(frozen=True)
class Entry:
    """A picture with at least one caption.

    `path` is the file of the picture, or its name inside `archive`, where it is the bytes of `span`, (offset, length).
    """

    path: Path
    captions: tuple[str, ...]
    archive: Path | None = None
    span: tuple[int, int] = (0, 0)

    def picture(self, size: Size, fit: Fit) -> Tensor:
        """The decoded picture, (3, H, W) in [−1, 1].

        Raises:
            UsageError: it is missing or damaged.
        """
        return read_picture(self.path, size, fit, self._content())

    def size(self) -> Size:
        """The height and width in the file, in pixels.

        Raises:
            UsageError: it is missing or damaged.
        """
        with opened(self.path, self._content()) as file:
            return file.height, file.width

    def _content(self) -> bytes | None:
        return None if self.archive is None else _part(self.archive, *self.span)


@dataclass(frozen=True)
class Skipped:
    """A picture that is left out, and why: `"a.png: has no caption"`."""

    reason: str


def entry(
    path: Path, captions: list[str], archive: Path | None = None, span: tuple[int, int] = (0, 0)
) -> Entry | Skipped:
    """The entry of a picture. Blank captions are dropped. A picture without any other is skipped."""
    kept = tuple(stripped for caption in captions if (stripped := caption.strip()))
    return Entry(path, kept, archive, span) if kept else Skipped(f"{path}: has no caption")


def checked(caption: object, where: str) -> str:
    """A caption from a data set. `where` names its place in the message.

    Raises:
        UsageError: it is not a text, or has characters that no file can store.
    """
    if not isinstance(caption, str):
        raise UsageError(f"{where} must be text, got {caption!r}")
    try:
        text = encodable(caption)
    except ValueError as error:
        raise UsageError(f"{where}: {error}") from None
    if "\0" in text:
        raise UsageError(f"{where} contains NUL; remove it")
    return text


def _part(archive: Path, offset: int, length: int) -> bytes:
    if length > _LARGEST:
        raise UsageError(f"{archive}: a picture has {length:,} bytes; it may have {_LARGEST:,}")
    try:
        with archive.open("rb") as file:
            file.seek(offset)
            return file.read(length)
    except OSError as error:
        raise UsageError(f"{archive}: {reason(error)}") from None
