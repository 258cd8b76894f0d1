"""One set of random weights under the names of Stable Diffusion v1's checkpoint, in our networks and in the references.

The references are diffusers and transformers. Their names come from diffusers' own conversion of such checkpoints, so
sizes, formulas and `sdlab.weights.layout_original` are all compared with an independent reading of the same file.
"""

from __future__ import annotations

import gzip
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint, convert_ldm_vae_checkpoint
from torch import Tensor, nn
from transformers import CLIPTextConfig as ReferenceTextConfig
from transformers import CLIPTextModel, CLIPTokenizer

from sdlab.cpu.optimise import optimise_for_inference
from sdlab.model.clip import ClipText
from sdlab.model.config import SD15, ClipTextConfig, ModelConfig, UnetConfig, VaeConfig
from sdlab.model.diffusion import Unet
from sdlab.model.stable_diffusion import PARTS, StableDiffusion, networks
from sdlab.model.vae import Vae
from sdlab.pipeline import Pipeline
from sdlab.weights import layout_original as original
from sdlab.weights.vocabulary import tokenizer_in

Weights = dict[str, Tensor]
M = TypeVar("M", bound=nn.Module)

VOCABULARY = Path(__file__).parents[1] / "data" / "clip_bpe"

# As many layers of each kind as in v1.5, but narrow.
SMALL = ModelConfig(
    name="small",
    image_size=64,
    text=ClipTextConfig(width=32, heads=4),
    vision=None,
    vae=VaeConfig(width=16, groups=8),
    unet=UnetConfig(width=32, heads=4, context_width=32, groups=8),
    levels=SD15.levels,
    prediction="eps",
)


def checkpoint(config: ModelConfig, dtype: torch.dtype, parts: Iterable[str] = PARTS) -> Weights:
    """Random weights in the sizes of `config`, without zeros, that keep the size of a unit signal."""
    generator = torch.Generator().manual_seed(0)
    modules = networks(replace(config, vision=None))
    shapes = {part: {name: t.shape for name, t in modules[part].state_dict().items()} for part in parts}
    weights = {}
    for key, (part, name) in original.names(config).items():
        if part in shapes:
            noise = torch.randn(shapes[part][name], generator=generator, dtype=dtype)
            if noise.dim() > 1:
                weights[key] = noise.div_(noise[0].numel() ** 0.5)
            else:
                weights[key] = noise.mul_(0.1).add_(key.endswith("weight"))  # a norm's scale, or any bias
    return weights


def our_text(weights: Weights, config: ModelConfig) -> ClipText:
    """Our text encoder."""
    return _ours("clip", weights, config)


def our_vae(weights: Weights, config: ModelConfig) -> Vae:
    """Our autoencoder."""
    return _ours("vae", weights, config)


def our_unet(weights: Weights, config: ModelConfig) -> Unet:
    """Our U-Net."""
    return _ours("unet", weights, config)


def their_text(weights: Weights, config: ModelConfig) -> CLIPTextModel:
    """transformers' text encoder as v1.5 configures it."""
    model = CLIPTextModel(
        ReferenceTextConfig(
            vocab_size=config.text.vocab_size,
            max_position_embeddings=config.text.context_length,
            hidden_size=config.text.width,
            intermediate_size=4 * config.text.width,
            num_hidden_layers=config.text.layers,
            num_attention_heads=config.text.heads,
            hidden_act="quick_gelu",
        )
    )
    prefix = original.PREFIXES["clip"]
    return _filled(model, {key.removeprefix(prefix): w for key, w in weights.items() if key.startswith(prefix)})


def their_vae(weights: Weights, config: ModelConfig) -> AutoencoderKL:
    """diffusers' autoencoder as v1.5 configures it."""
    levels = len(config.vae.widths)
    with torch.device("meta"):
        model = AutoencoderKL(
            in_channels=config.vae.image_channels,
            out_channels=config.vae.image_channels,
            down_block_types=("DownEncoderBlock2D",) * levels,
            up_block_types=("UpDecoderBlock2D",) * levels,
            block_out_channels=config.vae.widths,
            layers_per_block=config.vae.residual_blocks,
            latent_channels=config.vae.latent_channels,
            norm_num_groups=config.vae.groups,
            scaling_factor=config.vae.scale,
        )
    return _filled(model, convert_ldm_vae_checkpoint(weights, model.config))


def their_unet(weights: Weights, config: ModelConfig) -> UNet2DConditionModel:
    """diffusers' U-Net as v1.5 configures it; its `attention_head_dim` is the number of heads."""
    attended = [2**level in config.unet.attention_rates for level in range(len(config.unet.widths))]
    with torch.device("meta"):
        model = UNet2DConditionModel(
            sample_size=config.image_size // config.vae.factor,
            in_channels=config.unet.latent_channels,
            out_channels=config.unet.latent_channels,
            down_block_types=tuple("CrossAttnDownBlock2D" if a else "DownBlock2D" for a in attended),
            up_block_types=tuple("CrossAttnUpBlock2D" if a else "UpBlock2D" for a in reversed(attended)),
            block_out_channels=config.unet.widths,
            layers_per_block=config.unet.residual_blocks,
            attention_head_dim=config.unet.heads,
            cross_attention_dim=config.unet.context_width,
            norm_num_groups=config.unet.groups,
        )
    return _filled(model, convert_ldm_unet_checkpoint(weights, model.config))


def our_pipeline(weights: Weights, config: ModelConfig, vocabulary: Path) -> Pipeline:
    """Our pipeline, as fast as users have it. `vocabulary` is a folder with CLIP's files."""
    text = our_text(weights, config)
    model = StableDiffusion(
        config=config,
        tokenizer=tokenizer_in(vocabulary, config.text),
        text=text,
        clip=None,
        vae=our_vae(weights, config),
        unet=our_unet(weights, config),
        device=text.token.weight.device,
        dtype=text.token.weight.dtype,
    )
    optimise_for_inference(model)
    return Pipeline(model)


def their_components(weights: Weights, config: ModelConfig, vocabulary: Path) -> dict[str, Any]:
    """The components of a diffusers pipeline, without its scheduler."""
    return {
        "tokenizer": CLIPTokenizer.from_pretrained(vocabulary, model_max_length=config.text.context_length),
        "text_encoder": their_text(weights, config),
        "vae": their_vae(weights, config),
        "unet": their_unet(weights, config),
        "safety_checker": None,
        "feature_extractor": None,
        "requires_safety_checker": False,
    }


def their_scheduler(spacing: str = "leading", to_one: bool = False) -> DDIMScheduler:
    """DDIM as v1.5 is configured."""
    return DDIMScheduler(
        beta_schedule="scaled_linear",
        beta_start=0.00085,
        beta_end=0.012,
        clip_sample=False,
        steps_offset=1,
        timestep_spacing=spacing,
        set_alpha_to_one=to_one,
    )


def unpack_vocabulary(folder: Path) -> Path:
    """CLIP's `vocab.json` and `merges.txt` into the folder."""
    for name in ("vocab.json", "merges.txt"):
        (folder / name).write_bytes(gzip.decompress((VOCABULARY / f"{name}.gz").read_bytes()))
    return folder


def _ours(part: str, weights: Weights, config: ModelConfig) -> Any:
    config = replace(config, vision=None)
    model = _filled(networks(config)[part], original.split(weights, config)[0][part])
    return model.to(memory_format=torch.channels_last)  # as the loader does


def _filled(model: M, weights: Weights) -> M:
    model.load_state_dict(weights, assign=True)
    return model.eval().requires_grad_(False)


def relative_error(ours: Tensor, theirs: Tensor) -> float:
    """‖ours − theirs‖ / ‖theirs‖, in float64."""
    ours, theirs = ours.double(), theirs.double()
    return ((ours - theirs).norm() / theirs.norm()).item()
