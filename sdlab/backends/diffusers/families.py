"""The registry of families."""

from __future__ import annotations

from sdlab.backends.diffusers.family import Family
from sdlab.backends.diffusers.flux import Flux
from sdlab.backends.diffusers.pixart import PixArt
from sdlab.backends.diffusers.stable_diffusion import StableDiffusion
from sdlab.backends.diffusers.stable_diffusion_3 import StableDiffusion3
from sdlab.backends.diffusers.stable_diffusion_xl import StableDiffusionXL
from sdlab.backends.diffusers.unet2d import Unet2d

FAMILIES: tuple[Family, ...] = (
    StableDiffusion(),
    StableDiffusionXL(),
    StableDiffusion3(),
    Flux(),
    PixArt(),
    Unet2d(),
)
BY_PIPELINE = {name: family for family in FAMILIES for name in family.pipelines}
