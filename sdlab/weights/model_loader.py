"""Models of any layout: read one into a `StableDiffusion`, write the parts of a folder of ours.

Names and shapes of all tensors are checked against the configuration before any number is read. Then one tensor at a
time is read, cast and laid out, so loading takes little more memory than the weights it leaves.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import torch
from safetensors.torch import save
from torch import nn

from sdlab.model.clip import Clip, ClipText
from sdlab.model.config import SD15, ModelConfig
from sdlab.model.diffusion import Unet
from sdlab.model.tokenizer import Tokenizer
from sdlab.model.vae import Vae
from sdlab.system.errors import RunError, UsageError
from sdlab.system.files import replacing
from sdlab.weights import layouts, vocabulary, weights_file
from sdlab.weights.layouts import read_config as read_config
from sdlab.weights.locate import MODELS, Located, Model, locate
from sdlab.weights.locate import ModelSource as ModelSource
from sdlab.weights.networks import PARTS, check, networks
from sdlab.weights.stored_tensor import AnyTensor, fetch

M = TypeVar("M", bound=nn.Module)


@dataclass(frozen=True)
class StableDiffusion:
    """A text-to-image model ready for inference: eval mode, no gradients, channels-last."""

    config: ModelConfig
    tokenizer: Tokenizer
    text: ClipText
    clip: Clip | None  # with the vision tower, where the model has one; its `text` is the one above
    vae: Vae
    unet: Unet
    device: torch.device
    dtype: torch.dtype


@dataclass(frozen=True)
class StoredModel:
    """A model whose numbers still lie in its files; all else is read and checked."""

    located: Located
    config: ModelConfig
    tokenizer: Tokenizer
    tensors: layouts.Parts


def available_models() -> dict[str, str]:
    """Names that `load` knows, with a line on each; reads no file."""
    return dict(MODELS)


def load(model: Model, device: str | torch.device = "cpu", dtype: torch.dtype = torch.float32) -> StableDiffusion:
    """The model of that name, in that file or folder, or of that `ModelSource`.

    Raises:
        UsageError: no such model, files are missing, the configuration or the vocabulary is wrong, or the files are
            those of another kind of model; the message says which kind.
        RunError: a weight file is damaged or does not fit the configuration.
    """
    stored = open_model(model)
    modules = networks(stored.config)
    for part, module in modules.items():
        _fill(module, stored.tensors[part], device, dtype)
    clip, vae, unet = (modules[part] for part in PARTS)
    full = clip if isinstance(clip, Clip) else None
    text = full.text if full else clip
    assert isinstance(text, ClipText)
    assert isinstance(vae, Vae)
    assert isinstance(unet, Unet)
    return StableDiffusion(stored.config, stored.tokenizer, text, full, vae, unet, torch.device(device), dtype)


def open_model(model: Model) -> StoredModel:
    """The same, with the numbers left in the files.

    Raises:
        UsageError, RunError: as `load` does.
    """
    located = locate(model)
    config, tensors = layouts.read(located)
    tokenizer = vocabulary.tokenizer(located, config.text.context_length)
    if (found := tokenizer.vocab_size) != (wanted := config.text.vocab_size):
        raise UsageError(f"{located.vocab}: holds {found} tokens, but text.vocab_size of {located.place} is {wanted}")
    names = layouts.names(located.layout, config)
    for (part, module), path in zip(networks(config).items(), located.weights, strict=True):
        check(tensors[part], module, str(path), names[part])
    return StoredModel(located, config, tokenizer, tensors)


def model_files(model: Model) -> tuple[Path, ...]:
    """All files of a model: its configuration, vocabulary and weights; opens none of them.

    Raises:
        UsageError: no such model, or files are missing: one message names each and where it was looked for.
    """
    return locate(model).files


def load_part(
    path: Path, build: Callable[[], M], device: str | torch.device = "cpu", dtype: torch.dtype = torch.float32
) -> M:
    """One network from its file, ready for inference; `build` makes it, as in `lambda: Vae(config.vae)`.

    Raises:
        UsageError: no such file.
        RunError: the file is damaged or does not fit the network.
    """
    if not path.is_file():
        raise UsageError(f"{path}: no such file")
    with torch.device("meta"):
        module = build()
    tensors, _ = weights_file.read(path)
    check(tensors, module, str(path))
    return _fill(module, tensors, device, dtype)


def load_original(
    state_dict: Mapping[str, AnyTensor],
    config: ModelConfig = SD15,
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
) -> tuple[ClipText, Vae, Unet]:
    """The networks from tensors under the names of Stable Diffusion v1's checkpoint.

    Raises:
        RunError: a key is unknown or missing, or a shape differs from the configuration.
    """
    parts = layouts.split_original(state_dict, config, "checkpoint")
    with torch.device("meta"):
        clip, vae, unet = ClipText(config.text), Vae(config.vae), Unet(config.unet)
    modules: dict[str, nn.Module] = {"clip": clip, "vae": vae, "unet": unet}
    for part, module in modules.items():
        check(parts[part], module, f"checkpoint, {part}")
    for part, module in modules.items():
        _fill(module, parts[part], device, dtype)
    return clip, vae, unet


def save_config(folder: Path, config: ModelConfig) -> None:
    """Write config.json into a model folder, which is made if need be.

    Raises:
        RunError: it cannot be written.
    """
    with replacing(folder / "config.json") as draft:
        folder.mkdir(parents=True, exist_ok=True)
        draft.write_text(config.to_json(), encoding="utf-8")


def save_part(path: Path, module: nn.Module, dtype: torch.dtype = torch.bfloat16) -> None:
    """Store a network's weights as safetensors in `dtype`; the file appears whole or not at all.

    Raises:
        RunError: it cannot be written.
    """
    state = {key: t.detach().to("cpu", dtype).contiguous() for key, t in module.state_dict().items()}
    with replacing(path) as draft:
        draft.write_bytes(save(state))


def _fill(module: M, tensors: Mapping[str, AnyTensor], device: str | torch.device, dtype: torch.dtype) -> M:
    """Give a network made on the `meta` device its weights, and make it ready for inference."""
    state = {}
    for key, tensor in tensors.items():
        layout = torch.channels_last if len(tensor.shape) == 4 else torch.contiguous_format
        try:
            # Read, cast and laid out in one pass; what was read of the file is given back before the next.
            state[key] = torch.empty(tensor.shape, dtype=dtype, device=device, memory_format=layout).copy_(
                fetch(tensor)
            )
        except (OSError, ValueError) as error:
            raise RunError(f"tensor {key!r} cannot be read any more: {error}") from None
    module.load_state_dict(state, assign=True)
    return module.eval().requires_grad_(False)
