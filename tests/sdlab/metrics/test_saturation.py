"""Saturation and contrast of pictures whose values are known, and against the colour spaces of Pillow and Python."""

from __future__ import annotations

import colorsys

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from sdlab.metrics.contrast import contrast
from sdlab.metrics.saturation import saturation


def plain(*colour: float) -> Tensor:
    """A picture of one colour in [0, 1]."""
    return (2 * torch.tensor(colour) - 1).reshape(1, 3, 1, 1).expand(1, 3, 8, 8)


@pytest.mark.parametrize(
    ("colour", "expected"), [((1, 0, 0), 1), ((0, 0, 0), 0), ((1, 1, 1), 0), ((0.8, 0.4, 0.6), 0.5), ((0, 0.01, 0), 1)]
)
def test_saturation_of_one_colour(colour: tuple[float, ...], expected: float):
    assert float(saturation(plain(*colour))) == pytest.approx(expected, abs=1e-6)
    assert float(contrast(plain(*colour))) == pytest.approx(0, abs=1e-6)


def test_saturation_is_that_of_hsv():
    pictures = torch.rand(2, 3, 5, 4, generator=torch.Generator().manual_seed(0))
    pixels = pictures.permute(0, 2, 3, 1).reshape(2, -1, 3).tolist()
    expected = [np.mean([colorsys.rgb_to_hsv(*pixel)[1] for pixel in picture]) for picture in pixels]
    assert saturation(2 * pictures - 1).tolist() == pytest.approx(expected, rel=1e-5)


def test_contrast_is_that_of_the_grey_picture():
    pictures = torch.randint(256, (2, 3, 16, 12), generator=torch.Generator().manual_seed(0)) / 255
    bytes_ = (255 * pictures).round().byte().permute(0, 2, 3, 1).numpy()
    expected = [np.asarray(Image.fromarray(one).convert("L"), dtype=float).std() / 255 for one in bytes_]
    assert contrast(2 * pictures - 1).tolist() == pytest.approx(expected, abs=1e-3)  # Pillow rounds to bytes


def test_half_black_and_half_white_has_the_largest_contrast():
    picture = torch.ones(1, 3, 4, 4)
    picture[..., :2] = -1
    assert float(contrast(picture)) == pytest.approx(0.5)
    assert float(contrast(3 * picture)) == pytest.approx(0.5)  # values beyond white are white
