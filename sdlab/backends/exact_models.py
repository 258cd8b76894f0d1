"""Models in closed form, the fastest to sweep.

They have the noise schedule of Stable Diffusion v1, so the same grids suit every model.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import pi

import torch
import torch.nn.functional as F
from torch import Tensor

import samplers
from samplers.checks import positive, whole, within
from samplers.exact.families import NO_CLASS, ClassMixture
from samplers.exact.families import data_set as points
from samplers.exact.problems import Gaussian, GaussianMixture
from sdlab.backends.custom_model import CustomModel
from sdlab.worlds.scenes import PIXELS, render, sample

_SEED = 40_000  # for the pictures of `data_set`, far from all other seeds


def gaussian(std: Sequence[float] = (0.2, 0.7, 1.9), mean: Sequence[float] = (0.5, -1.0, 0.0)) -> CustomModel:
    """Gaussian data with independent dimensions. Denoiser, flow and the law of the samples are known.

    Raises:
        ValueError: `std` and `mean` differ in length or are empty, or a `std` is not above 0.
    """
    if len(std) != len(mean) or not len(std):
        raise ValueError(f"std and mean should be lists of the same length, got {len(std)} and {len(mean)} values")
    for value in std:
        positive("each std", value)
    law = Gaussian(*(torch.tensor(list(values), dtype=torch.float64) for values in (std, mean)))
    return CustomModel(law.denoise, samplers.discrete_levels(), (len(std),), flow=law.flow, law=law)


def mixture(components: int = 8, std: float = 0.15) -> CustomModel:
    """A ring of round Gaussians in the plane, with radius 1. Denoiser and flow are known.

    Raises:
        ValueError: an option is out of range.
    """
    law = _ring(components, std)
    return CustomModel(
        law.denoise, samplers.discrete_levels(), (2,), flow=law.flow, classes=ClassMixture(law, [0] * components)
    )


def class_mixture(components: int = 8, classes: int = 4, std: float = 0.15) -> CustomModel:
    """A ring of round Gaussians in the plane, assigned to classes in turn. Conditional, so guidance can be swept.

    Raises:
        ValueError: an option is out of range, or `classes` does not divide `components`.
    """
    whole("classes", classes, 1)
    if components % classes:
        raise ValueError(f"classes should divide the {components} components, got {classes}")
    model = ClassMixture(_ring(components, std), [k % classes for k in range(components)])
    contexts = torch.arange(classes).reshape(-1, 1), torch.tensor([[NO_CLASS]])
    return CustomModel(model, samplers.discrete_levels(), (2,), contexts, classes=model)


def data_set(count: int = 64, side: int = 16) -> CustomModel:
    """A finite set of pictures of the scenes world. The denoiser is that of a network that has memorised them.

    Raises:
        ValueError: an option is out of range, or `side` does not divide the size of the pictures.
    """
    whole("count", count, 1)
    within("side", side, 1, PIXELS)
    if PIXELS % side:
        raise ValueError(f"side should divide {PIXELS}, got {side}")
    pictures = render(sample(count, torch.Generator().manual_seed(_SEED), "train"))
    law = points(F.avg_pool2d(pictures, PIXELS // side))
    return CustomModel(law.denoise, samplers.discrete_levels(), (3, side, side), decode=_clamped)


MODELS: dict[str, Callable[..., CustomModel]] = {
    "class_mixture": class_mixture, "data_set": data_set, "gaussian": gaussian, "mixture": mixture,
}  # fmt: skip


def _ring(components: int, std: float) -> GaussianMixture:
    whole("components", components, 1)
    positive("std", std)
    angle = 2 * pi * torch.arange(components, dtype=torch.float64) / components
    return GaussianMixture(torch.stack([angle.cos(), angle.sin()], dim=1), std)


def _clamped(pictures: Tensor) -> Tensor:
    return pictures.clamp(-1, 1)
