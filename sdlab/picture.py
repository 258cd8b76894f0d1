"""Pictures of any kind as the networks need them: (3, H, W) in [−1, 1], at a given size.

A picture is turned upright as its camera recorded (EXIF). Transparency is laid over white, grey and palettes become
RGB, 16 bits become 8, and an animation gives its first frame. The result is then fitted to the size with Lanczos'
filter. A picture that has this size already keeps every pixel. Colour profiles are not applied.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from sdlab.model.config import Size
from sdlab.system.errors import UsageError
from sdlab.system.files import reason

Fit = Literal["crop", "pad"]
FITS: tuple[str, ...] = get_args(Fit)

_WHITE = (255, 255, 255)


def read_picture(path: Path, size: Size, fit: Fit = "crop") -> Tensor:
    """The picture in a file as (3, H, W) float32 in [−1, 1].

    Args:
        path: any kind of file that Pillow reads.
        size: height and width in pixels.
        fit: both ways keep the proportions. "crop" covers the size and cuts equally on two sides; "pad" fits the whole
            picture inside, on white.

    Raises:
        UsageError: the file is missing, or is not a picture that Pillow can read.
    """
    with opened(path) as file:
        picture = _opaque(_eight_bits(ImageOps.exif_transpose(file)))
    width_height = size[1], size[0]
    if fit == "crop":
        picture = ImageOps.fit(picture, width_height, Image.Resampling.LANCZOS)
    else:
        picture = _pad(picture, width_height)
    return from_bytes(torch.from_numpy(np.array(picture)).unsqueeze(0))[0]


def from_bytes(pixels: Tensor) -> Tensor:
    """(B, H, W, 3) uint8 -> (B, 3, H, W) in [−1, 1]: the inverse of `to_bytes`."""
    return pixels.permute(0, 3, 1, 2).float() / 127.5 - 1


def to_bytes(images: Tensor) -> Tensor:
    """(B, 3, H, W) in [−1, 1] -> (B, H, W, 3) uint8 on the CPU, as PIL and PNG store pixels."""
    return _levels(images).to(torch.uint8).permute(0, 2, 3, 1).cpu()


def rounded(images: Tensor) -> Tensor:
    """(B, 3, H, W) in [−1, 1], each value rounded to the nearest that a byte can hold."""
    return _levels(images) / 127.5 - 1


def _levels(images: Tensor) -> Tensor:
    """[−1, 1] -> whole numbers from 0 to 255, as floats."""
    return ((images.clamp(-1, 1) + 1) * 127.5).round()


@contextmanager
def opened(path: Path) -> Iterator[Image.Image]:
    """The picture in a file, open for a block that only reads it.

    Raises:
        UsageError: the file is missing, or is not a picture that Pillow can read; also for errors inside the block.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # large is fine
            with Image.open(path) as file:
                yield file
    except UnidentifiedImageError:
        raise UsageError(f"{path}: is not a picture of a kind that can be read") from None
    except Image.DecompressionBombError:
        raise UsageError(f"{path}: has too many pixels; scale the picture down first") from None
    except Exception as error:  # Pillow's readers raise many kinds of errors for damaged files
        if isinstance(error, OSError) and error.strerror:
            raise UsageError(f"{path}: {reason(error)}") from None
        raise UsageError(f"{path}: is a damaged picture, or one of a kind that cannot be read ({error})") from None


def _eight_bits(picture: Image.Image) -> Image.Image:
    """Grey of 16 bits (the lower half of Pillow's 32) or of floats in [0, 1] as 8 bits; other pictures unchanged."""
    if picture.mode.startswith("I"):
        scaled = np.asarray(picture, dtype=np.float64) / 257
    elif picture.mode == "F":
        scaled = np.nan_to_num(np.asarray(picture, dtype=np.float64)) * 255
    else:
        return picture
    return Image.fromarray(scaled.round().clip(0, 255).astype(np.uint8))


def _opaque(picture: Image.Image) -> Image.Image:
    if picture.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in picture.info:
        ground = Image.new("RGBA", picture.size, _WHITE)
        return Image.alpha_composite(ground, picture.convert("RGBA")).convert("RGB")
    return picture.convert("RGB")


def _pad(picture: Image.Image, width_height: tuple[int, int]) -> Image.Image:
    scale = min(wanted / side for wanted, side in zip(width_height, picture.size, strict=True))
    inner = [max(1, round(side * scale)) for side in picture.size]
    ground = Image.new("RGB", width_height, _WHITE)
    place = (width_height[0] - inner[0]) // 2, (width_height[1] - inner[1]) // 2
    ground.paste(picture.resize((inner[0], inner[1]), Image.Resampling.LANCZOS), place)
    return ground
