"""CLIP: a text and a vision transformer with a shared embedding space (Radford et al. 2021, arXiv:2103.00020).

The text transformer conditions the U-Net. The complete `Clip` scores how well a picture matches a text.
"""

from __future__ import annotations

from math import log

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sdlab.model.attention import Attention
from sdlab.model.config import ClipTextConfig, ClipVisionConfig


def quick_gelu(x: Tensor) -> Tensor:
    """x · sigmoid(1.702 x), the activation of CLIP (Hendrycks & Gimpel 2016, arXiv:1606.08415, sec. 2)."""
    return x * torch.sigmoid(1.702 * x)


class Layer(nn.Module):
    """Pre-norm self-attention and an MLP of four times the width, each with a residual."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.attention = Attention(width, heads, qkv_bias=True)
        self.norm2 = nn.LayerNorm(width)
        self.fc1 = nn.Linear(width, 4 * width)
        self.fc2 = nn.Linear(4 * width, width)

    def forward(self, x: Tensor, causal: bool) -> Tensor:
        """(B, T, C) -> (B, T, C)."""
        x = x + self.attention(self.norm1(x), causal=causal)
        return x + self.fc2(quick_gelu(self.fc1(self.norm2(x))))


def _layers(width: int, heads: int, count: int) -> nn.ModuleList:
    """Transformer layers with the paper's initialisation (Radford et al. 2021, arXiv:2103.00020, sec. 2.5).

    Residual branches are scaled down with depth, so that their sum keeps its variance.
    """
    layers = nn.ModuleList(Layer(width, heads) for _ in range(count))
    branch = width**-0.5 * (2 * count) ** -0.5
    for name, p in layers.named_parameters():
        if name.endswith("bias"):
            nn.init.zeros_(p)
        elif "norm" not in name:
            into_sum = name.endswith(("out.weight", "fc2.weight"))
            nn.init.normal_(p, std=branch if into_sum else (2 * width) ** -0.5 if "fc1" in name else width**-0.5)
    return layers


class ClipText(nn.Module):
    """The causal text transformer. Its output after the final norm is the context of the U-Net."""

    def __init__(self, config: ClipTextConfig) -> None:
        super().__init__()
        self.config = config
        self.token = nn.Embedding(config.vocab_size, config.width)
        self.position = nn.Embedding(config.context_length, config.width)
        self.layers = _layers(config.width, config.heads, config.layers)
        self.norm_out = nn.LayerNorm(config.width)
        # Larger than the paper's 0.02 and 0.01. The U-Net attends to the state of every token, and a short training
        # changes little but the state of the end token. The embedding must therefore outweigh the layers' output.
        nn.init.normal_(self.token.weight, std=0.5)
        nn.init.normal_(self.position.weight, std=0.25)

    def forward(self, tokens: Tensor) -> Tensor:
        """Token ids (B, L), L up to the context length -> (B, L, width)."""
        x = self.token(tokens) + self.position.weight[: tokens.shape[1]]
        for layer in self.layers:
            x = layer(x, causal=True)
        return self.norm_out(x)


class ClipVision(nn.Module):
    """The vision transformer (Dosovitskiy et al. 2020, arXiv:2010.11929), with CLIP's extra norm before the layers."""

    def __init__(self, config: ClipVisionConfig) -> None:
        super().__init__()
        self.config = config
        width, tokens = config.width, (config.image_size // config.patch) ** 2 + 1
        self.patch = nn.Conv2d(3, width, config.patch, stride=config.patch, bias=False)
        self.class_token = nn.Parameter(torch.empty(width))
        nn.init.normal_(self.class_token, std=width**-0.5)
        self.position = nn.Embedding(tokens, width)
        self.norm_in = nn.LayerNorm(width)
        self.layers = _layers(width, config.heads, config.layers)
        self.norm_out = nn.LayerNorm(width)
        # Larger than the paper's width^−½, so that the content of a patch does not drown out its position.
        nn.init.normal_(self.position.weight, std=0.5)

    def states(self, images: Tensor) -> list[Tensor]:
        """(B, 3, S, S) in [−1, 1] at the configured size -> the tokens after each layer, (B, T, width).

        The class token is the first.
        """
        x = self.patch(images.to(self.patch.weight.dtype)).flatten(2).transpose(1, 2)  # (B, T − 1, width)
        x = torch.cat([self.class_token.expand(len(x), 1, -1).to(x.dtype), x], dim=1)
        x = self.norm_in(x + self.position.weight)
        states = []
        for layer in self.layers:
            x = layer(x, causal=False)
            states.append(x)
        return states

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, S, S) in [−1, 1] at the configured size -> the class token after the last norm, (B, width)."""
        return self.norm_out(self.states(images)[-1][:, 0])


class Clip(nn.Module):
    """Both transformers, their projections into the shared space, and the learned temperature."""

    def __init__(self, text: ClipTextConfig, vision: ClipVisionConfig) -> None:
        super().__init__()
        self.text = ClipText(text)
        self.vision = ClipVision(vision)
        self.text_projection = nn.Linear(text.width, vision.projection, bias=False)
        self.image_projection = nn.Linear(vision.width, vision.projection, bias=False)
        self.log_scale = nn.Parameter(torch.tensor(log(1 / 0.07)))  # the paper's temperature, sec. 2.5
        nn.init.normal_(self.text_projection.weight, std=text.width**-0.5)
        nn.init.normal_(self.image_projection.weight, std=vision.width**-0.5)

    def embed_text(self, tokens: Tensor) -> Tensor:
        """Token ids (B, L) -> unit vectors (B, projection), taken at the first end token. Every row ends with one."""
        hidden = self.text(tokens)
        ends = (tokens == tokens[:, -1:]).int().argmax(dim=1)
        return F.normalize(self.text_projection(hidden[torch.arange(len(tokens), device=tokens.device), ends]), dim=-1)

    def embed_image(self, images: Tensor) -> Tensor:
        """(B, 3, S, S) in [−1, 1] -> unit vectors (B, projection)."""
        return F.normalize(self.image_projection(self.vision(images)), dim=-1)

    def forward(self, images: Tensor, tokens: Tensor) -> Tensor:
        """Scaled cosine similarities of all pictures with all texts, (B_images, B_texts)."""
        return self.scale() * self.embed_image(images) @ self.embed_text(tokens).T

    def scale(self) -> Tensor:
        """The factor on the cosine similarities, at most 100."""
        return self.log_scale.exp().clamp(max=100.0)
