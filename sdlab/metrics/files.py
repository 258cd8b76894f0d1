"""The files that some metrics need and sdlab does not bring: Inception's weights, real pictures, OpenAI's CLIP."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class MetricFiles(BaseModel):
    """`[metric_files]` of a sweep. Without them the lab evaluator serves FID and KID, and the model's CLIP its score.

    `inception` are the weights of the FID paper's network, `reference` the real pictures that FID and KID on its
    features compare with: a folder of them, or for FID alone an .npz with `mu` and `sigma`. `clip` is a folder with
    OpenAI's CLIP, laid out as by transformers.
    """

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)
    inception: str | None = None
    reference: str | None = None
    clip: str | None = None

    @property
    def given(self) -> dict[str, str]:
        """Those that are named."""
        return self.model_dump(exclude_none=True)
