"""Recognition of weight files: formats by their first bytes, and unsupported models by their tensors."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, Literal

from sdlab.system.errors import RunError, UsageError
from sdlab.system.files import reason

Shapes = Mapping[str, tuple[int, ...]]

LOADED = "sdlab loads complete Stable Diffusion v1 models (v1.4, v1.5): text encoder, VAE and U-Net"

CONVERTED = "convert it with diffusers (from_single_file, then save_pretrained), and write diffusers:FOLDER"
V2, XL = "Stable Diffusion 2.x", "Stable Diffusion XL"  # sampled through diffusers, as single files too
_CONVERTED = ("Stable Diffusion 3", "Flux")

# The first bytes of a file -> what it is. The first match counts.
_STARTS: tuple[tuple[bytes, str], ...] = (
    (
        b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19",
        "a checkpoint in the format of PyTorch before 1.6; load it with PyTorch and save it again with torch.save",
    ),
    (b"\x80", "a bare pickle, which is not read because that would execute it"),
    (b"version https://git-lfs", "a git-lfs pointer and not the file itself; fetch the file with git lfs pull"),
    (b"<", "a web page, often left by a download that needs a login; download the file itself"),
    (b"GGUF", "a GGUF file, which is quantised for other programs"),
    (b"\x1f\x8b", "a gzip archive; unpack it"),
    (b"7z\xbc\xaf", "a 7z archive; unpack it"),
    (b"Rar!", "a RAR archive; unpack it"),
)

# (a tensor name that must occur, one that must not occur, what it is). The first match counts.
_Kinds = tuple[tuple[str, str | None, str], ...]
_MODELS: _Kinds = (
    (r"lora[_.](up|down|A|B)\.|^lora_", None, "a LoRA, which is a change to a model and not a complete model"),
    (
        r"^(string_to_param|emb_params)",
        None,
        "a textual inversion, which is one word for a model and not a complete model",
    ),
    (r"^control_model\.|controlnet_cond_embedding|^input_hint_block", None, "a ControlNet"),
    (r"^conditioner\.embedders\.", None, "Stable Diffusion XL"),
    (r"(^|\.)joint_blocks\.", None, "Stable Diffusion 3"),
    (r"(^|\.)double_blocks\.", None, "Flux"),
    (r"^cond_stage_model\.model\.", None, "Stable Diffusion 2.x, whose text encoder is an OpenCLIP of width 1024"),
    (
        r"^model_ema\.diffusion_model",
        r"^model\.diffusion_model\.",
        "a checkpoint that has only the moving averages of training (model_ema), under names without dots",
    ),
)
_PARTS: _Kinds = (
    (r"^(en|de)coder\.(down|mid|up)_blocks?\.", None, "only a VAE, from a folder in diffusers layout"),
    (r"^(down|mid)_blocks?\.", None, "only a U-Net, from a folder in diffusers layout"),
    (r"^(vision_model|visual)\.", None, "only a CLIP with its vision tower"),
    (r"^(text_model\.)?encoder\.layers\.", None, "only a text encoder, from a folder in diffusers layout"),
    (r"^(residual|(down|up|middle)\.\d+\.residual|(text\.)?layers\.\d)", None, "one part of an sdlab model folder"),
    (r"^(first_stage_model\.)?(en|de)coder\.", r"^model\.diffusion_model\.", "only a VAE"),
    (r"^cond_stage_model\.", r"^model\.diffusion_model\.", "only a text encoder"),
    (r"^(model\.diffusion_model\.)?input_blocks\.", r"^(first_stage|cond_stage)_model\.", "only a U-Net"),
    (r"^model\.diffusion_model\.", r"^first_stage_model\.", "a checkpoint without its VAE"),
    (r"^model\.diffusion_model\.", r"^cond_stage_model\.", "a checkpoint without its text encoder"),
)
_CHANNELS = {
    5: "a depth-to-image model, whose U-Net has 5 input channels",
    7: "an upscaler, whose U-Net has 7 input channels",
    8: "an instruction-following model (InstructPix2Pix), whose U-Net has 8 input channels",
    9: "an inpainting model, whose U-Net has 9 input channels",
}
_CONTEXTS = {
    1024: "Stable Diffusion 2.x, whose context has width 1024",
    1280: "the refiner of Stable Diffusion XL, whose context has width 1280",
    2048: "Stable Diffusion XL, whose context has width 2048",
}
_VARIANTS = frozenset({*_CHANNELS.values(), _CONTEXTS[1280]})


def container(path: Path) -> Literal["zip", "safetensors"]:
    """The format of a weight file, from its content and not its name.

    Raises:
        UsageError: the file has another format, which the message names.
        RunError: the file cannot be read.
    """
    try:
        with path.open("rb") as file:
            start = file.read(64)
    except OSError as error:
        raise RunError(f"cannot read {path}: {reason(error)}") from None
    if start.startswith(b"PK"):
        return "zip"
    if start[8:9] == b"{" or (path.suffix == ".safetensors" and len(start) < 9):  # after the header's length
        return "safetensors"
    for magic, what in _STARTS:
        if start.lstrip().startswith(magic):
            raise UsageError(f"{path}: this is {what}")
    if not start:
        raise UsageError(f"{path}: this is an empty file")
    raise UsageError(f"{path}: this is not a PyTorch checkpoint or a safetensors file")


def advice(what: str, path: Path) -> str:
    """What to do with a file of a kind that `foreign` has found."""
    if what.startswith((V2, XL)):
        return f"write diffusers:{path}"
    return CONVERTED if what.startswith(_CONVERTED) else LOADED


def foreign(shapes: Shapes) -> str | None:
    """The kind of a known model other than Stable Diffusion v1, like `"a LoRA, …"`, from its tensors."""
    name, sizes = named(shapes), _foreign_sizes(shapes)
    # Tensors have the same names in variants of a model.
    variant = sizes if name is not None and name.startswith((V2, XL)) and sizes in _VARIANTS else None
    return variant or name or sizes or _named(_PARTS, shapes)


def named(names: Collection[str]) -> str | None:
    """As `foreign`, from the names of the tensors alone, so that models of other sizes are not taken for foreign."""
    return _named(_MODELS, names)


def _foreign_sizes(shapes: Shapes) -> str | None:
    channels = shapes.get("model.diffusion_model.input_blocks.0.0.weight", ())
    contexts = [shape[1] for key, shape in shapes.items() if key.endswith(".attn2.to_k.weight") and len(shape) == 2]
    taken = channels[1] if len(channels) == 4 else None
    return (_CHANNELS.get(taken) if taken else None) or _unet(None, contexts[0] if contexts else None)


def unet_settings(settings: Mapping[str, Any]) -> str | None:
    """The kind of a known model other than Stable Diffusion v1, from the configuration of a U-Net in diffusers layout.

    Latents may have any number of channels. A model with additional inputs has more input than output channels.
    """
    channels = settings.get("in_channels")
    as_many = channels == settings.get("out_channels")
    return _unet(None if as_many else channels, settings.get("cross_attention_dim"))


def _unet(channels: Any, context: Any) -> str | None:
    for value, known in ((context, _CONTEXTS), (channels, _CHANNELS)):
        if type(value) is int and value in known:
            return known[value]
    return None


def _named(kinds: _Kinds, names: Collection[str]) -> str | None:
    def has(pattern: str) -> bool:
        return any(re.search(pattern, name) for name in names)

    return next((what for yes, no, what in kinds if has(yes) and not (no and has(no))), None)
