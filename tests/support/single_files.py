"""Pipelines of diffusers written as single files, with the names of the original training code.

The names are spelled out from the modules of that code (`openaimodel.py`, `model.py` of its VAE, and OpenCLIP), as a
mapping from diffusers that is independent of the conversion under test.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, NamedTuple

import diffusers
import tiny_pipelines as tiny
import torch
import transformers
from torch import Tensor

Weights = dict[str, Tensor]
_BETAS = {**tiny.BETAS, "steps_offset": 1}
WIDTHS = (64, 128)  # with 32 groups, and 64 channels per head


class Networks(NamedTuple):
    """The networks of a pipeline."""

    unet: Any
    vae: Any
    text_encoder: Any
    text_encoder_2: Any = None


def clip(width: int, layers: int, projection: int | None = None, act: str = "quick_gelu", inner: int = 96) -> Any:
    """A text encoder with heads of 64 channels."""
    config = transformers.CLIPTextConfig(
        vocab_size=49408, hidden_size=width, intermediate_size=inner, num_hidden_layers=layers,
        num_attention_heads=width // 64, max_position_embeddings=77, projection_dim=projection or width, hidden_act=act,
        bos_token_id=49406, eos_token_id=49407,
    )  # fmt: skip
    return (transformers.CLIPTextModelWithProjection if projection else transformers.CLIPTextModel)(config)


def vae(scale: float) -> Any:
    """A VAE of factor 2."""
    return diffusers.AutoencoderKL(
        block_out_channels=(32, 64), down_block_types=["DownEncoderBlock2D"] * 2,
        up_block_types=["UpDecoderBlock2D"] * 2, scaling_factor=scale, force_upcast=False, sample_size=32,
    )  # fmt: skip


def unet(context: int, depths: Any = 1, linear: bool = True, heads: Any = (1, 2), **settings: Any) -> Any:
    """A U-Net with transformers on the second of its levels."""
    return diffusers.UNet2DConditionModel(
        sample_size=16, block_out_channels=WIDTHS, attention_head_dim=heads, layers_per_block=2,
        cross_attention_dim=context, transformer_layers_per_block=depths, use_linear_projection=linear,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"), up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        **settings,
    )  # fmt: skip


def tokenizer(vocabulary: Any, padding: str) -> Any:
    """The tokenizer of CLIP with a padding token."""
    return transformers.CLIPTokenizer.from_pretrained(vocabulary, model_max_length=77, pad_token=padding)


def version_1(vocabulary: Any) -> Any:
    """Stable Diffusion 1.x: convolutions around the transformers, and 8 heads at each level."""
    pipe = diffusers.StableDiffusionPipeline(
        vae=vae(0.18215), text_encoder=clip(64, 3), tokenizer=tokenizer(vocabulary, "<|endoftext|>"),
        unet=unet(64, linear=False, heads=8), scheduler=diffusers.EulerDiscreteScheduler(**_BETAS),
        safety_checker=None, feature_extractor=None, requires_safety_checker=False,
    )  # fmt: skip
    return tiny.filled(pipe)


def version_2(vocabulary: Any, **scheduler: Any) -> Any:
    """Stable Diffusion 2.x. Its text encoder has 24 layers, of which diffusers has the 23 that are used."""
    pipe = diffusers.StableDiffusionPipeline(
        vae=vae(0.18215), text_encoder=clip(64, 23, act="gelu"), tokenizer=tokenizer(vocabulary, "!"),
        unet=unet(64), scheduler=diffusers.EulerDiscreteScheduler(**_BETAS, **scheduler), safety_checker=None,
        feature_extractor=None, requires_safety_checker=False,
    )  # fmt: skip
    return tiny.filled(pipe)


def xl(vocabulary: Any, **scheduler: Any) -> Any:
    """Stable Diffusion XL, with two transformers in a row at its second level."""
    added = {"addition_embed_type": "text_time", "addition_time_embed_dim": 4}
    pipe = diffusers.StableDiffusionXLPipeline(
        vae=vae(0.13025), text_encoder=clip(64, 3), tokenizer=tokenizer(vocabulary, "<|endoftext|>"),
        text_encoder_2=clip(128, 3, projection=96, act="gelu"), tokenizer_2=tokenizer(vocabulary, "!"),
        unet=unet(192, [1, 2], **added, projection_class_embeddings_input_dim=96 + 6 * 4),
        scheduler=diffusers.EulerDiscreteScheduler(**_BETAS, **scheduler),
    )  # fmt: skip
    return tiny.filled(pipe)


_RESIDUAL = {
    "norm1": "in_layers.0", "conv1": "in_layers.2", "time_emb_proj": "emb_layers.1", "norm2": "out_layers.0",
    "conv2": "out_layers.3", "conv_shortcut": "skip_connection",
}  # fmt: skip
_ENDS = {
    "time_embedding.linear_1": "time_embed.0", "time_embedding.linear_2": "time_embed.2", "conv_in": "input_blocks.0.0",
    "conv_norm_out": "out.0", "conv_out": "out.2", "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
}  # fmt: skip


def unet_name(name: str, levels: int, layers: int, attended_up: set[int]) -> str:
    """The original name of a tensor of the U-Net. Blocks are numbered through, a resampling is one or part of one."""
    for ours, theirs in _ENDS.items():
        if name.startswith(f"{ours}."):
            return name.replace(ours, theirs, 1)
    if match := re.fullmatch(r"mid_block\.(resnets|attentions)\.(\d)\.(.+)", name):
        place = f"middle_block.{1 if match[1] == 'attentions' else 2 * int(match[2])}"
        return _inside(place, match[1], match[3])
    match = re.fullmatch(r"(down|up)_blocks\.(\d+)\.(resnets|attentions|downsamplers|upsamplers)\.(\d+)\.(.+)", name)
    assert match
    side, level, part, i, rest = match[1], int(match[2]), match[3], int(match[4]), match[5]
    if part == "downsamplers":
        return f"input_blocks.{(level + 1) * (layers + 1)}.0.op.{rest.removeprefix('conv.')}"
    if part == "upsamplers":
        return f"output_blocks.{level * (layers + 1) + layers}.{2 if level in attended_up else 1}.{rest}"
    block = 1 + level * (layers + 1) + i if side == "down" else level * (layers + 1) + i
    return _inside(f"{'in' if side == 'down' else 'out'}put_blocks.{block}.{int(part == 'attentions')}", part, rest)


def _inside(place: str, part: str, rest: str) -> str:
    if part == "attentions":
        return f"{place}.{rest}"
    layer, _, kind = rest.partition(".")
    return f"{place}.{_RESIDUAL[layer]}.{kind}"


_ATTENTION = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}


def vae_name(name: str, levels: int) -> str:
    """The original name of a tensor of the VAE. The decoder numbers its levels from the picture on."""
    name = name.replace("conv_norm_out", "norm_out").replace("conv_shortcut", "nin_shortcut")
    if match := re.fullmatch(r"(.+)\.mid_block\.attentions\.0\.(.+)\.(weight|bias)", name):
        return f"{match[1]}.mid.attn_1.{_ATTENTION[match[2]]}.{match[3]}"
    if match := re.fullmatch(r"(.+)\.mid_block\.resnets\.(\d)\.(.+)", name):
        return f"{match[1]}.mid.block_{int(match[2]) + 1}.{match[3]}"
    if match := re.fullmatch(r"encoder\.down_blocks\.(\d)\.(resnets|downsamplers)\.(\d)\.(.+)", name):
        part = f"block.{match[3]}" if match[2] == "resnets" else "downsample"
        return f"encoder.down.{match[1]}.{part}.{match[4]}"
    if match := re.fullmatch(r"decoder\.up_blocks\.(\d)\.(resnets|upsamplers)\.(\d)\.(.+)", name):
        part = f"block.{match[3]}" if match[2] == "resnets" else "upsample"
        return f"decoder.up.{levels - 1 - int(match[1])}.{part}.{match[4]}"
    return name


def open_clip(text: Any, layers: int) -> Iterator[tuple[str, Tensor]]:
    """The tensors of a text encoder as OpenCLIP has them, with those of its last layer in layers that it lacks."""
    state = {name.removeprefix("text_model."): weights for name, weights in text.state_dict().items()}
    yield "token_embedding.weight", state["embeddings.token_embedding.weight"]
    yield "positional_embedding", state["embeddings.position_embedding.weight"]
    width = len(state["final_layer_norm.weight"])
    for kind in ("weight", "bias"):
        yield f"ln_final.{kind}", state[f"final_layer_norm.{kind}"]
        for i in range(layers):
            ours = f"encoder.layers.{min(i, text.config.num_hidden_layers - 1)}."
            block = f"transformer.resblocks.{i}."
            joint = torch.cat([state[f"{ours}self_attn.{one}_proj.{kind}"] for one in "qkv"])
            yield f"{block}attn.in_proj_{kind}", joint
            yield f"{block}attn.out_proj.{kind}", state[f"{ours}self_attn.out_proj.{kind}"]
            for theirs, name in {"ln_1": "layer_norm1", "ln_2": "layer_norm2", "mlp.c_fc": "mlp.fc1"}.items():
                yield f"{block}{theirs}.{kind}", state[f"{ours}{name}.{kind}"]
            yield f"{block}mlp.c_proj.{kind}", state[f"{ours}mlp.fc2.{kind}"]
    projection = state.get("text_projection.weight")
    yield "text_projection", torch.eye(width) if projection is None else projection.T.contiguous()
    yield "logit_scale", torch.tensor(4.6)


def written(pipe: Any) -> Weights:
    """All tensors of a pipeline under their names in a single file."""
    return {name: tensor.detach().clone().contiguous() for name, tensor in _written(pipe).items()}


def _written(pipe: Any) -> Weights:
    config, weights = pipe.unet.config, Weights()
    levels, layers = len(config.block_out_channels), config.layers_per_block
    attended = {i for i, kind in enumerate(config.up_block_types) if kind.startswith("CrossAttn")}
    for name, tensor in pipe.unet.state_dict().items():
        weights[f"model.diffusion_model.{unet_name(name, levels, layers, attended)}"] = tensor
    for name, tensor in pipe.vae.state_dict().items():
        theirs = vae_name(name, len(pipe.vae.config.block_out_channels))
        as_kernel = ".attn_1." in theirs and tensor.dim() == 2
        weights[f"first_stage_model.{theirs}"] = tensor[:, :, None, None] if as_kernel else tensor
    two = getattr(pipe, "text_encoder_2", None)
    if two is None and pipe.text_encoder.config.hidden_act == "gelu":
        weights |= {f"cond_stage_model.model.{name}": tensor for name, tensor in open_clip(pipe.text_encoder, 24)}
        return weights
    prefix = "cond_stage_model.transformer" if two is None else "conditioner.embedders.0.transformer"
    for name, tensor in pipe.text_encoder.state_dict().items():
        weights[f"{prefix}.text_model.{name.removeprefix('text_model.')}"] = tensor
    if two is not None:
        found = open_clip(two, two.config.num_hidden_layers)
        weights |= {f"conditioner.embedders.1.model.{name}": tensor for name, tensor in found}
    return weights
