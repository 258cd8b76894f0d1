"""Tiny pipelines of diffusers with random weights, built from configurations and saved as folders."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers
from torch import nn

BETAS = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
SIDE = 32  # pixels per side of all pictures: 16 × 16 latents


def clip(width: int, projection: bool = False, act: str = "quick_gelu") -> Any:
    """A text encoder of CLIP, with a projection if asked."""
    config = transformers.CLIPTextConfig(
        vocab_size=49408, hidden_size=width, intermediate_size=2 * width, num_hidden_layers=3, num_attention_heads=2,
        max_position_embeddings=77, projection_dim=width, hidden_act=act, bos_token_id=49406, eos_token_id=49407,
    )  # fmt: skip
    return (transformers.CLIPTextModelWithProjection if projection else transformers.CLIPTextModel)(config)


def clip_tokenizer(vocabulary: Path) -> Any:
    """The tokenizer of CLIP."""
    return transformers.CLIPTokenizer.from_pretrained(vocabulary, model_max_length=77)


def vae(channels: int = 4, **settings: Any) -> Any:
    """A VAE of factor 2."""
    return diffusers.AutoencoderKL(
        block_out_channels=(8, 8), down_block_types=["DownEncoderBlock2D"] * 2, up_block_types=["UpDecoderBlock2D"] * 2,
        latent_channels=channels, norm_num_groups=4, sample_size=SIDE, **settings,
    )  # fmt: skip


def unet(context: int, **settings: Any) -> Any:
    """A U-Net with cross-attention for latents of 16 × 16."""
    return diffusers.UNet2DConditionModel(
        sample_size=16, block_out_channels=(8, 16), norm_num_groups=4, attention_head_dim=2, layers_per_block=1,
        cross_attention_dim=context, down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"), **settings,
    )  # fmt: skip


def stable_diffusion(vocabulary: Path, **scheduler: Any) -> Any:
    """Stable Diffusion, by default with an Euler scheduler that predicts ε."""
    return diffusers.StableDiffusionPipeline(
        vae=vae(), text_encoder=clip(16), tokenizer=clip_tokenizer(vocabulary), unet=unet(16),
        scheduler=diffusers.EulerDiscreteScheduler(**BETAS, **scheduler), safety_checker=None, feature_extractor=None,
        requires_safety_checker=False,
    )  # fmt: skip


def stable_diffusion_xl(vocabulary: Path, **scheduler: Any) -> Any:
    """Stable Diffusion XL."""
    added = {"addition_embed_type": "text_time", "addition_time_embed_dim": 4}
    return diffusers.StableDiffusionXLPipeline(
        vae=vae(), text_encoder=clip(16), text_encoder_2=clip(12, True, "gelu"),
        tokenizer=clip_tokenizer(vocabulary), tokenizer_2=clip_tokenizer(vocabulary),
        unet=unet(28, **added, projection_class_embeddings_input_dim=12 + 6 * 4),
        scheduler=diffusers.EulerDiscreteScheduler(**BETAS, **scheduler),
    )  # fmt: skip


def unet2d(classes: int | None = None, channels: int = 3, **scheduler: Any) -> Any:
    """A U-Net on pixels."""
    made = diffusers.UNet2DModel(
        sample_size=16, in_channels=channels, out_channels=channels, block_out_channels=(8, 16), norm_num_groups=4,
        layers_per_block=1, down_block_types=("DownBlock2D", "AttnDownBlock2D"), attention_head_dim=4,
        up_block_types=("AttnUpBlock2D", "UpBlock2D"), num_class_embeds=classes,
    )  # fmt: skip
    return diffusers.DDPMPipeline(made, diffusers.DDPMScheduler(**scheduler))


def t5(width: int) -> Any:
    """A text encoder of T5."""
    return transformers.T5EncoderModel(
        transformers.T5Config(
            vocab_size=64, d_model=width, d_kv=8, d_ff=16, num_layers=2, num_heads=2, feed_forward_proj="gated-gelu"
        )
    )


def t5_tokenizer() -> Any:
    """A tokenizer like that of T5, of single letters."""
    letters = [(letter, -3.0) for letter in "▁abcdefghijklmnopqrstuvwxyz0123456789,."]
    return transformers.T5TokenizerFast(
        vocab=[("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), *letters], extra_ids=0, model_max_length=512
    )


def stable_diffusion_3(vocabulary: Path, with_t5: bool = True, **scheduler: Any) -> Any:
    """Stable Diffusion 3."""
    transformer = diffusers.SD3Transformer2DModel(
        sample_size=16, in_channels=4, out_channels=4, num_layers=2, attention_head_dim=8, num_attention_heads=2,
        joint_attention_dim=32, caption_projection_dim=16, pooled_projection_dim=28, pos_embed_max_size=16,
    )  # fmt: skip
    return diffusers.StableDiffusion3Pipeline(
        transformer=transformer, scheduler=diffusers.FlowMatchEulerDiscreteScheduler(**scheduler),
        vae=vae(shift_factor=0.06, scaling_factor=1.5, use_quant_conv=False, use_post_quant_conv=False),
        text_encoder=clip(16, True), tokenizer=clip_tokenizer(vocabulary), text_encoder_2=clip(12, True, "gelu"),
        tokenizer_2=clip_tokenizer(vocabulary), text_encoder_3=t5(32) if with_t5 else None,
        tokenizer_3=t5_tokenizer() if with_t5 else None,
    )  # fmt: skip


def flux(vocabulary: Path, guidance_embeds: bool = True, **scheduler: Any) -> Any:
    """FLUX.1."""
    transformer = diffusers.FluxTransformer2DModel(
        in_channels=16, num_layers=1, num_single_layers=1, attention_head_dim=16, num_attention_heads=2,
        joint_attention_dim=32, pooled_projection_dim=16, axes_dims_rope=(4, 4, 8), guidance_embeds=guidance_embeds,
    )  # fmt: skip
    return diffusers.FluxPipeline(
        transformer=transformer, scheduler=diffusers.FlowMatchEulerDiscreteScheduler(**scheduler),
        vae=vae(shift_factor=0.1, scaling_factor=0.36, use_quant_conv=False, use_post_quant_conv=False),
        text_encoder=clip(16), tokenizer=clip_tokenizer(vocabulary), text_encoder_2=t5(32), tokenizer_2=t5_tokenizer(),
    )  # fmt: skip


def pixart(sigma: bool, sample_size: int = 16, **scheduler: Any) -> Any:
    """PixArt-α, or PixArt-Σ. Both predict a variance too."""
    transformer = diffusers.PixArtTransformer2DModel(
        sample_size=sample_size, num_attention_heads=2, attention_head_dim=12, num_layers=2, cross_attention_dim=24,
        caption_channels=32, in_channels=4, out_channels=8, use_additional_conditions=sample_size == 128,
    )  # fmt: skip
    return (diffusers.PixArtSigmaPipeline if sigma else diffusers.PixArtAlphaPipeline)(
        t5_tokenizer(), t5(32), vae(), transformer, diffusers.EulerDiscreteScheduler(**BETAS, **scheduler)
    )


def filled(pipe: Any) -> Any:
    """The pipeline in float64, with all weights random, also those that start at zero."""
    generator = torch.Generator().manual_seed(0)
    for name in pipe.components:
        part = getattr(pipe, name)
        if isinstance(part, nn.Module):
            for weights in part.parameters():
                noise = torch.randn(weights.shape, generator=generator)
                center, scale = (
                    (0.0, weights[0].numel() ** -0.5) if weights.dim() > 1 else (float(weights.mean() > 0.9), 0.1)
                )
                weights.data = center + scale * noise
            part.double().eval()
    pipe.set_progress_bar_config(disable=True)
    return pipe
