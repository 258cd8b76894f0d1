"""Facts about the families of single files that their tensors cannot say: scales, padding tokens, numbers of heads.

They are those of the configurations that come with the models: `v1-inference.yaml` (CompVis, stable-diffusion),
`v2-inference-v.yaml` (Stability AI, stablediffusion) and `sd_xl_base.yaml` (Stability AI, generative-models), and of
the text encoders CLIP ViT-L/14 (OpenAI), OpenCLIP ViT-H/14 and OpenCLIP ViT-bigG/14 (LAION).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

UNET, VAE = "model.diffusion_model.", "first_stage_model."  # prefixes of the tensors of all families

_END, _ZERO = "<|endoftext|>", "!"  # "!" has the id 0, with which OpenCLIP pads


@dataclass(frozen=True)
class Text:
    """A text encoder in a single file."""

    prefix: str
    padding: str
    open_clip: bool = False  # with the names of OpenCLIP in place of those of transformers
    projection: bool = False  # whether the projection of the pooled text is used
    layers: int | None = None  # the first that are used; by default all


@dataclass(frozen=True)
class Published:
    """A family of single files. Its tables of β are those of all Stable Diffusion models."""

    name: str
    pipeline: str  # the class of its pipeline in diffusers
    side: int  # pixels
    scale: float  # of the latents
    texts: Mapping[str, Text]  # by component
    heads: int | None = None  # per level of the U-Net; by default one for each 64 channels
    upcast: bool = False  # whether the VAE overflows in float16
    index: Mapping[str, Any] = field(default_factory=dict)  # settings of the pipeline


V1 = Published(
    "Stable Diffusion 1.x", "StableDiffusionPipeline", 512, 0.18215,
    {"text_encoder": Text("cond_stage_model.transformer.", _END)}, heads=8,
)  # fmt: skip
V2 = Published(
    "Stable Diffusion 2.x", "StableDiffusionPipeline", 768, 0.18215,
    {"text_encoder": Text("cond_stage_model.model.", _ZERO, open_clip=True, layers=23)},  # the last of 24 is not used
)  # fmt: skip
XL = Published(
    "Stable Diffusion XL", "StableDiffusionXLPipeline", 1024, 0.13025,
    {
        "text_encoder": Text("conditioner.embedders.0.transformer.", _END),
        "text_encoder_2": Text("conditioner.embedders.1.model.", _ZERO, open_clip=True, projection=True),
    },
    upcast=True, index={"force_zeros_for_empty_prompt": True},
)  # fmt: skip
BETAS = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012, "num_train_timesteps": 1000}
