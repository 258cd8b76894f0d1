"""Folders of pictures."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor

from sdlab.model.config import Size
from sdlab.picture import opened, orientation, read_picture
from sdlab.system.reading import files_in

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")
FORMATS = "PNG, JPEG, WebP, BMP or TIFF"


def pictures_in(folder: Path) -> list[Path]:
    """The pictures in a folder and its subfolders, selected by file suffix, sorted.

    Raises:
        UsageError: a subfolder cannot be read.
    """
    return sorted(path for path in files_in(folder) if path.suffix.lower() in SUFFIXES)


def read_pictures(paths: Sequence[Path], size: Size, batch: int = 32) -> Iterator[Tensor]:
    """The pictures in batches (B, 3, H, W) in [−1, 1], cropped to `size`, (height, width).

    Raises:
        UsageError: a picture cannot be read.
    """
    for start in range(0, len(paths), batch):
        yield torch.stack([read_picture(path, size) for path in paths[start : start + batch]])


def size_of(path: Path) -> Size:
    """The (height, width) of a picture, upright.

    Raises:
        UsageError: the picture cannot be read.
    """
    with opened(path) as picture:
        width, height = picture.size
        return (width, height) if orientation(picture) >= 5 else (height, width)  # from 5 on, it is on its side
