"""User files for tests: random weights with the names of Stable Diffusion v1, and a vocabulary."""

import gzip
import json
import shutil
import sys
from dataclasses import replace
from functools import cache
from pathlib import Path

import torch

from sdlab.model.config import SD15, ModelConfig
from sdlab.model.stable_diffusion import networks
from sdlab.weights import layout_original as original
from sdlab.weights import safetensors_file
from sdlab.weights.layouts import CONFIG_KEY

DATA = Path(__file__).parents[1] / "data"
KEYS = json.loads(gzip.decompress((DATA / "sd15_keys.json.gz").read_bytes()))  # of the real file: [shape, dtype]

# As many layers of each kind as in v1.5, but narrow.
NARROW = replace(
    SD15,
    name="narrow",
    image_size=64,
    text=replace(SD15.text, width=32, heads=4),
    vae=replace(SD15.vae, width=16, groups=8),
    unet=replace(SD15.unet, width=32, heads=4, context_width=32, groups=8),
)


@cache
def shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """The network tensors of a checkpoint in the sizes of `config`."""
    state = {part: module.state_dict() for part, module in networks(replace(config, vision=None)).items()}
    return {theirs: tuple(state[part][ours].shape) for theirs, (part, ours) in original.names(config).items()}


def random_weights(config: ModelConfig, dtype: torch.dtype = torch.float32) -> dict[str, torch.Tensor]:
    """Weights without zeros that keep the size of a unit signal."""
    generator = torch.Generator().manual_seed(0)
    weights = {}
    for key, shape in shapes(config).items():
        noise = torch.randn(shape, generator=generator)
        if noise.dim() > 1:
            noise.div_(noise[0].numel() ** 0.5)
        else:
            noise.mul_(0.1).add_(key.endswith("weight"))  # a norm's scale, or any bias
        weights[key] = noise.to(dtype)
    return weights


def rest_of_checkpoint() -> dict[str, torch.Tensor]:
    """The 15 entries of the real file that do not belong to a network."""
    ignored = {key: entry for key, entry in KEYS.items() if original.rename(key) is None}
    return {key: torch.zeros(shape, dtype=getattr(torch, dtype)) for key, (shape, dtype) in ignored.items()}


def hollow_checkpoint(path: Path) -> None:
    """A checkpoint with exactly the entries of the real one, each a single stored value, repeated: a file of 1 MB."""
    state = {key: torch.zeros((), dtype=getattr(torch, dtype)).expand(shape) for key, (shape, dtype) in KEYS.items()}
    torch.save({"state_dict": state, "epoch": 8}, path)


def write_with_config(path: Path, config: ModelConfig, weights: dict[str, torch.Tensor]) -> None:
    """A file in the original layout with its configuration."""
    safetensors_file.write(path, weights, metadata={CONFIG_KEY: config.to_json()})


def clip_vocabulary(folder: Path) -> None:
    """CLIP's vocab.json and merges.txt."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("vocab.json", "merges.txt"):
        with gzip.open(DATA / "clip_bpe" / f"{name}.gz") as packed, (folder / name).open("wb") as file:
            shutil.copyfileobj(packed, file)


def full_checkpoint(path: Path) -> None:
    """Random weights with exactly the names and sizes of the real file: 4.27 GB."""
    torch.save({"state_dict": random_weights(SD15) | rest_of_checkpoint(), "epoch": 8}, path)


if __name__ == "__main__":  # in a separate process, which releases the memory
    full_checkpoint(Path(sys.argv[1]))
