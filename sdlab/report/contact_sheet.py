"""Contact sheets: pictures in a grid, and one labelled row of pictures per cell."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from math import ceil, sqrt
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from sdlab.system.files import replacing
from sdlab.system.text import shown

_GAP, _MARGIN = 4, 12  # pixels
_SIDE, _LARGEST = 112, 256  # pixels of a picture on the sheet: small pictures are enlarged, large ones reduced
_TALLEST = 30_000  # pixels; some viewers refuse more
_WIDEST = 1000  # pixels of a label
_INK, _FAINT, _PAPER, _RED = (25, 25, 25), (120, 120, 120), (255, 255, 255), (170, 30, 30)


def grid_of(pictures: Sequence[Image.Image], columns: int | None = None, gap: int = _GAP) -> Image.Image:
    """Pictures of one size in reading order on white, `gap` pixels apart. About square by default.

    Raises:
        ValueError: there are no pictures, or they differ in size.
    """
    if len(sizes := {picture.size for picture in pictures}) != 1:
        raise ValueError(f"pictures in a grid must have one size, got {len(sizes)}")
    columns = columns or ceil(sqrt(len(pictures)))
    width, height = (side + gap for side in pictures[0].size)
    grid = Image.new("RGB", (columns * width - gap, ceil(len(pictures) / columns) * height - gap), _PAPER)
    for i, picture in enumerate(pictures):
        grid.paste(picture, (i % columns * width, i // columns * height))
    return grid


@dataclass(frozen=True)
class Strip:
    """A row of the sheet: the lines of its label, and its pictures (K, H, W, 3) or the reason for having none."""

    label: tuple[str, ...]
    pictures: NDArray[np.uint8] | None
    reason: str = ""


def contact_sheet(path: Path, prompts: Sequence[str], strips: Sequence[Strip]) -> None:
    """Write the strips as a PNG, one below the other, with the prompts above the columns.

    Raises:
        RunError: the file cannot be written.
    """
    with replacing(path) as draft:
        draw_sheet(prompts, strips).save(draft, format="PNG")


def draw_sheet(prompts: Sequence[str], strips: Sequence[Strip]) -> Image.Image:
    """The picture that `contact_sheet` writes."""
    largest = max((max(strip.pictures.shape[1:3]) for strip in strips if strip.pictures is not None), default=_SIDE)
    wanted = min(max(largest, _SIDE), _LARGEST)
    side = max(32, min(wanted, _TALLEST // max(len(strips), 1) - _GAP))
    font, small = _font(13), _font(11)
    headings = [_wrapped(shown(prompt), small, side) for prompt in prompts]
    labels = [tuple(_cut(shown(line), font, _WIDEST) for line in strip.label) for strip in strips]
    strips = [replace(s, label=label, reason=shown(s.reason)) for s, label in zip(strips, labels, strict=True)]
    head = max((len(lines) for lines in headings), default=0) * 14 + 2 * _MARGIN
    left = max((int(font.getlength(line)) for strip in strips for line in strip.label), default=0) + 2 * _MARGIN
    width = left + len(prompts) * (side + _GAP) + _MARGIN
    sheet = Image.new("RGB", (max(width, left + 300), head + len(strips) * (side + _GAP) + _MARGIN), _PAPER)
    pen = ImageDraw.Draw(sheet)
    for column, lines in enumerate(headings):
        for i, line in enumerate(lines):
            pen.text((left + column * (side + _GAP), head - _GAP - 14 * (len(lines) - i)), line, _INK, small)
    for row, strip in enumerate(strips):
        top = head + row * (side + _GAP)
        middle = top + max(0, (side - 18 * len(strip.label)) // 2)
        for i, line in enumerate(strip.label):
            pen.text((_MARGIN, middle + 18 * i), line, _FAINT if i else _INK, font)
        if strip.pictures is None:
            pen.text((left, top + side // 2 - 8), strip.reason, _RED, font)
        else:
            sheet.paste(grid_of([_fitted(picture, side) for picture in strip.pictures], len(prompts)), (left, top))
    return sheet


def _fitted(picture: NDArray[np.uint8], side: int) -> Image.Image:
    """The picture scaled to fit a square, and centred in it."""
    image = Image.fromarray(picture)
    ratio = side / max(image.size)
    image = image.resize(
        (max(1, round(image.width * ratio)), max(1, round(image.height * ratio))), Image.Resampling.LANCZOS
    )
    square = Image.new("RGB", (side, side), _PAPER)
    square.paste(image, ((side - image.width) // 2, (side - image.height) // 2))
    return square


@cache
def _font(size: int) -> ImageFont.FreeTypeFont:
    """DejaVu Sans, which ships with matplotlib and covers many scripts."""
    import matplotlib  # here, since `grid_of` needs no font

    return ImageFont.truetype(str(Path(matplotlib.get_data_path(), "fonts", "ttf", "DejaVuSans.ttf")), size)


def _wrapped(text: str, font: ImageFont.FreeTypeFont, width: int, most: int = 6) -> list[str]:
    """The text in at most `most` lines, no wider than `width` pixels."""
    lines: list[str] = []
    for word in text[: most * width].split():
        if lines and font.getlength(f"{lines[-1]} {word}") <= width:
            lines[-1] += f" {word}"
        else:
            lines.append(word)
    lines = [*lines[: most - 1], lines[most - 1] + " …"] if len(lines) > most else lines
    return [_cut(line, font, width) for line in lines]


def _cut(line: str, font: ImageFont.FreeTypeFont, width: int) -> str:
    line = line[: width + 1]  # no letter is narrower than a pixel
    if font.getlength(line) <= width:
        return line
    while line and font.getlength(line + "…") > width:
        line = line[:-1]
    return line + "…"
