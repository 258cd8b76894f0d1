"""The pictures of a page, as data URLs of a limited total size."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from sdlab.report.stored_run import StoredRun

LIMIT = 16 * 2**20  # bytes of all pictures of a page
_SIDE = 256  # pixels per side, at most
_SMALL = 128  # pixels per side of pictures that are stored without loss
_QUALITY = 90  # of larger ones


@dataclass(frozen=True)
class Pictures:
    """The pictures of the first prompts. Image k of every cell has the same prompt and noise."""

    prompts: tuple[str, ...]  # K
    of_cells: tuple[tuple[str, ...], ...]  # K data URLs per cell; none for a cell without pictures
    inputs: tuple[str, ...]  # the input pictures of image-to-image
    left_out: str = ""  # what does not fit, for people


def page_pictures(run: StoredRun, limit: int = LIMIT) -> Pictures:
    """The pictures of as many of the first prompts as fit into `limit` bytes over all cells."""
    prompts: list[str] = []
    encoded: list[list[str]] = []
    sizes: list[int] = []  # bytes per prompt, over the cells so far
    kept = None
    inputs = run.inputs()
    for done, row in enumerate(run.rows, start=1):
        found = run.pictures(row)
        if found is not None and not prompts:
            prompts = found[0]
            sizes, kept = [0] * len(prompts), len(prompts)
        encoded.append([] if found is None else _encoded(found[1][:kept]))
        for k, one in enumerate(encoded[-1][: len(sizes)]):
            sizes[k] += len(one)
        while kept and sum(sizes[:kept]) * len(run.rows) > limit * done:  # at the last cell it is exact
            kept -= 1
    kept = kept or 0
    return Pictures(
        tuple(prompts[:kept]),
        tuple(tuple(some[:kept]) for some in encoded),
        () if inputs is None else tuple(_encoded(inputs[:kept])),
        _left_out(len(prompts), kept, limit),
    )


def _left_out(prompts: int, kept: int, limit: int) -> str:
    if kept == prompts:
        return ""
    which = f"The pictures of the first {kept} of {prompts} are shown" if kept else "No pictures are shown"
    return f"{which}: a page has at most {limit / 2**20:.3g} MiB of pictures. contact_sheet.png has all of them."


def _encoded(pictures: Sequence[NDArray[np.uint8]] | NDArray[np.uint8]) -> list[str]:
    return [data_url(picture, _SIDE, _QUALITY if max(picture.shape) > _SMALL else None) for picture in pictures]


def data_url(picture: NDArray[np.uint8], side: int, quality: int | None = None) -> str:
    """The picture (H, W, 3) as WebP, scaled down to at most `side` pixels. Without a `quality` nothing is lost."""
    image, file = Image.fromarray(picture), io.BytesIO()
    image.thumbnail((side, side), Image.Resampling.LANCZOS)
    image.save(file, format="WEBP", lossless=quality is None, quality=quality or _QUALITY, method=2)
    return f"data:image/webp;base64,{base64.b64encode(file.getvalue()).decode()}"
