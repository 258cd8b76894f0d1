"""The settings of a new recipe, chosen for the data and the device.

They are a start. The networks are those of the lab models on a CPU, and larger ones on a GPU.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sdlab.model.config import ClipTextConfig, ClipVisionConfig, ModelConfig, UnetConfig, VaeConfig
from sdlab.model.noise_schedule import LevelsConfig
from sdlab.train.new_recipe.survey import Survey

Table = dict[str, Any]

_SIDES = (32, 64, 128, 256)  # pixels
_FACTORS = {32: (1, 2), 64: (1, 2, 2), 128: (1, 2, 4, 4), 256: (1, 2, 4, 4)}  # multipliers of the VAE
_MOST_TOKENS = 77
_CACHED = 50_000  # pictures whose latents are kept in memory


@dataclass(frozen=True)
class Scale:
    """The sizes that a device can train."""

    side: int  # pixels, at most
    text: int  # width of CLIP's encoders
    layers: int  # of CLIP's encoders
    vae: int  # width
    unet: tuple[int, int, int]  # widths for few, more and many pictures
    rates: tuple[float, float, float]  # learning rates of CLIP, the VAE and the U-Net


CPU = Scale(side=64, text=128, layers=4, vae=16, unet=(48, 64, 96), rates=(1e-3, 2e-3, 1e-3))
GPU = Scale(side=256, text=512, layers=8, vae=64, unet=(128, 192, 256), rates=(3e-4, 3e-4, 2e-4))


def scale_of(device: str) -> Scale:
    """The scale for a resolved device."""
    return CPU if device == "cpu" else GPU


def network(name: str, found: Survey, scale: Scale) -> ModelConfig:
    """The networks: the largest picture size that neither most pictures nor the device are too small for."""
    size = max([side for side in _SIDES if side <= min(found.side, scale.side)], default=_SIDES[0])
    multipliers = _FACTORS[size]
    latent = size // 2 ** (len(multipliers) - 1)  # 16, or 32 for the largest pictures
    width = scale.unet[(found.train >= 2000) + (found.train >= 20_000)]
    return ModelConfig(
        name=name,
        image_size=size,
        text=ClipTextConfig(
            vocab_size=found.vocabulary,
            context_length=min(_MOST_TOKENS, max(16, -(-found.tokens // 8) * 8)),
            width=scale.text,
            layers=scale.layers,
            heads=scale.text // 32,
        ),
        vision=ClipVisionConfig(
            image_size=size,
            patch=size // 8,
            width=scale.text,
            layers=scale.layers,
            heads=scale.text // 32,
            projection=scale.text,
        ),
        vae=VaeConfig(
            latent_channels=4, width=scale.vae, multipliers=multipliers, residual_blocks=1, groups=8, scale=1.0
        ),
        unet=UnetConfig(
            latent_channels=4,
            width=width,
            multipliers=(1, 2) if latent == 16 else (1, 2, 3),
            residual_blocks=1,
            attention_rates=(1, 2) if latent == 16 else (2, 4),
            heads=width // 16,
            context_width=scale.text,
            groups=8,
        ),
        levels=LevelsConfig(),
        prediction="v",
    )


def stages(found: Survey, scale: Scale) -> dict[str, Table]:
    """The tables of the stages in order. More pictures need more steps."""
    clip, vae, unet = scale.rates
    many = _batch(found, 64)
    cache = {"cache": found.train} if found.train <= _CACHED else {}
    tables = {
        "clip": {"steps": _steps(found, 20, many, 400, 20_000), "batch": many, "lr": clip},
        "vae": {"steps": _steps(found, 60, _batch(found, 16), 1500, 40_000), "batch": _batch(found, 16), "lr": vae},
        "unet": {"steps": _steps(found, 200, _batch(found, 32), 2500, 200_000), "batch": _batch(found, 32), "lr": unet},
    }
    tables["vae"] |= {"kl": 3e-5, "ema": 0.995}
    tables["unet"] |= {"ema": 0.998, **cache}
    for table in tables.values():
        table["warmup"] = 100
    for name in ("vae", "unet"):
        tables[name]["preview_every"] = tables[name]["steps"] // 5
    return tables


def _batch(found: Survey, most: int) -> int:
    """The largest power of two that is at most `most` and the number of pictures."""
    return min(most, 2 ** (found.train.bit_length() - 1))


def _steps(found: Survey, epochs: int, batch: int, least: int, most: int) -> int:
    """The steps of some epochs, within bounds, as a round number."""
    return round(min(most, max(least, epochs * found.train // batch)), -2)
