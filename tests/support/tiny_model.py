"""A tiny text-to-image model with random weights, as a model folder."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from sdlab.model.clip import ClipText
from sdlab.model.config import SCENES, ClipTextConfig, ModelConfig, UnetConfig, VaeConfig
from sdlab.model.diffusion import Unet
from sdlab.model.tokenizer import train_vocabulary
from sdlab.model.vae import Vae
from sdlab.weights.model_folder import save_config, save_part
from sdlab.weights.vocabulary import write_vocabulary

VOCAB, MERGES = train_vocabulary(["a red circle above a blue square", "two green triangles"], 520)
CONFIG = ModelConfig(
    name="tiny",
    image_size=16,
    text=ClipTextConfig(vocab_size=len(VOCAB), context_length=12, width=16, layers=1, heads=2),
    vision=None,
    vae=VaeConfig(width=8, multipliers=(1, 2), residual_blocks=1, groups=4),
    unet=UnetConfig(
        width=8, multipliers=(1, 2), residual_blocks=1, attention_rates=(1, 2), heads=2, context_width=16, groups=4
    ),
    levels=SCENES.levels,
    prediction="v",
)


def write_tiny(folder: Path, early: bool = False) -> Path:
    """Write the model, with unet_early.safetensors if `early`."""
    folder.mkdir(parents=True, exist_ok=True)
    save_config(folder, CONFIG)
    write_vocabulary(folder, VOCAB, MERGES)
    parts: dict[str, nn.Module] = {"clip": ClipText(CONFIG.text), "vae": Vae(CONFIG.vae), "unet": Unet(CONFIG.unet)}
    if early:
        parts["unet_early"] = Unet(CONFIG.unet)
    for k, (name, module) in enumerate(parts.items()):
        save_part(folder / f"{name}.safetensors", shaken(module, k), torch.float32)
    return folder


def shaken(module: nn.Module, seed: int) -> nn.Module:
    """The network away from its zero initialisation."""
    torch.manual_seed(seed)
    for p in module.parameters():
        p.data += 0.1 * torch.randn_like(p)
    return module
