"""Any picture a user has, as the networks want it: (3, H, W) in [−1, 1] at the size asked for.

Turned as its camera says (EXIF), transparency laid over white, grey and palettes spread to RGB, 16 bits brought to 8,
of an animation the first frame. Then brought to the size by one of two rules, with Lanczos' filter; a picture that has
the size already keeps every pixel. Colour profiles are not applied.
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

from sdlab.system.errors import UsageError
from sdlab.system.files import reason

Fit = Literal["crop", "pad"]
FITS: tuple[str, ...] = get_args(Fit)
Size = tuple[int, int]  # width and height in pixels, as people say it

_WHITE = (255, 255, 255)


def read_picture(path: Path, size: Size, fit: Fit = "crop") -> Tensor:
    """The picture in the file as (3, H, W) float32 in [−1, 1].

    Both rules keep proportions: `crop` covers the size and cuts what stands out on two sides alike, `pad` lies wholly
    inside it, on white.

    Raises:
        UsageError: there is no such file, or it is no picture that Pillow reads.
    """
    with opened(path) as file:
        picture = _opaque(_eight_bits(ImageOps.exif_transpose(file)))
    picture = ImageOps.fit(picture, size, Image.Resampling.LANCZOS) if fit == "crop" else _pad(picture, size)
    return from_bytes(torch.from_numpy(np.array(picture)).unsqueeze(0))[0]


def from_bytes(pixels: Tensor) -> Tensor:
    """(B, H, W, 3) uint8 -> (B, 3, H, W) in [−1, 1]: the inverse of `to_bytes`."""
    return pixels.permute(0, 3, 1, 2).float() / 127.5 - 1


def to_bytes(images: Tensor) -> Tensor:
    """(B, 3, H, W) in [−1, 1] -> (B, H, W, 3) uint8, on the CPU: what PIL and PNG want."""
    return ((images.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).permute(0, 2, 3, 1).cpu()


@contextmanager
def opened(path: Path) -> Iterator[Image.Image]:
    """The picture in the file, for a block that does nothing but read it.

    Raises:
        UsageError: there is no such file, or it is no picture that Pillow reads; also from inside the block.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # large is fine, absurd is an error
            with Image.open(path) as file:
                yield file
    except UnidentifiedImageError:
        raise UsageError(f"{path}: is not a picture, or of a kind that cannot be read") from None
    except Image.DecompressionBombError:
        raise UsageError(f"{path}: has far more pixels than can be meant; scale it down first") from None
    except Exception as error:  # at a broken file Pillow's many readers raise anything
        if isinstance(error, OSError) and error.strerror:
            raise UsageError(f"{path}: {reason(error)}") from None
        raise UsageError(f"{path}: is a damaged picture, or of a kind that cannot be read ({error})") from None


def _eight_bits(picture: Image.Image) -> Image.Image:
    """Grey of 16 bits (of Pillow's 32, the lower half) or of floats in [0, 1] to 8 bits, others as they are."""
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


def _pad(picture: Image.Image, size: Size) -> Image.Image:
    scale = min(wanted / side for wanted, side in zip(size, picture.size, strict=True))
    inner = [max(1, round(side * scale)) for side in picture.size]
    ground = Image.new("RGB", size, _WHITE)
    place = (size[0] - inner[0]) // 2, (size[1] - inner[1]) // 2
    ground.paste(picture.resize((inner[0], inner[1]), Image.Resampling.LANCZOS), place)
    return ground
