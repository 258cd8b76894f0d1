"""All cells at a glance: a row a cell, the same prompts across."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from sdlab.system.files import replacing

_GAP, _MARGIN = 4, 12  # pixels
_SIDE, _LARGEST = 112, 256  # pixels of a picture on the sheet: small ones are enlarged, and large ones not lost
_TALLEST = 30_000  # pixels; some viewers refuse more
_INK, _FAINT, _PAPER = (25, 25, 25), (120, 120, 120), (255, 255, 255)


@dataclass(frozen=True)
class Strip:
    """A row of the sheet: the lines of its label, and its pictures (K, H, W, 3), or why it has none."""

    label: tuple[str, ...]
    pictures: NDArray[np.uint8] | None
    reason: str = ""


def contact_sheet(path: Path, prompts: Sequence[str], strips: Sequence[Strip]) -> None:
    """Draw the strips under each other, with the prompts above the columns.

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
    headings = [_wrapped(prompt, small, side) for prompt in prompts]
    head = max((len(lines) for lines in headings), default=0) * 14 + 2 * _MARGIN
    label = max((int(font.getlength(line)) for strip in strips for line in strip.label), default=0) + 2 * _MARGIN
    width = label + len(prompts) * (side + _GAP) + _MARGIN
    sheet = Image.new("RGB", (max(width, label + 300), head + len(strips) * (side + _GAP) + _MARGIN), _PAPER)
    pen = ImageDraw.Draw(sheet)
    for column, lines in enumerate(headings):
        for i, line in enumerate(lines):
            y = head - _GAP - 14 * (len(lines) - i)
            pen.text((label + column * (side + _GAP), y), line, _INK, small)
    for row, strip in enumerate(strips):
        y = head + row * (side + _GAP)
        top = y + max(0, (side - 18 * len(strip.label)) // 2)
        for i, line in enumerate(strip.label):
            pen.text((_MARGIN, top + 18 * i), line, _INK if i == 0 else _FAINT, font)
        if strip.pictures is None:
            pen.text((label, y + side // 2 - 8), strip.reason, (170, 30, 30), font)
            continue
        for column, picture in enumerate(strip.pictures):
            sheet.paste(_scaled(picture, side), (label + column * (side + _GAP), y))
    return sheet


def _scaled(picture: NDArray[np.uint8], side: int) -> Image.Image:
    """Fitted into a square, the middle of it where it is not one."""
    image = Image.fromarray(picture)
    ratio = side / max(image.size)
    image = image.resize(
        (max(1, round(image.width * ratio)), max(1, round(image.height * ratio))), Image.Resampling.LANCZOS
    )
    square = Image.new("RGB", (side, side), _PAPER)
    square.paste(image, ((side - image.width) // 2, (side - image.height) // 2))
    return square


def _font(size: int) -> ImageFont.FreeTypeFont:
    """DejaVu Sans, which comes with matplotlib: a prompt may be in any script it knows."""
    return ImageFont.truetype(str(Path(matplotlib.get_data_path(), "fonts", "ttf", "DejaVuSans.ttf")), size)


def _wrapped(text: str, font: ImageFont.FreeTypeFont, width: int, most: int = 6) -> list[str]:
    """The text in lines no wider than `width` pixels, at most `most` of them."""
    lines: list[str] = []
    for word in text.split():
        if lines and font.getlength(f"{lines[-1]} {word}") <= width:
            lines[-1] += f" {word}"
        else:
            lines.append(word)
    lines = [*lines[: most - 1], lines[most - 1] + " …"] if len(lines) > most else lines
    return [_cut(line, font, width) for line in lines]


def _cut(line: str, font: ImageFont.FreeTypeFont, width: int) -> str:
    if font.getlength(line) <= width:
        return line
    while line and font.getlength(line + "…") > width:
        line = line[:-1]
    return line + "…"
