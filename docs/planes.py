"""Pictures of guidance strategies on the two-dimensional class mixture. `make docs` writes them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

import samplers
from sdlab import guidance
from sdlab.backends.exact_models import class_mixture
from sdlab.guidance.base import Level
from sdlab.guidance.needs import Offer, lacking, needed
from sdlab.sweep import plane

FOLDER = Path(__file__).resolve().parent / "guidance"
_IMAGES, _STEPS, _COLOURS = 1024, 30, 256
_STRONG = 3.0  # the scale of strategies whose default is for pictures
_OPTIONS: dict[str, dict[str, Any]] = {  # where the defaults are for pictures, or hardly show
    "apg": {"norm": 1.0},
    "beta_cfg": {"scale": 0.5},
    "dynamic_thresholding": {"limit": 1.25},
    "mambo_g": {"alpha": 1.0},
    "momentum": {"alpha": 1.5},
    "sg": {"factor": 1.3},
    "universal": {"scale": 3.0},
}
_WITHOUT = {
    "adaptive": "in two dimensions both predictions point the same way at the first call, so it never guides",
    "fdg": "it separates frequencies of pictures, and a point of the plane has none",
}


def options(name: str) -> dict[str, Any]:
    """The options of a strategy in its picture: a scale of 3 in place of a larger one, and what suits the plane."""
    strategy = guidance.make(name)
    scale = getattr(strategy, "scale", 0.0)
    return {**({"scale": _STRONG} if scale > _STRONG else {}), **_OPTIONS.get(name, {})}


def why_not(name: str) -> str | None:
    """Why a strategy cannot run on the class mixture, or None."""
    strategy = guidance.make(name, **getattr(guidance.GUIDANCE[name], "example", {}))
    queries = needed(strategy, [Level(10.0), Level(1.0), Level(0.1)])
    offer = Offer("class_mixture", labels=True, prompts=False)
    reasons = filter(None, (lacking(query, offer) for query in queries))
    return min((why.partition(";")[0] for why in reasons), default=_WITHOUT.get(name))


def draw(name: str) -> Image.Image:
    """The paths and the samples of a strategy, side by side."""
    model = class_mixture(std=0.25)
    assert model.contexts is not None
    assert model.classes is not None
    cond, uncond = model.contexts
    sigmas = samplers.grid("karras", steps=_STEPS, levels=model.levels)
    rows = torch.arange(_IMAGES) % len(cond)
    contexts = {"cond": cond[rows], "uncond": uncond}
    denoise = guidance.Guided(guidance.make(name, **options(name)), model.denoise, contexts, range(_IMAGES))
    x = samplers.seeded(range(_IMAGES))(torch.empty(_IMAGES, 2)) * sigmas[0]
    states: list[torch.Tensor] = []
    samplers.run(samplers.make("heun"), denoise, x, sigmas, on_step=lambda _, x: states.append(x))
    pictures = plane.draw(torch.stack(states), sigmas, model.classes)
    return Image.fromarray(np.concatenate(list(pictures), axis=1))


def write() -> None:
    """Write the picture of every strategy that can run."""
    FOLDER.mkdir(exist_ok=True)
    for name in guidance.GUIDANCE:
        if why_not(name) is None:
            draw(name).quantize(_COLOURS, Image.Quantize.FASTOCTREE).save(FOLDER / f"{name}.png", optimize=True)
