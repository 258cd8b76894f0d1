"""Model folders: read one into a `StableDiffusion`, write its parts.

A folder holds config.json, vocab.json, merges.txt, clip.safetensors, vae.safetensors and unet.safetensors. Every header
is checked against the configuration before any weight is read.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save
from torch import Tensor, nn

from sdlab import resources
from sdlab.errors import RunError, UsageError, did_you_mean, unknown
from sdlab.files import reason, replacing
from sdlab.model import original
from sdlab.model.clip import Clip, ClipText
from sdlab.model.config import SD15, ModelConfig
from sdlab.model.diffusion import Unet
from sdlab.model.tokenizer import Tokenizer
from sdlab.model.vae import Vae

MODELS = {
    "scenes": "lab model, 64 × 64 pictures of simple scenes; comes with sdlab (data/scenes)",
    "sd15": "Stable Diffusion v1.5, 512 × 512; needs the user's own files in data/",
}
SD15_FILES = ("v1-5-pruned-emaonly.ckpt", "vocab.json", "merges.txt")
WEIGHTS = ("clip.safetensors", "vae.safetensors", "unet.safetensors")

M = TypeVar("M", bound=nn.Module)
Shapes = Mapping[str, tuple[int, ...]]


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


def available_models() -> dict[str, str]:
    """Names that `load` knows, with a line on each; reads no file."""
    return dict(MODELS)


def load(model: str | Path, device: str | torch.device = "cpu", dtype: torch.dtype = torch.float32) -> StableDiffusion:
    """The model of that name, or in that folder.

    Raises:
        UsageError: no such model, a file is missing, or the configuration or the vocabulary is wrong.
        RunError: a weight file is damaged or does not fit the configuration.
    """
    config_json, vocab, merges, *weights = model_files(model)
    config = read_config(config_json.parent)
    tokenizer = Tokenizer.from_files(vocab, merges, config.text.context_length)
    if (found := tokenizer.vocab_size) != (wanted := config.text.vocab_size):
        raise UsageError(f"{vocab}: holds {found} tokens, but text.vocab_size in config.json is {wanted}")
    vision = config.vision
    with torch.device("meta"):
        clip: nn.Module = ClipText(config.text) if vision is None else Clip(config.text, vision)
        vae, unet = Vae(config.vae), Unet(config.unet)
    for path, module in zip(weights, (clip, vae, unet), strict=True):
        _check(_header(path), module, str(path))
    for path, module in zip(weights, (clip, vae, unet), strict=True):
        _fill(module, load_file(path), device, dtype)
    full = clip if isinstance(clip, Clip) else None
    text = full.text if full else clip
    assert isinstance(text, ClipText)
    return StableDiffusion(config, tokenizer, text, full, vae, unet, torch.device(device), dtype)


def model_files(model: str | Path) -> tuple[Path, ...]:
    """All files of a model: its configuration, vocabulary (two files) and weights (three).

    Raises:
        UsageError: no such model, or a file is missing.
    """
    folder = _folder(model)
    files = tuple(folder / name for name in ("config.json", "vocab.json", "merges.txt", *WEIGHTS))
    for path in files:
        if not path.is_file():
            raise UsageError(f"{path}: no such file; a model folder needs {', '.join(f.name for f in files)}")
    return files


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
    _check(_header(path), module, str(path))
    return _fill(module, load_file(path), device, dtype)


def load_original(
    state_dict: Mapping[str, Tensor],
    config: ModelConfig = SD15,
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
) -> tuple[ClipText, Vae, Unet]:
    """The networks from tensors under the names of Stable Diffusion v1's checkpoint.

    Raises:
        RunError: a key is unknown or missing, or a shape differs from the configuration.
    """
    try:
        parts = original.split(state_dict)
    except KeyError as error:
        raise RunError(f"checkpoint: unknown key {error.args[0]!r}") from None
    with torch.device("meta"):
        clip, vae, unet = ClipText(config.text), Vae(config.vae), Unet(config.unet)
    modules: dict[str, nn.Module] = {"clip": clip, "vae": vae, "unet": unet}
    for part, module in modules.items():
        _check({key: tuple(t.shape) for key, t in parts[part].items()}, module, f"checkpoint, {part}")
    for part, module in modules.items():
        _fill(module, parts[part], device, dtype)
    return clip, vae, unet


def read_config(folder: Path) -> ModelConfig:
    """The configuration of a model folder.

    Raises:
        UsageError: config.json is missing or wrong.
    """
    path = folder / "config.json"
    try:
        return ModelConfig.from_json(path.read_bytes(), source=str(path))
    except OSError as error:
        raise UsageError(f"{path}: {reason(error)}") from None


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


def _folder(model: str | Path) -> Path:
    if model == "scenes":
        return resources.find("data/scenes")
    if model == "sd15":
        files = ", ".join(str(Path("data") / name) for name in SD15_FILES)
        raise UsageError(f"model 'sd15' needs {files}; see data/README.md for where they come from")
    folder = resources.find(model)
    if not folder.is_dir():
        if Path(model).name == str(model):
            raise UsageError(unknown("model", str(model), MODELS) + ", or the folder of a model")
        raise UsageError(f"{model}: no such folder")
    return folder


def _header(path: Path) -> Shapes:
    """Names and shapes of the tensors in a safetensors file, without reading them."""
    try:
        with safe_open(path, framework="pt") as file:
            return {key: tuple(file.get_slice(key).get_shape()) for key in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise RunError(f"{path}: not a whole safetensors file ({error}); fetch or train it again") from None


def _check(found: Shapes, module: nn.Module, source: str) -> None:
    """Names and shapes must be those of the network, or RunError names the first that is not."""
    wanted = {key: tuple(t.shape) for key, t in module.state_dict().items()}
    for key in sorted(found.keys() - wanted.keys()):
        raise RunError(f"{source}: unknown tensor {key!r}{did_you_mean(key, wanted.keys() - found.keys())}")
    for key in sorted(wanted.keys() - found.keys()):
        raise RunError(f"{source}: tensor {key!r} is missing")
    for key, shape in wanted.items():
        if found[key] != shape:
            raise RunError(f"{source}: tensor {key!r} has shape {found[key]}, the configuration asks for {shape}")


def _fill(module: M, state: Mapping[str, Tensor], device: str | torch.device, dtype: torch.dtype) -> M:
    """Give a network made on the `meta` device its weights, and make it ready for inference."""
    module.load_state_dict({key: t.to(device, dtype) for key, t in state.items()}, assign=True)
    module.eval().requires_grad_(False)
    module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return module
