"""A CLIP of random weights in the layout of transformers."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import CLIPConfig, CLIPImageProcessorPil, CLIPModel, CLIPProcessor, CLIPTokenizer

from sdlab.model.tokenizer import train_vocabulary
from sdlab.weights.vocabulary import write_vocabulary


def tiny_clip(folder: Path, act: str = "quick_gelu") -> tuple[CLIPModel, CLIPProcessor]:
    """A CLIP of random weights in a folder, as transformers writes it."""
    folder.mkdir()
    vocab, merges = train_vocabulary(["a red circle", "a blue star on white"] * 5, 600)
    write_vocabulary(folder, vocab, merges)
    both = {"intermediate_size": 64 * 4, "num_hidden_layers": 2, "hidden_act": act}
    torch.manual_seed(0)
    config = CLIPConfig(
        text_config={**both, "hidden_size": 64, "vocab_size": len(vocab), "num_attention_heads": 4, "eos_token_id": 2},
        vision_config={**both, "hidden_size": 64, "num_attention_heads": 2, "image_size": 48, "patch_size": 16},
        projection_dim=32,
    )
    model = CLIPModel(config).eval()
    for parameter in model.parameters():  # livelier than its initial weights, so that pictures and prompts differ
        torch.nn.init.normal_(parameter, std=0.15)
    model.save_pretrained(folder)
    tokenizer = CLIPTokenizer(str(folder / "vocab.json"), str(folder / "merges.txt"))
    sizes = {"size": {"shortest_edge": 48}, "crop_size": {"height": 48, "width": 48}}
    return model, CLIPProcessor(CLIPImageProcessorPil(**sizes), tokenizer)
