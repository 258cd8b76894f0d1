"""Files that some metrics need and sdlab does not contain: Inception's weights, real pictures, OpenAI's CLIP."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class MetricFiles(BaseModel):
    """The table `[metric_files]` of a sweep.

    `inception` are the weights of the network of the FID paper. `reference` are the real pictures that FID and KID on
    its features compare with: a folder, or for FID alone an .npz file with `mu` and `sigma`. `clip` is a folder with
    OpenAI's CLIP in the layout of transformers. Without them FID and KID use the lab evaluator, and the CLIP score the
    model's own CLIP.
    """

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, use_attribute_docstrings=True)
    inception: str | None = None
    """Weights of the Inception network of the FID paper, for FID and KID."""
    reference: str | None = None
    """Real pictures to compare with: a folder, or for FID alone an `.npz` with `mu` and `sigma`."""
    clip: str | None = None
    """A folder with OpenAI's CLIP in the layout of transformers, for the CLIP score."""

    @property
    def given(self) -> dict[str, str]:
        """The files that are named, by key."""
        return self.model_dump(exclude_none=True)
