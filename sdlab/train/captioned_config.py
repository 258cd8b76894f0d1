"""The configuration keys of stages that train on any captioned pictures: a world's, or a user's."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

from pydantic import Field, model_validator

from sdlab.system.errors import UsageError
from sdlab.system.limits import SIDE, TRAINING_STEPS
from sdlab.train.config import Training

if TYPE_CHECKING:
    from sdlab.model.config import ModelConfig
    from sdlab.train.data import CaptionedPictures
    from sdlab.train.sources.own_pictures import OwnPictures
    from sdlab.train.world_pictures import WorldPictures
    from sdlab.worlds.base import Split

_OF_DATA = ("fit", "mirror", "held_out")
HELD_OUT = 0.05  # share of the pictures, by default


class CaptionedTraining(Training):
    """A stage that trains on captioned pictures."""

    data: str | None = Field(
        None, description="captioned pictures in place of a world: a folder, or tar shards such as `a-{000..012}.tar`"
    )
    fit: Literal["crop", "pad", "stretch"] = Field(
        "crop", description="how pictures of `data` are brought to the model's size"
    )
    mirror: bool = Field(False, description="train on the mirror images of `data` as well")
    held_out: float = Field(HELD_OUT, gt=0, le=0.5, description="share of `data` that is kept for measurements")

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        given = self.model_fields_set
        if self.data is None:
            if stray := [key for key in _OF_DATA if key in given]:
                raise ValueError(f"`{stray[0]}` needs `data`; a world has its own pictures")
        elif stray := [key for key in ("world", "complete_captions") if key in given]:
            raise ValueError(f"`{stray[0]}` belongs to a world and `data` replaces it; remove one of the two")
        return self

    def check(self, model: ModelConfig) -> None:
        """Check that the stage can train a model of this configuration. Pictures of a world have one size.

        Raises:
            UsageError: the model has another size, or it lacks something.
        """
        self._check_size(model.image_size)

    def _check_size(self, side: int) -> None:
        from sdlab.worlds.registry import open_world

        if self.data is not None:
            return
        height, width = open_world(self.world).SIZE
        if (side, side) != (height, width):
            raise UsageError(
                f"`image_size` of {self.model} is {side}, but pictures of {self.world} are {height} × {width}; "
                "change it, or train on `data`"
            )

    def side(self, model: ModelConfig) -> int:
        """Pixels per side of the pictures of `data`."""
        return model.image_size

    def pictures(self, split: Split) -> WorldPictures[Any]:
        """Fresh pictures of the world. Imports torch.

        Raises:
            UsageError: they have another size than the model's.
        """
        from sdlab.train.folder import configuration

        self._check_size(configuration(Path(self.model)).image_size)
        return super().pictures(split)

    def captioned(self, split: Split) -> CaptionedPictures:
        """The pictures of a split of the world, or of `data`: its part for training, or else the part held out.

        Imports torch.

        Raises:
            UsageError: `data` cannot be used or has too few pictures, or those of the world have another size than the
                model's.
        """
        if self.data is None:
            return self.pictures(split)
        return self.own_pictures(self.data, split)

    def own_pictures(self, data: str, split: Split) -> OwnPictures:
        """The pictures of `data`, as for `captioned`.

        Raises:
            UsageError: `data` cannot be used, or has too few pictures.
        """
        from sdlab.train.folder import configuration
        from sdlab.train.sources import collection
        from sdlab.train.sources.own_pictures import OwnPictures

        train, held = collection.split(collection.read_collection(data), self.held_out)
        side = self.side(configuration(Path(self.model)))
        source = OwnPictures(train, (side, side), self.fit, self.mirror)
        if len(source) < self.batch:
            raise UsageError(
                f"{data}: {len(held)} pictures are held out and {len(train)} are left to train on, which is less than "
                f"`batch` = {self.batch}; add pictures or lower `batch`"
            )
        return source if split == "train" else OwnPictures(held, (side, side), self.fit)


class SizedTraining(CaptionedTraining):
    """A stage of a network without a fixed picture size: it can start with smaller pictures, and may be large."""

    image_size: int | None = Field(
        None,
        ge=SIDE.low,
        le=SIDE.high,
        description="pixels per side of the pictures of `data` in this stage; by default the model's. Train on smaller "
        "pictures first, which is faster, and continue with `start`",
    )
    preview_every: int | None = Field(
        None,
        ge=1,
        le=TRAINING_STEPS.high,
        description="steps between sheets of samples or reconstructions; none by default",
    )
    shard: bool = Field(
        False,
        description="share the network among the processes of torchrun (FSDP2), rather than copy it to each, if it is "
        "too large for one device",
    )

    @model_validator(mode="after")
    def _one_network_to_shard(self) -> Self:
        if self.shard and self.optimizer == "muon":
            raise ValueError('`shard` splits the matrices that Muon needs whole; use `optimizer = "adamw"`')
        return self

    def previews(self) -> int | None:
        """Steps between sheets of pictures, or None for none."""
        return self.preview_every

    def sharded(self) -> bool:
        """Whether the network is sharded over the processes."""
        return self.shard

    @model_validator(mode="after")
    def _size_of_data(self) -> Self:
        if self.image_size is not None and self.data is None:
            raise ValueError("`image_size` needs `data`; pictures of a world have one size")
        return self

    def multiple(self, model: ModelConfig) -> int:
        """The number of pixels of which the side must be a multiple."""
        return model.vae.factor

    def side(self, model: ModelConfig) -> int:
        """Pixels per side of the pictures of `data`.

        Raises:
            UsageError: `image_size` does not fit the network.
        """
        side, multiple = self.image_size or model.image_size, self.multiple(model)
        if side % multiple:
            raise UsageError(f"`image_size` must be a multiple of {multiple} for {self.model}, got {side}")
        return side

    def latent_shape(self, model: ModelConfig) -> tuple[int, int, int]:
        """Shape (C, H, W) of the latents of one picture."""
        side = self.side(model) // model.vae.factor
        return model.vae.latent_channels, side, side
