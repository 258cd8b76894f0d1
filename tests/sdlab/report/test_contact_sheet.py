"""Pictures in a grid keep their order and their pixels."""

import numpy as np
import pytest
from PIL import Image

from sdlab.report.contact_sheet import Strip, draw_sheet, grid_of


def grey(level: int, size: tuple[int, int] = (5, 3)) -> Image.Image:
    return Image.new("RGB", size, (level, level, level))


def test_a_grid_is_about_square_and_read_like_a_page():
    found = np.asarray(grid_of([grey(level) for level in range(5)], gap=2))
    assert found.shape == (2 * 3 + 2, 3 * 5 + 2 * 2, 3)
    for i in range(5):
        top, left = i // 3 * 5, i % 3 * 7
        assert np.all(found[top : top + 3, left : left + 5] == i)
    assert np.all(found[5:, 14:] == 255)  # no sixth picture


def test_a_grid_has_as_many_columns_as_are_asked_for():
    assert grid_of([grey(0)] * 4, columns=4, gap=0).size == (20, 3)
    assert grid_of([grey(0)] * 4, columns=1, gap=0).size == (5, 12)


@pytest.mark.parametrize("pictures", [[], [grey(0), grey(0, (4, 3))]], ids=["none", "two sizes"])
def test_a_grid_is_of_pictures_of_one_size(pictures: list[Image.Image]):
    with pytest.raises(ValueError, match="must have one size"):
        grid_of(pictures)


def test_a_strip_without_pictures_shows_the_reason():
    pictures = np.full((2, 8, 8, 3), 77, np.uint8)
    shown, failed = Strip(("ddim", "10 steps"), pictures), Strip(("heun", "10 steps"), None, "NaN in the latents")
    sheet = np.asarray(draw_sheet(["a red circle", "a blue star"], [shown, failed]))
    assert np.sum(np.all(sheet == 77, axis=2)) >= 2 * 112 * 112
    assert np.any(np.all(sheet == (170, 30, 30), axis=2))
