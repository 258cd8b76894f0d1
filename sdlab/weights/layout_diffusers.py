"""The diffusers layout: one folder per network, each with its configuration.

Many kinds of models use this layout. `read_config` accepts the ones that our networks can compute. For any other model,
the error names the setting that differs.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, replace
from functools import cache
from pathlib import Path
from typing import Any

from sdlab.model.config import SD15, ModelConfig, UnetConfig, VaeConfig
from sdlab.model.stable_diffusion import shapes
from sdlab.model.tokenizer import END, START
from sdlab.system.errors import UsageError
from sdlab.weights import recognise, scheduler_config
from sdlab.weights.extras import is_extra
from sdlab.weights.json_file import read_object
from sdlab.weights.rename_rules import CLIP_TEXT, TRANSFORMER, Rules, rename, table
from sdlab.weights.stored_tensor import StoredTensor

Json = dict[str, Any]

FOLDERS = {"clip": "text_encoder", "vae": "vae", "unet": "unet"}
CONFIGS = {
    "text_encoder": "text_encoder/config.json",
    "vae": "vae/config.json",
    "unet": "unet/config.json",
    "scheduler": "scheduler/scheduler_config.json",
}
_FAMILIES = ("StableDiffusionXL", "StableDiffusion3", "Flux", "PixArt")  # pipelines beyond Stable Diffusion v1
NON_EMA = "non_ema"
# Half precision has lost digits. The weights before averaging (non_ema) are for further training.
_VARIANTS = ("", ".fp32", ".fp16", ".bf16", f".{NON_EMA}")


def _weights(*names: str) -> tuple[str, ...]:
    """The possible names of a part's weights, best first: each variant as one file or as the index of its shards."""
    found = []
    for variant in _VARIANTS:
        for stem, suffix in (name.rsplit(".", 1) for name in names):
            single = f"{stem}{variant}.{suffix}"
            found += [single, f"{stem}.{suffix}.index{variant}.json", f"{single}.index.json"]
    return tuple(dict.fromkeys(found))


# The first file that exists is read.
_UNET_OR_VAE = _weights("diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.bin")
WEIGHTS = {
    "clip": _weights("model.safetensors", "pytorch_model.bin"),
    "vae": _UNET_OR_VAE,
    "unet": _UNET_OR_VAE,
}

# Settings that are fixed in our networks. A file may omit them: these are also the defaults of diffusers and
# transformers.
FIXED: dict[str, Json] = {
    "text_encoder": {"hidden_act": "quick_gelu", "layer_norm_eps": 1e-5},
    "vae": {
        "act_fn": "silu",
        "latents_mean": None,
        "latents_std": None,
        "mid_block_add_attention": True,
        "use_post_quant_conv": True,
        "use_quant_conv": True,
    },
    "unet": {
        "act_fn": "silu",
        "addition_embed_type": None,
        "attention_type": "default",
        "center_input_sample": False,
        "class_embed_type": None,
        "class_embeddings_concat": False,
        "conv_in_kernel": 3,
        "conv_out_kernel": 3,
        "cross_attention_norm": None,
        "downsample_padding": 1,
        "dual_cross_attention": False,
        "encoder_hid_dim": None,
        "encoder_hid_dim_type": None,
        "flip_sin_to_cos": True,
        "freq_shift": 0,
        "mid_block_scale_factor": 1,
        "mid_block_type": "UNetMidBlock2DCrossAttn",
        "norm_eps": 1e-5,
        "num_attention_heads": None,  # v1 files use attention_head_dim instead
        "num_class_embeds": None,
        "only_cross_attention": False,
        "resnet_out_scale_factor": 1.0,
        "resnet_skip_time_act": False,
        "resnet_time_scale_shift": "default",
        "reverse_transformer_layers_per_block": None,
        "time_cond_proj_dim": None,
        "time_embedding_act_fn": None,
        "time_embedding_dim": None,
        "time_embedding_type": "positional",
        "timestep_post_act": None,
        "transformer_layers_per_block": 1,
        "use_linear_projection": False,
    },
}
# The sizes of which the default in diffusers and transformers is not the value of v1.5.
DEFAULTS: dict[str, Json] = {
    "text_encoder": {"hidden_size": 512, "intermediate_size": 2048, "num_attention_heads": 8},
    "vae": {
        "block_out_channels": [64],
        "down_block_types": ["DownEncoderBlock2D"],
        "layers_per_block": 1,
        "up_block_types": ["UpDecoderBlock2D"],
    },
    "unet": {"cross_attention_dim": 1280},
}
# The key that names the kind of network, and the names of ours. Flax writes the same settings.
_KINDS: dict[str, tuple[str, tuple[str, ...]]] = {
    "text_encoder": ("model_type", ("clip_text_model",)),
    "vae": ("_class_name", ("AutoencoderKL", "FlaxAutoencoderKL")),
    "unet": ("_class_name", ("UNet2DConditionModel", "FlaxUNet2DConditionModel")),
}
_MOST_LEVELS = 8  # of resolution; v1 has 4
_LARGEST = 2**31  # of any whole number in a file

# Old names of the VAE's attention: diffusers before 0.18, and the published files of v1.4 and v1.5.
OLD_ATTENTION: Rules = (
    (r"\.query\.", ".to_q."),
    (r"\.key\.", ".to_k."),
    (r"\.value\.", ".to_v."),
    (r"\.proj_attn\.", ".to_out.0."),
)


def vae_rules(config: VaeConfig) -> Rules:
    """Rename rules of the VAE. In diffusers, the levels of the decoder are counted from the coarsest."""
    last = len(config.multipliers) - 1
    return (
        (r"\.down\.(\d)\.(\d)\.", r".down_blocks.\1.resnets.\2."),
        (r"\.down\.(\d)\.downsample\.", r".down_blocks.\1.downsamplers.0."),
        (r"\.up\.(\d)\.(\d)\.", lambda m: f".up_blocks.{last - int(m[1])}.resnets.{m[2]}."),
        (r"\.up\.(\d)\.upsample\.", lambda m: f".up_blocks.{last - int(m[1])}.upsamplers.0."),
        (r"\.mid\.1\.norm\.", ".mid.1.group_norm."),
        (r"\.mid\.1\.(query|key|value)\.", lambda m: f".mid.1.to_{m[1][0]}."),
        (r"\.mid\.1\.out\.", ".mid.1.to_out.0."),
        (r"\.mid\.1\.", ".mid_block.attentions.0."),
        (r"\.mid\.([02])\.", lambda m: f".mid_block.resnets.{int(m[1]) // 2}."),
        (r"\.skip\.", ".conv_shortcut."),
        (r"\.norm_out\.", ".conv_norm_out."),
    )


def unet_rules(config: UnetConfig) -> Rules:
    """Rename rules of the U-Net. In diffusers it has lists per level, in sdlab one list down and one up."""
    blocks = config.residual_blocks + 1  # per level; on the way down, the last one is the downsampling
    module = {"residual": "resnets", "transformer": "attentions"}

    def place(match: re.Match[str]) -> str:
        level, block = divmod(int(match[2]), blocks)
        if match[3] == "resample":
            return f"{match[1]}_blocks.{level}.{match[1]}samplers.0."
        return f"{match[1]}_blocks.{level}.{module[match[3]]}.{block}."

    return (
        *TRANSFORMER,
        (r"\.residual\.time\.", ".residual.time_emb_proj."),
        (r"\.residual\.skip\.", ".residual.conv_shortcut."),
        (r"^(down|up)\.(\d+)\.(residual|transformer|resample)\.", place),
        (r"^middle\.(\d)\.(residual|transformer)\.", lambda m: f"mid_block.{module[m[2]]}.{m[1]}."),
        (r"^time_embed\.([02])\.", lambda m: f"time_embedding.linear_{int(m[1]) // 2 + 1}."),
        (r"^norm_out\.", "conv_norm_out."),
    )


def split(
    part: str, tensors: Mapping[str, StoredTensor], config: ModelConfig
) -> tuple[dict[str, StoredTensor], list[str]]:
    """The tensors of one part under our names, and the names of those that no network uses.

    Raises:
        KeyError: another key is unknown.
    """
    known = names(config)[part]
    parts, extra = {}, []
    for key, tensor in tensors.items():
        # transformers 5 no longer writes the prefix of the text encoder.
        whole = "text_model." + key.removeprefix("text_model.") if part == "clip" else rename(key, OLD_ATTENTION)
        if whole in known:
            parts[known[whole]] = tensor
        elif is_extra(key):
            extra.append(key)
        else:
            raise KeyError(key)
    return parts, extra


def join(part: str, tensors: Mapping[str, StoredTensor], config: ModelConfig) -> dict[str, StoredTensor]:
    """The inverse of `split`."""
    found = {theirs: tensors[ours] for theirs, ours in names(config)[part].items()}
    return {key: t.with_axes(2) if _is_linear(part, key) else t for key, t in found.items()}


@cache
def names(config: ModelConfig) -> dict[str, dict[str, str]]:
    """Part -> their name -> our name. The layout cannot hold a vision tower."""
    rules = {"clip": CLIP_TEXT, "vae": vae_rules(config.vae), "unet": unet_rules(config.unet)}
    return {
        part: table(tensors, rules[part], prefix="text_model." if part == "clip" else "")
        for part, tensors in shapes(replace(config, vision=None)).items()
    }


def _is_linear(part: str, key: str) -> bool:
    """Whether diffusers has a linear layer where sdlab has a 1 × 1 convolution, as in the attention of the VAE."""
    return part == "vae" and re.search(r"\.attentions\.0\.to_.*weight$", key) is not None


def settings(config: ModelConfig) -> dict[str, Json]:
    """All settings that affect what the networks compute, by network, as diffusers and transformers name them."""
    text, vae, unet = config.text, config.vae, config.unet
    cross = [2**level in unet.attention_rates for level in range(len(unet.multipliers))]
    sizes: dict[str, Json] = {
        "text_encoder": {
            "hidden_size": text.width,
            "intermediate_size": 4 * text.width,
            "max_position_embeddings": text.context_length,
            "num_attention_heads": text.heads,
            "num_hidden_layers": text.layers,
            "vocab_size": text.vocab_size,
        },
        "vae": {
            "block_out_channels": list(vae.widths),
            "down_block_types": ["DownEncoderBlock2D"] * len(vae.widths),
            "in_channels": vae.image_channels,
            "latent_channels": vae.latent_channels,
            "layers_per_block": vae.residual_blocks,
            "norm_num_groups": vae.groups,
            "out_channels": vae.image_channels,
            "scaling_factor": vae.scale,
            "shift_factor": vae.shift or None,
            "up_block_types": ["UpDecoderBlock2D"] * len(vae.widths),
        },
        "unet": {
            "attention_head_dim": unet.heads,  # despite its name, the number of heads in v1 files
            "block_out_channels": list(unet.widths),
            "cross_attention_dim": unet.context_width,
            "down_block_types": ["CrossAttnDownBlock2D" if c else "DownBlock2D" for c in cross],
            "in_channels": unet.latent_channels,
            "layers_per_block": unet.residual_blocks,
            "norm_num_groups": unet.groups,
            "out_channels": unet.latent_channels,
            "sample_size": config.image_size // vae.factor,
            "up_block_types": ["CrossAttnUpBlock2D" if c else "UpBlock2D" for c in reversed(cross)],
        },
    }
    return {component: {**FIXED[component], **sizes[component]} for component in FIXED}


def check_family(folder: Path) -> None:
    """Check that a folder is not one of a family that is sampled through diffusers, by the name of its pipeline.

    Raises:
        UsageError: it is one, or its index is damaged.
    """
    index = folder / "model_index.json"
    name = str(read_object(index).get("_class_name")) if index.exists() else ""
    if name.startswith(_FAMILIES):
        raise UsageError(f"{folder}: this is a {name}, which is sampled through diffusers; write diffusers:{folder}")


def read_config(folder: Path) -> ModelConfig:
    """The configuration of the model in a folder.

    Raises:
        UsageError: a file is missing or invalid, or our networks cannot compute what it describes.
    """
    usual = settings(SD15)
    files = {component: read_object(folder / path) for component, path in CONFIGS.items()}
    files["text_encoder"] = _text(files["text_encoder"], folder / CONFIGS["text_encoder"])
    for component, (key, kinds) in _KINDS.items():
        if (kind := files[component].get(key, kinds[0])) not in kinds:
            raise UsageError(f"{folder / CONFIGS[component]}: {key} is {kind!r}, but sdlab supports only {kinds[0]!r}")
    given = {component: _shared(files[component], values) for component, values in usual.items()}
    found = {c: {**values, **DEFAULTS[c], **given[c]} for c, values in usual.items()}
    for component, values in usual.items():
        for key, value in values.items():
            if mistake := _mistake(found[component][key], value):
                raise UsageError(f"{folder / CONFIGS[component]}: {key} {mistake}")
    if what := recognise.unet_settings(given["unet"]):
        raise UsageError(f"{folder / CONFIGS['unet']}: this is {what}; {recognise.advice(what, folder)}")
    levels, prediction = scheduler_config.read(files["scheduler"], folder / CONFIGS["scheduler"])
    content = {**_config(found), "levels": asdict(levels), "prediction": prediction}
    config = ModelConfig.from_json(json.dumps(content), source=str(folder))
    for component, wanted in settings(config).items():
        for key, value in wanted.items():
            if (theirs := found[component][key]) != value:
                path = folder / CONFIGS[component]
                raise UsageError(f"{path}: {key} is {theirs!r}, but sdlab supports only {value!r}")
    return config if config == SD15 else replace(config, name=folder.resolve().name)


def write_config(folder: Path, config: ModelConfig, end: int | None = None) -> None:
    """Write everything except the weights and the vocabulary into a folder. `end` is the id of the end token, by
    default the last of the vocabulary.

    Raises:
        UsageError: the layout cannot express the noise schedule or the prediction type.
        OSError: a file cannot be written.
    """
    classes = {
        "scheduler": ["diffusers", "DDIMScheduler"],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
    }
    nothing = {"feature_extractor": [None, None], "image_encoder": [None, None], "safety_checker": [None, None]}
    special = {"bos_token": START, "eos_token": END, "pad_token": END, "unk_token": END}
    last = config.text.vocab_size - 1 if end is None else end
    extra: dict[str, Json] = {
        "text_encoder": {
            "architectures": ["CLIPTextModel"],
            "bos_token_id": last - 1,
            "eos_token_id": last,
            "model_type": "clip_text_model",
            "projection_dim": config.text.width,
        },
        "vae": {"_class_name": "AutoencoderKL", "sample_size": config.image_size},
        "unet": {"_class_name": "UNet2DConditionModel"},
        # The defaults of sdlab.
        "scheduler": {
            "_class_name": "DDIMScheduler",
            "clip_sample": False,
            "set_alpha_to_one": True,
            "steps_offset": 1,
            "timestep_spacing": "trailing",
        },
    }
    files: dict[str, Json] = {
        "model_index.json": {
            "_class_name": "StableDiffusionPipeline",
            "requires_safety_checker": False,
            **nothing,
            **classes,
        },
        "tokenizer/special_tokens_map.json": special,
        "tokenizer/tokenizer_config.json": {
            **special,
            "model_max_length": config.text.context_length,
            "tokenizer_class": "CLIPTokenizer",
        },
    }
    written = {**settings(config), "scheduler": scheduler_config.written(config)}
    files |= {CONFIGS[c]: {**extra[c], **values} for c, values in written.items()}
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _text(settings: Json, path: Path) -> Json:
    """The settings of the text encoder, or of the text half of a complete CLIP."""
    if settings.get("model_type") != "clip" and "text_config" not in settings:
        return settings
    if not isinstance(table := settings.get("text_config"), dict):
        raise UsageError(f"{path}: text_config must be a JSON object with the settings of the text encoder")
    return table


def _config(found: Mapping[str, Json]) -> Json:
    """Their settings as the JSON of a `ModelConfig`, but for the noise schedule. `read_config` converts them back."""
    text, vae, unet = (found[network] for network in FIXED)
    return {
        "name": SD15.name,
        "image_size": unet["sample_size"] * 2 ** (len(vae["block_out_channels"]) - 1),
        "text": {
            "vocab_size": text["vocab_size"],
            "context_length": text["max_position_embeddings"],
            "width": text["hidden_size"],
            "layers": text["num_hidden_layers"],
            "heads": text["num_attention_heads"],
        },
        "vision": None,
        "vae": {
            "image_channels": vae["in_channels"],
            "latent_channels": vae["latent_channels"],
            **_widths(vae["block_out_channels"]),
            "residual_blocks": vae["layers_per_block"],
            "groups": vae["norm_num_groups"],
            "scale": vae["scaling_factor"],
            "shift": vae["shift_factor"] or 0.0,
        },
        "unet": {
            "latent_channels": unet["in_channels"],
            **_widths(unet["block_out_channels"]),
            "residual_blocks": unet["layers_per_block"],
            "attention_rates": [2**i for i, kind in enumerate(unet["down_block_types"]) if kind.startswith("Cross")],
            "heads": unet["attention_head_dim"],
            "context_width": unet["cross_attention_dim"],
            "groups": unet["norm_num_groups"],
        },
    }


def _widths(channels: list[int]) -> Json:
    return {"width": channels[0], "multipliers": [c // channels[0] for c in channels]}


def _shared(settings: Json, usual: Json) -> Json:
    """The settings, with one value in place of a list that repeats it for every level of resolution."""
    return {
        key: value[0]
        if isinstance(value, list) and value and value == value[:1] * len(value) and type(usual.get(key)) in (int, bool)
        else value
        for key, value in settings.items()
    }


def _mistake(value: object, usual: object) -> str | None:
    """What is wrong with a setting that has the value `usual` in v1.5, if it has another type or no sane size."""
    if isinstance(value, list) and type(usual) in (int, bool):
        return f"is {value!r}, but sdlab supports only the same value at all levels"
    if not _alike(value, usual):
        return f"must be of the same type as {usual!r}, got {value!r}"
    if isinstance(usual, list) and isinstance(value, list) and len(value) > _MOST_LEVELS:
        return f"has {len(value)} levels, but sdlab supports at most {_MOST_LEVELS}"
    least, numbers = (1, value) if isinstance(value, list) else (0, [value])
    if bad := [n for n in numbers if type(n) is int and not least <= n < _LARGEST]:
        return f"must be from {least} to {_LARGEST - 1:,}, got {bad[0]!r}"
    return None


def _alike(value: object, usual: object) -> bool:
    """Whether a setting has the same type as in v1.5. Any type is accepted if it is None there."""
    if isinstance(usual, list):
        return isinstance(value, list) and bool(value) and all(_alike(item, usual[0]) for item in value)
    number = isinstance(usual, float) and type(value) is int
    return usual is None or number or type(value) is type(usual)
