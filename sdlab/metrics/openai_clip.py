"""OpenAI's CLIP (Radford et al. 2021, arXiv:2103.00020), from a folder in the layout of transformers."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from sdlab.model.clip import Clip
from sdlab.model.config import ClipTextConfig, ClipVisionConfig
from sdlab.model.tokenizer import Tokenizer
from sdlab.model.unfilled import shapes_of, unfilled
from sdlab.picture import to_bytes
from sdlab.system.errors import UsageError
from sdlab.system.limits import brief
from sdlab.system.output import remark
from sdlab.weights import weights_file
from sdlab.weights.extras import is_extra, note
from sdlab.weights.fill import check, fill
from sdlab.weights.json_file import read_object
from sdlab.weights.padding import unpadded
from sdlab.weights.rename_rules import CLIP_TEXT, Rules, rename
from sdlab.weights.vocabulary import COMBINED, MERGES, VOCAB, added_file, check_size, read_tokenizer

_CONFIG = "config.json"
WEIGHTS = ("model.safetensors", "pytorch_model.bin")
# Mean and standard deviation of the training pictures, per channel, from OpenAI's release.
PREPARATION = "pictures rounded to 8 bits, shorter side resized by Pillow's bicubic filter, centre cropped"
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
        usual = ", ".join((_CONFIG, VOCAB, MERGES, WEIGHTS[0]))
        return [f"{folder}: is not a folder; it should contain {usual} of OpenAI's CLIP"]
    lacking = [name for name in (_CONFIG, *_vocabulary(folder)) if not (folder / name).is_file()]
    lacking += [] if any((folder / name).is_file() for name in WEIGHTS) else [" or ".join(WEIGHTS)]
    return [f"{folder}: {name} of OpenAI's CLIP is missing" for name in lacking]


def content(folder: Path) -> list[Path]:
    """The files that are read, for a complete folder."""
    vocab, merges = (folder / name for name in _vocabulary(folder))
    added = added_file(vocab)
    files = [folder / _CONFIG, vocab, merges, *([] if added is None else [added]), _weights(folder)]
    return list(dict.fromkeys(files))


def load(folder: Path, device: torch.device | str = "cpu") -> tuple[Clip, Tokenizer, Callable[[Tensor], Tensor]]:
    """The network in float32, its tokenizer, and the function from pictures (B, 3, H, W) in [−1, 1] to its input.

    Raises:
        UsageError: a file is missing, or the configuration belongs to another network.
        RunError: the weights are damaged or do not fit the configuration.
    """
    if lacking := missing_files(folder):
        raise UsageError(*lacking)
    text, vision = _configurations(folder / _CONFIG)
    vocab, merges = (folder / name for name in _vocabulary(folder))
    tokenizer, path = read_tokenizer(vocab, merges, text.context_length), _weights(folder)
    stored, notes = weights_file.read(path)[0], list[str]()
    table = _theirs("text.token.weight")
    if found := unpadded(stored.get(table), text.vocab_size, tokenizer.vocab_size, path):
        text, stored = replace(text, vocab_size=tokenizer.vocab_size), {**stored, table: found[0]}
        notes.append(found[1])
    check_size(tokenizer, text, vocab, folder)
    with unfilled():
        clip = Clip(text, vision)
    ours = {_theirs(name): name for name in clip.state_dict()}
    extra = {name for name in stored if name not in ours and is_extra(name)}
    tensors = {ours.get(name, name): tensor for name, tensor in stored.items() if name not in extra}
    check(tensors, shapes_of(clip), str(path), {name: theirs for theirs, name in ours.items()})
    for one in (*notes, *note(path, extra)):
        remark(f"note: {one}")
    return fill(clip, tensors, device, torch.float32), tokenizer, lambda images: prepare(images, vision.image_size)


def prepare(images: Tensor, side: int) -> Tensor:
    """Pictures (B, 3, H, W) in [−1, 1] preprocessed as in CLIP's training, (B, 3, side, side).

    The shorter side is resized to `side` with Pillow's bicubic filter, the centre is cropped, and each channel is
    normalised by the mean and standard deviation of the training pictures.
    """
    return resized(images, side, MEAN, STD)


def resized(images: Tensor, side: int, means: Sequence[float], stds: Sequence[float]) -> Tensor:
    """The same for any side, means and standard deviations."""
    shown = torch.from_numpy(np.stack([_middle(Image.fromarray(image), side) for image in to_bytes(images).numpy()]))
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (means, stds))
    return ((shown.permute(0, 3, 1, 2) / 255 - mean) / std).to(images.device)


def _vocabulary(folder: Path) -> tuple[str, str]:
    """The names of the files of the vocabulary and the merges, which may be one and the same."""
    one = not (folder / VOCAB).exists() and (folder / COMBINED).exists()
    return (COMBINED, COMBINED) if one else (VOCAB, MERGES)


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
    content = read_object(path)
    try:
        text, vision = _DEFAULT_TEXT | content["text_config"], _DEFAULT_VISION | content["vision_config"]
        for part in (text, vision):
            if part["hidden_act"] != "quick_gelu" or part["intermediate_size"] != 4 * part["hidden_size"]:
                raise UsageError(f"{path}: is not OpenAI's CLIP; the width or activation of its layers differs")
        projection = _whole({"projection_dim": 512} | content, "projection_dim")
        return (
            ClipTextConfig(*_whole(text, "vocab_size", "max_position_embeddings", *_SIZES)),
            ClipVisionConfig(*_whole(vision, "image_size", "patch_size", *_SIZES), *projection),
        )
    except (ValueError, KeyError, TypeError) as error:
        raise UsageError(f"{path}: is not the configuration of a CLIP ({type(error).__name__}: {error})") from None


def _whole(table: Mapping[str, Any], *keys: str) -> list[int]:
    """The values of keys.

    Raises:
        KeyError: a key is missing.
        TypeError: a value is not a whole number.
    """
    if wrong := next((key for key in keys if type(table[key]) is not int), None):
        raise TypeError(f"{wrong} must be a whole number, got {brief(table[wrong])}")
    return [table[key] for key in keys]


_SIZES = ("hidden_size", "num_hidden_layers", "num_attention_heads")
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
