"""Pictures from files as tensors for the networks, (3, H, W) in [−1, 1], at a given size.

The EXIF orientation is applied. Transparency is composited over white, grey and palette pictures become RGB, 16 bits
become 8, and the first frame of an animation is used. The result is fitted to the size with a Lanczos filter. Pictures
that already have the size keep every pixel. Colour profiles are not applied.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from sdlab.model.config import Size
from sdlab.system.errors import UsageError
from sdlab.system.files import reason
from sdlab.system.reading import check_regular

Fit = Literal["crop", "pad", "stretch"]
FITS: tuple[str, ...] = get_args(Fit)

_WHITE = (255, 255, 255)
_ORIENTATION = 0x0112  # the EXIF tag
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_270, 7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}  # fmt: skip


def read_picture(path: Path, size: Size, fit: Fit = "crop", content: bytes | None = None) -> Tensor:
    """The picture in a file as (3, H, W) float32 in [−1, 1].

    Args:
        path: a file in any format that Pillow reads.
        size: height and width in pixels.
        fit: "crop" fills the size and cuts two sides equally. "pad" fits the whole picture inside, on white. Both keep
            the aspect ratio. "stretch" does not.
        content: the bytes of a picture inside an archive; `path` then only names it in messages.

    Raises:
        UsageError: the file is missing, or is not a picture that Pillow can read.
    """
    with opened(path, content) as file:
        picture = _opaque(_eight_bits(_upright(file)))
    width_height = size[1], size[0]
    if fit == "crop":
        picture = ImageOps.fit(picture, width_height, Image.Resampling.LANCZOS)
    elif fit == "pad":
        picture = _pad(picture, width_height)
    else:
        picture = picture.resize(width_height, Image.Resampling.LANCZOS)
    return from_bytes(torch.from_numpy(np.array(picture)).unsqueeze(0))[0]


def from_bytes(pixels: Tensor) -> Tensor:
    """(B, H, W, 3) uint8 -> (B, 3, H, W) in [−1, 1], the inverse of `to_bytes`."""
    return pixels.permute(0, 3, 1, 2).float() / 127.5 - 1


def to_bytes(images: Tensor) -> Tensor:
    """(B, 3, H, W) in [−1, 1] -> (B, H, W, 3) uint8 on the CPU, as PIL and PNG store pixels."""
    return _levels(images).to(torch.uint8).permute(0, 2, 3, 1).cpu()


def rounded(images: Tensor) -> Tensor:
    """(B, 3, H, W) in [−1, 1], with each value rounded to the nearest of 256 levels."""
    return _levels(images) / 127.5 - 1


def _levels(images: Tensor) -> Tensor:
    """[−1, 1] -> whole numbers from 0 to 255, as floats."""
    return ((images.clamp(-1, 1) + 1) * 127.5).round()


@contextmanager
def opened(path: Path, content: bytes | None = None) -> Iterator[Image.Image]:
    """Open a picture for reading inside the block, from its file or from the `content` of a member of an archive.

    Raises:
        UsageError: the file is missing, or is not a picture that Pillow can read. Also for errors inside the block.
    """
    if content is None:
        check_regular(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # large pictures are fine, and so are damaged metadata
            with Image.open(path if content is None else BytesIO(content)) as file:
                yield file
    except UnidentifiedImageError:
        raise UsageError(f"{path}: is not a picture in a supported format") from None
    except Image.DecompressionBombError:
        raise UsageError(f"{path}: has too many pixels; scale the picture down first") from None
    except Exception as error:  # Pillow raises many kinds of errors for damaged files
        if isinstance(error, OSError) and error.strerror:
            raise UsageError(f"{path}: {reason(error)}") from None
        raise UsageError(f"{path}: is a damaged picture or has an unsupported format ({error})") from None


def orientation(picture: Image.Image) -> int:
    """The EXIF orientation of a picture, 1 to 8. It is 1, upright, if the EXIF data are missing or malformed."""
    picture.load()  # reports damaged pixels; some formats store EXIF data after them
    try:
        value = picture.getexif().get(_ORIENTATION, 1)
        return value if value in _TURNS else 1
    except Exception:  # Pillow raises many kinds of errors for malformed EXIF data
        return 1


def _upright(picture: Image.Image) -> Image.Image:
    turn = _TURNS.get(orientation(picture))
    return picture if turn is None else picture.transpose(turn)


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
