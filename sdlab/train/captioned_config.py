"""The configuration keys of stages that train on any captioned pictures: a world's, or a user's."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal, Self

from pydantic import Field, model_validator

from sdlab.system.errors import UsageError
from sdlab.train.config import Training

if TYPE_CHECKING:
    from sdlab.train.data import CaptionedPictures
    from sdlab.train.sources.own_pictures import OwnPictures
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

    def captioned(self, split: Split) -> CaptionedPictures:
        """The pictures of a split of the world, or of `data`: its part for training, or else the part held out.

        Imports torch.

        Raises:
            UsageError: `data` cannot be used, or has too few pictures.
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
        side = configuration(Path(self.model)).image_size
        source = OwnPictures(train, (side, side), self.fit, self.mirror)
        if len(source) < self.batch:
            raise UsageError(
                f"{data}: {len(held)} pictures are held out and {len(train)} are left to train on, which is less than "
                f"`batch` = {self.batch}; add pictures or lower `batch`"
            )
        return source if split == "train" else OwnPictures(held, (side, side), self.fit)
