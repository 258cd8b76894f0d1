"""External files of metrics: Inception's weights, real pictures, OpenAI's CLIP."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict
from pydantic_core import PydanticCustomError

from samplers.checks import unknown
from sdlab.system.paths import path_fault
from sdlab.worlds.registry import WORLDS


def _known_world(name: str) -> str:
    if name not in WORLDS:
        raise ValueError(unknown("world", name, WORLDS))
    return name


def _path(path: str) -> str:
    if fault := path_fault(path):
        raise PydanticCustomError("path", "{fault}", {"fault": fault})
    return path


_Path = Annotated[str, AfterValidator(_path)]


class MetricFiles(BaseModel):
    """The table `[metric_files]` of a sweep.

    `inception` is the weight file of the FID paper's network, and `dinov2` a folder with a DINOv2 in the layout of
    transformers, to be used in its place. `reference` is the set of real pictures for FID, KID and others: a folder, or
    for FID on one of these networks an .npz file with `mu` and `sigma`. `clip` is a folder with OpenAI's CLIP in the
    layout of transformers. Without a network FID and KID use the lab evaluator, without `reference` they compare with
    renders of the lab, and without `clip` metrics in CLIP's space use the model's CLIP.
    """

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, use_attribute_docstrings=True)
    inception: _Path | None = None
    """Weights of the Inception network of the FID paper, for FID, KID and others."""
    dinov2: _Path | None = None
    """A folder with a DINOv2 in the layout of transformers, for FID, KID and others in its space."""
    reference: _Path | None = None
    """Real pictures to compare with: a folder, or for FID on a network an `.npz` with `mu` and `sigma`."""
    clip: _Path | None = None
    """A folder with OpenAI's CLIP in the layout of transformers, for metrics in its space."""

    world: Annotated[str, AfterValidator(_known_world)] | None = None
    """The lab world whose evaluator judges the pictures, `"scenes"` or `"portraits"`. By default the one that most
    prompts are about."""

    @property
    def given(self) -> dict[str, str]:
        """The files that are set, by key."""
        return self.model_dump(exclude_none=True, exclude={"world"})
