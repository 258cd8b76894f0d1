"""Pictures of samples in the plane: the paths of a run, and the density at its end."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from math import exp, hypot

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from torch import Tensor

from samplers.exact.families import ClassMixture
from samplers.exact.problems import GaussianMixture

HEADINGS = ("paths", "samples")
SIDE = 256  # pixels of a picture
_PATHS = 12  # of each class
_COLOURS = ((31, 119, 180), (214, 39, 40), (44, 160, 44), (148, 103, 189), (255, 127, 14), (23, 190, 207))
_FINE = 2  # times as large when drawn, for smooth lines
_BLUR = 0.04  # of the density, in multiples of half the side
_LEVELS = (1.0, 2.0)  # contours, at these standard deviations from the middle of a component


def draw(paths: Tensor, sigmas: Sequence[float], classes: ClassMixture) -> NDArray[np.uint8]:
    """The paths and the samples of a run, as two pictures (2, H, W, 3). Image i is of class i mod C.

    Both show the plane in the coordinates x/√(1 + σ²), in which noise has a standard deviation of 1. Each class has its
    colour, and grey lines are contours of the data.

    Args:
        paths: the states after each step, (steps, N, 2).
        sigmas: the levels of the run, one more than steps.
        classes: the laws of the data.
    """
    labels = sorted(set(classes.labels))
    scaled = torch.stack([x / hypot(1, sigma) for x, sigma in zip(paths.double(), sigmas[1:], strict=True)])
    paper, reach = _paper(classes), _reach(classes)
    lines, ends = paper.copy(), paper
    pen = ImageDraw.Draw(lines)
    for k in range(len(labels)):
        colour, mine = _COLOURS[k % len(_COLOURS)], scaled[:, k :: len(labels)]
        for path in mine[:, :_PATHS].unbind(1):
            points = [tuple(point) for point in _pixels(path, reach).tolist()]
            pen.line(points, colour, _FINE)
            x, y = points[-1]
            pen.ellipse((x - 4, y - 4, x + 4, y + 4), colour)
        ends = _tinted(ends, _density(mine[-1], reach), colour)
    small = [sheet.resize((SIDE, SIDE), Image.Resampling.LANCZOS) for sheet in (lines, ends)]
    return np.stack([np.asarray(sheet) for sheet in small])


def _reach(classes: ClassMixture) -> float:
    """Half the side of the plane that is shown."""
    return 1.6 * float(classes.mixture.means.abs().max() + torch.as_tensor(classes.mixture.stds).max())


@lru_cache(maxsize=1)
def _paper(classes: ClassMixture) -> Image.Image:
    """White, with contours of the density of each class."""
    side, reach = SIDE * _FINE, _reach(classes)
    axis = (torch.arange(side).double() + 0.5) / side * 2 * reach - reach
    grid = torch.stack(torch.meshgrid(axis, -axis, indexing="xy"), -1).reshape(-1, 2)
    inked = torch.zeros(side, side, dtype=torch.bool)
    for label in sorted(set(classes.labels)):
        law = classes.given(label)
        density = _density_of(law, grid).reshape(side, side)
        for level in _LEVELS:
            above = density > density.max() * exp(-(level**2) / 2)
            inked[1:, 1:] |= (above[1:, 1:] != above[:-1, 1:]) | (above[1:, 1:] != above[1:, :-1])
    shade = np.where(inked.numpy()[..., None], 160, 255).astype(np.uint8)
    return Image.fromarray(np.repeat(shade, 3, axis=2))


def _density_of(law: GaussianMixture, x: Tensor) -> Tensor:
    """The density of a mixture in the plane at x (n, 2), up to a factor, (n,)."""
    variances = torch.as_tensor(law.stds).double().square().expand(len(law.means))
    weights = torch.ones(len(law.means)).double() if law.weights is None else law.weights.double()
    return (weights / variances * (-torch.cdist(x, law.means.double()).square() / (2 * variances)).exp()).sum(1)


def _pixels(points: Tensor, reach: float) -> Tensor:
    """Points of the plane (n, 2) in pixels, with y upwards."""
    return (points * torch.tensor([1, -1]) / reach + 1) * (SIDE * _FINE / 2)


def _density(points: Tensor, reach: float) -> NDArray[np.float64]:
    """The density of points (n, 2) with a Gaussian blur, from 0 to 1 at its highest, (H, W)."""
    side = SIDE * _FINE
    x, y = ((torch.arange(side) + 0.5)[:, None] - one for one in _pixels(points, reach).T)
    width = _BLUR * side / 2
    across, down = ((-(one / width).square() / 2).exp() for one in (x, y))
    density = down @ across.T
    return np.asarray(density / density.max().clamp(min=1e-30))


def _tinted(sheet: Image.Image, density: NDArray[np.float64], colour: tuple[int, int, int]) -> Image.Image:
    """The sheet with a colour whose opacity is the root of the density."""
    opacity = 0.9 * np.sqrt(density)[..., None]
    mixed = (1 - opacity) * np.asarray(sheet) + opacity * np.array(colour)
    return Image.fromarray(np.rint(mixed).astype(np.uint8))
