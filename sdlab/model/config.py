"""Model configuration: the sizes of the networks. `SD15` and `SCENES` are two configurations of the same classes.

A model folder contains its `ModelConfig` as `config.json`. `ModelConfig.from_json` rejects unknown keys.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Literal

from pydantic import ConfigDict, TypeAdapter, ValidationError

import samplers
from samplers.checks import did_you_mean
from sdlab.model.noise_schedule import KINDS, STRICT, EdmLevels, FlowLevels, LevelsConfig, NoiseSchedule
from sdlab.system.errors import UsageError

Size = tuple[int, int]  # height and width, everywhere in code

Prediction = Literal["eps", "v", "x0", "flow", "edm"]
_MOST_LAYERS, _MOST_LEVELS, _WIDEST, _LONGEST = 256, 8, 2**14, 2**20


def _positive(config: object, *fields: str, most: float = _WIDEST) -> None:
    """Check that fields, which are numbers or tuples of numbers, are above 0 and at most `most`."""
    for field in fields:
        value = getattr(config, field)
        numbers = value if isinstance(value, tuple) else (value,)
        if not numbers or not all(number > 0 for number in numbers):
            raise ValueError(f"{type(config).__name__}.{field} must be positive, got {value!r}")
        if len(numbers) > _MOST_LEVELS:
            raise ValueError(f"{type(config).__name__}.{field} must have at most {_MOST_LEVELS} values")
        if max(numbers) > most:
            raise ValueError(f"{type(config).__name__}.{field} must be at most {most:,}, got {max(numbers)!r}")


def _divides(config: object, field: str, *widths: int) -> None:
    divisor = getattr(config, field)
    for width in widths:
        if width % divisor:
            raise ValueError(f"{type(config).__name__}.{field} must divide the width {width}, got {divisor!r}")


@dataclass(frozen=True)
class ClipTextConfig:
    """The causal text transformer of CLIP (Radford et al. 2021, arXiv:2103.00020, sec. 2.4)."""

    __pydantic_config__: ClassVar[ConfigDict] = STRICT
    vocab_size: int = 49408
    context_length: int = 77  # tokens, including start and end
    width: int = 768
    layers: int = 12
    heads: int = 12

    def __post_init__(self) -> None:
        _positive(self, "vocab_size", "context_length", most=_LONGEST)
        if self.context_length < 3:
            raise ValueError(f"ClipTextConfig.context_length must be at least 3, got {self.context_length!r}")
        _positive(self, "layers", most=_MOST_LAYERS)
        _positive(self, "width", "heads")
        _divides(self, "heads", self.width)


@dataclass(frozen=True)
class ClipVisionConfig:
    """CLIP's vision transformer and its shared space with the text (Radford et al. 2021, arXiv:2103.00020)."""

    __pydantic_config__: ClassVar[ConfigDict] = STRICT
    image_size: int = 224
    patch: int = 14  # pixels per side
    width: int = 1024
    layers: int = 24
    heads: int = 16
    projection: int = 768  # width of the shared space of pictures and texts

    def __post_init__(self) -> None:
        _positive(self, "layers", most=_MOST_LAYERS)
        _positive(self, "image_size", "patch", "width", "heads", "projection")
        _divides(self, "heads", self.width)
        _divides(self, "patch", self.image_size)


@dataclass(frozen=True)
class VaeConfig:
    """The autoencoder of latent diffusion (Rombach et al. 2022, arXiv:2112.10752, sec. 3.1).

    The latents of the U-Net are `(z - shift) * scale`, with about unit variance (app. G).
    """

    __pydantic_config__: ClassVar[ConfigDict] = STRICT
    image_channels: int = 3
    latent_channels: int = 4
    width: int = 128
    multipliers: tuple[int, ...] = (1, 2, 4, 4)  # of `width`, per level; each level except the last halves the picture
    residual_blocks: int = 2  # per level in the encoder; the decoder has one more
    groups: int = 32
    scale: float = 0.18215
    shift: float = 0.0

    def __post_init__(self) -> None:
        _positive(self, "residual_blocks", most=_MOST_LAYERS)
        _positive(self, "image_channels", "latent_channels", "width", "multipliers", "groups", "widths")
        _positive(self, "scale", most=1e6)
        if not abs(self.shift) <= 1e6:
            raise ValueError(f"VaeConfig.shift must be from -1e6 to 1e6, got {self.shift!r}")
        _divides(self, "groups", *self.widths)

    @property
    def widths(self) -> tuple[int, ...]:
        """Channels at each level, finest first."""
        return tuple(self.width * m for m in self.multipliers)

    @property
    def factor(self) -> int:
        """Pixels per latent along each side."""
        return 2 ** (len(self.multipliers) - 1)


@dataclass(frozen=True)
class UnetConfig:
    """The U-Net of latent diffusion with cross-attention (Rombach et al. 2022, arXiv:2112.10752, sec. 3.3)."""

    __pydantic_config__: ClassVar[ConfigDict] = STRICT
    latent_channels: int = 4
    width: int = 320
    multipliers: tuple[int, ...] = (1, 2, 4, 4)  # of `width`, per level; each level except the last halves the latents
    residual_blocks: int = 2  # per level on the way down; one more on the way up
    attention_rates: tuple[int, ...] = (1, 2, 4)  # downsampling rates with a transformer; the middle always has one
    heads: int = 8
    context_width: int = 768
    groups: int = 32

    def __post_init__(self) -> None:
        _positive(self, "residual_blocks", most=_MOST_LAYERS)
        _positive(self, "latent_channels", "width", "multipliers", "heads", "context_width", "groups", "widths")
        _divides(self, "groups", *self.widths)
        attended = [w for i, w in enumerate(self.widths) if 2**i in self.attention_rates]
        _divides(self, "heads", *attended, self.widths[-1])

    @property
    def widths(self) -> tuple[int, ...]:
        """Channels at each level, finest first."""
        return tuple(self.width * m for m in self.multipliers)

    @property
    def transformers(self) -> tuple[str, ...]:
        """The names of the transformers in the order of the pass: d0, d1, … down, m0 in the middle, u0, u1, … up."""
        attended = sum(2**level in self.attention_rates for level in range(len(self.multipliers)))
        down, up = attended * self.residual_blocks, attended * (self.residual_blocks + 1)
        return (*(f"d{i}" for i in range(down)), "m0", *(f"u{i}" for i in range(up)))

    @property
    def layers(self) -> dict[str, tuple[str, ...]]:
        """The names for `layers` of a perturbation, each with the transformers that it stands for.

        Beside the transformers themselves they are "down", "middle", "up", "all" and "auto". If the U-Net halves the
        latents three times, as in v1.5, "auto" is the middle. The few tokens in the middle of a smaller U-Net hardly
        matter, and "auto" is then the first transformer at the finest level on the way up.
        """
        names = self.transformers
        parts = {part: tuple(n for n in names if n[0] == part[0]) for part in ("down", "middle", "up")}
        fine = parts["up"][-self.residual_blocks - 1 :][:1] if len(self.multipliers) < 4 else ()
        groups = {"auto": fine or parts["middle"], **parts, "all": names}
        return {**{name: (name,) for name in names}, **{group: found for group, found in groups.items() if found}}


@dataclass(frozen=True)
class ModelConfig:
    """A complete text-to-image model. `prediction` is what the U-Net returns (`parametrisation.PARAMETRISATIONS`)."""

    __pydantic_config__: ClassVar[ConfigDict] = STRICT
    name: str
    image_size: int  # pixels per side the model was trained at
    text: ClipTextConfig
    vision: ClipVisionConfig | None
    vae: VaeConfig
    unet: UnetConfig
    levels: NoiseSchedule
    prediction: Prediction

    def __post_init__(self) -> None:
        _positive(self, "image_size")
        for left, right in (
            ("unet.context_width", "text.width"),
            ("unet.latent_channels", "vae.latent_channels"),
            *([("vision.image_size", "image_size")] if self.vision else []),
        ):
            a, b = self._field(left), self._field(right)
            if a != b:
                raise ValueError(f"ModelConfig.{left} must equal {right} = {b!r}, got {a!r}")
        if self.levels.ends_in_noise and self.prediction == "eps":
            raise ValueError("ModelConfig.prediction cannot be 'eps' if levels end in pure noise; choose another")
        if self.prediction == "edm" and not isinstance(self.levels, EdmLevels):
            raise ValueError("ModelConfig.prediction 'edm' needs levels with kind 'edm'")
        if self.image_size % self.multiple:
            raise ValueError(f"ModelConfig.image_size must be a multiple of {self.multiple}, got {self.image_size!r}")

    def _field(self, path: str) -> Any:
        value: Any = self
        for name in path.split("."):
            value = getattr(value, name)
        return value

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """Shape (C, H, W) of the latents of one picture at the trained size."""
        side = self.image_size // self.vae.factor
        return self.vae.latent_channels, side, side

    @property
    def multiple(self) -> int:
        """Sides of pictures are multiples of this: pixels per position at the coarsest level of the U-Net."""
        return self.vae.factor * 2 ** (len(self.unet.multipliers) - 1)

    def noise_schedule(self) -> samplers.TimedLevels:
        """The noise schedule that the U-Net was trained on. Its time is the timestep that the U-Net receives."""
        return self.levels.schedule()

    def to_json(self) -> str:
        """The configuration as indented JSON."""
        return json.dumps(asdict(self), indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str | bytes, source: str = "config.json") -> ModelConfig:
        """The inverse of `to_json`.

        Raises:
            UsageError: the text is not JSON, a key is unknown or missing, or a value is invalid. The message names
                `source`.
        """
        try:
            return TypeAdapter(cls).validate_json(text)
        except ValidationError as error:
            raise UsageError(f"{source}: {_explain(cls, error)}") from None


def _explain(cls: type, error: ValidationError) -> str:
    """The first mistake, as in `unet.widht: unknown key (did you mean 'width'?)`."""
    fault = error.errors()[0]
    path = ".".join(str(part) for part in fault["loc"] if part not in KINDS)
    if fault["type"] == "unexpected_keyword_argument":
        siblings = {f for c in (cls, *_PARTS) for f in c.__dataclass_fields__}
        message = "unknown key" + did_you_mean(str(fault["loc"][-1]), siblings)
    elif fault["type"] == "union_tag_invalid":
        message = f"unknown kind {fault['ctx']['tag']!r}; known: {fault['ctx']['expected_tags']}"
    else:
        message = fault["msg"].removeprefix("Value error, ")
    return f"{path}: {message}" if path else message


_PARTS: tuple[Any, ...] = (
    ClipTextConfig, ClipVisionConfig, VaeConfig, UnetConfig, LevelsConfig, FlowLevels, EdmLevels
)  # fmt: skip

SD15 = ModelConfig(
    name="sd15",
    image_size=512,
    text=ClipTextConfig(),
    vision=None,  # the checkpoint has only the text transformer
    vae=VaeConfig(),
    unet=UnetConfig(),
    levels=LevelsConfig(),
    prediction="eps",
)

SCENES = ModelConfig(
    name="scenes",
    image_size=64,
    text=ClipTextConfig(vocab_size=1024, context_length=24, width=128, layers=4, heads=4),
    vision=ClipVisionConfig(image_size=64, patch=8, width=128, layers=4, heads=4, projection=128),
    # The scale is measured on the trained autoencoder and written to the model's config.json.
    vae=VaeConfig(latent_channels=4, width=32, multipliers=(1, 2, 4), residual_blocks=1, groups=8, scale=1.0),
    unet=UnetConfig(
        latent_channels=4,
        width=48,
        multipliers=(1, 2, 3),
        residual_blocks=1,
        attention_rates=(2, 4),
        heads=6,
        context_width=128,
        groups=8,
    ),
    levels=LevelsConfig(),
    prediction="v",
)
