"""The real pictures that FID and KID compare with, from the user's files: a folder of pictures, or their statistics."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from sdlab.metrics.distances import Statistics
from sdlab.picture import Size, read_picture
from sdlab.system.errors import UsageError

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")


def pictures_in(folder: Path) -> list[Path]:
    """The pictures in a folder and the folders in it, by their names' endings, sorted."""
    return sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES)


def batches(folder: Path, size: Size, batch: int = 32) -> Iterator[Tensor]:
    """The pictures of a folder, (B, 3, H, W) in [−1, 1], cropped to the size of those they are compared with.

    Raises:
        UsageError: a picture cannot be read.
    """
    paths = pictures_in(folder)
    for start in range(0, len(paths), batch):
        yield torch.stack([read_picture(path, size) for path in paths[start : start + batch]])


def read_statistics(path: Path, features: int) -> Statistics:
    """Mean and covariance from the `mu` (d,) and `sigma` (d, d) of an .npz, as the FID tools write them.

    Raises:
        UsageError: the file is not of this form.
    """
    try:
        with np.load(path, allow_pickle=False) as arrays:
            mean, covariance = (torch.from_numpy(np.asarray(arrays[k], dtype=np.float64)) for k in ("mu", "sigma"))
    except Exception as error:  # NumPy's readers raise whatever the file makes them stumble over
        raise UsageError(f"{path}: is no .npz with the arrays mu and sigma ({error})") from None
    if mean.shape != (features,) or covariance.shape != (features, features):
        shapes = f"{tuple(mean.shape)} and {tuple(covariance.shape)}"
        raise UsageError(f"{path}: mu and sigma should be of {features} features, got shapes {shapes}")
    return Statistics(mean, covariance)
