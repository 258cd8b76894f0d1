"""OpenAI's CLIP (Radford et al. 2021, arXiv:2103.00020), from a folder in the layout of transformers."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from sdlab.model.clip import Clip
from sdlab.model.config import ClipTextConfig, ClipVisionConfig
from sdlab.model.tokenizer import Tokenizer
from sdlab.model.unfilled import unfilled
from sdlab.picture import to_bytes
from sdlab.system.errors import UsageError
from sdlab.system.files import reason
from sdlab.weights import weights_file
from sdlab.weights.fill import check
from sdlab.weights.rename_rules import CLIP_TEXT, Rules, rename
from sdlab.weights.stored_tensor import fetch
from sdlab.weights.vocabulary import tokenizer_in

WEIGHTS = ("model.safetensors", "pytorch_model.bin")
FILES = ("config.json", "vocab.json", "merges.txt")
# Mean and standard deviation of the training pictures, per channel, from OpenAI's release.
MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)

_VISION: Rules = (
    (r"^class_token$", "embeddings.class_embedding"),
    (r"^patch\.", "embeddings.patch_embedding."),
    (r"^position\.", "embeddings.position_embedding."),
    (r"^norm_in\.", "pre_layrnorm."),
    (r"^norm_out\.", "post_layernorm."),
    *CLIP_TEXT,
)


def missing_files(folder: Path) -> list[str]:
    """The missing files of the folder, one line each."""
    if not folder.is_dir():
        return [f"{folder}: is not a folder; it should contain {', '.join((*FILES, WEIGHTS[0]))} of OpenAI's CLIP"]
    lacking = [name for name in FILES if not (folder / name).is_file()]
    lacking += [] if any((folder / name).is_file() for name in WEIGHTS) else [" or ".join(WEIGHTS)]
    return [f"{folder}: {name} of OpenAI's CLIP is missing" for name in lacking]


def content(folder: Path) -> list[Path]:
    """The files that are read, for a complete folder."""
    return [*(folder / name for name in FILES), _weights(folder)]


def load(folder: Path, device: torch.device | str = "cpu") -> tuple[Clip, Tokenizer, Callable[[Tensor], Tensor]]:
    """The network in float32, its tokenizer, and the function from pictures (B, 3, H, W) in [−1, 1] to its input.

    Raises:
        UsageError: a file is missing, or the configuration belongs to another network.
        RunError: the weights are damaged or do not fit the configuration.
    """
    if lacking := missing_files(folder):
        raise UsageError(*lacking)
    text, vision = _configurations(folder / "config.json")
    with unfilled():
        clip = Clip(text, vision)
    path = _weights(folder)
    ours = {_theirs(name): name for name in clip.state_dict()}
    tensors = {ours.get(key, key): t for key, t in weights_file.read(path)[0].items() if "position_ids" not in key}
    check(tensors, clip, str(path), {name: theirs for theirs, name in ours.items()})
    clip.load_state_dict({name: fetch(t).to(device, torch.float32) for name, t in tensors.items()}, assign=True)
    tokenizer = tokenizer_in(folder, text)
    return clip.eval().requires_grad_(False), tokenizer, lambda images: prepare(images, vision.image_size)


def prepare(images: Tensor, side: int) -> Tensor:
    """Pictures (B, 3, H, W) in [−1, 1] preprocessed as in CLIP's training, (B, 3, side, side).

    The shorter side is resized to `side` with Pillow's bicubic filter, the centre is cropped, and each channel is
    normalised by the mean and standard deviation of the training pictures.
    """
    shown = torch.from_numpy(np.stack([_middle(Image.fromarray(image), side) for image in to_bytes(images).numpy()]))
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (MEAN, STD))
    return ((shown.permute(0, 3, 1, 2) / 255 - mean) / std).to(images.device)


def _weights(folder: Path) -> Path:
    return next(folder / name for name in WEIGHTS if (folder / name).is_file())


def _middle(picture: Image.Image, side: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
    width, height = (int(side * n / min(picture.size)) for n in picture.size)
    resized = np.asarray(picture.resize((width, height), Image.Resampling.BICUBIC))
    top, left = (height - side) // 2, (width - side) // 2
    return resized[top : top + side, left : left + side]


def _theirs(name: str) -> str:
    """The name in transformers of a tensor."""
    for ours, prefix, rules in (("text.", "text_model.", CLIP_TEXT), ("vision.", "vision_model.", _VISION)):
        if name.startswith(ours):
            return prefix + rename(name.removeprefix(ours), rules)
    name = re.sub(r"^image_projection\.", "visual_projection.", name)
    return "logit_scale" if name == "log_scale" else name


def _configurations(path: Path) -> tuple[ClipTextConfig, ClipVisionConfig]:
    try:
        content = json.loads(path.read_bytes())
        text, vision = _DEFAULT_TEXT | content["text_config"], _DEFAULT_VISION | content["vision_config"]
        projection = int(content.get("projection_dim", 512))
        for part in (text, vision):
            if part["hidden_act"] != "quick_gelu" or part["intermediate_size"] != 4 * part["hidden_size"]:
                raise UsageError(f"{path}: is not OpenAI's CLIP; the width or activation of its layers differs")
        return (
            ClipTextConfig(text["vocab_size"], text["max_position_embeddings"], *_sizes(text)),
            ClipVisionConfig(vision["image_size"], vision["patch_size"], *_sizes(vision), projection),
        )
    except OSError as error:
        raise UsageError(f"{path}: {reason(error)}") from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UsageError(f"{path}: is not the configuration of a CLIP ({type(error).__name__}: {error})") from None


def _sizes(part: dict[str, Any]) -> tuple[int, int, int]:
    return part["hidden_size"], part["num_hidden_layers"], part["num_attention_heads"]


# The defaults of a transformers configuration, from ViT-B/32.
_COMMON = {"hidden_act": "quick_gelu", "num_hidden_layers": 12}
_DEFAULT_TEXT = _COMMON | {
    "vocab_size": 49408,
    "hidden_size": 512,
    "intermediate_size": 2048,
    "num_attention_heads": 8,
    "max_position_embeddings": 77,
}
_DEFAULT_VISION = _COMMON | {
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_attention_heads": 12,
    "image_size": 224,
    "patch_size": 32,
}
