"""A loaded pipeline of diffusers as a model of sdlab, for what a scheduler cannot do.

    model = of_pipeline(pipe, size=(512, 768))
    cond, uncond = model.contexts(["a lighthouse at dusk"], "blurry")
    sigmas = samplers.grid("karras", steps=20, levels=model.levels)
    latents = model.sample(cond, uncond, samplers.make("dpm_adaptive"), sigmas, guidance.make("cfg", scale=7.0), [0])
    picture = model.decode(latents)  # (1, 3, H, W) in [−1, 1]

The loop is that of sdlab, so every sampler works, adaptive ones and those of CFG++ too, and so does every strategy that
needs nothing of the network but predictions.
"""

from __future__ import annotations

from typing import Any

from sdlab.backends.base import Mistakes
from sdlab.backends.diffusers.backend import DiffusersModel, open_components
from sdlab.model.config import Size
from sdlab.system.errors import UsageError


def of_pipeline(pipe: Any, size: Size | None = None, **options: Any) -> DiffusersModel:
    """The model with the components of a pipeline, which it shares.

    Args:
        pipe: an object of a supported family.
        size: of the pictures, (height, width) in pixels. By default that of the configuration.
        options: those of the family in a sweep file, like `guidance_input`.

    Raises:
        UsageError: the family is not supported, or the size or an option does not fit it.
    """
    try:
        return open_components(pipe, size, options)
    except Mistakes as error:
        raise UsageError(*(f"{key}: {text}" if key else text for key, text in error.mistakes)) from None
