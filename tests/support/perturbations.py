"""Small U-Nets, the perturbations of all strategies, and the plain arithmetic of a perturbed transformer."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from math import inf

import torch
from scipy.ndimage import gaussian_filter1d
from torch import Tensor, nn

from sdlab.guidance.nag import ContrastedAttention
from sdlab.guidance.pag import IdentityAttention
from sdlab.guidance.seg import BlurredQueries
from sdlab.guidance.slg import SkippedTransformer
from sdlab.guidance.tpg import ShuffledTokens
from sdlab.model.attention import Attention, SpatialTransformer
from sdlab.model.config import SCENES, UnetConfig
from sdlab.model.diffusion import Unet
from sdlab.model.perturbation import Perturbation
from sdlab.model.place import Place

PERTURBATIONS: tuple[Perturbation, ...] = (
    IdentityAttention(), BlurredQueries(), BlurredQueries(blur=0.8), SkippedTransformer(), ShuffledTokens(key="a"),
    ContrastedAttention(scale=4.0, limit=1.2, blend=0.7),
)  # fmt: skip
SMALL = replace(SCENES.unet, width=16, heads=2, context_width=12)
CONFIGS: dict[str, UnetConfig] = {
    "lab": SMALL,
    "three levels": replace(SMALL, multipliers=(1, 2, 2), residual_blocks=2, attention_rates=(2, 4)),
    "middle only": replace(SMALL, attention_rates=()),
}


@cache
def small_unet(config: UnetConfig = SMALL) -> Unet:
    """A U-Net in float64 with random weights, away from its zero initialisation."""
    torch.manual_seed(0)
    unet = Unet(config).double()
    for p in unet.parameters():
        p.data += 0.2 * torch.randn_like(p)
    return unet.eval().requires_grad_(False)


def inputs(images: int, config: UnetConfig = SMALL) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Latents (B, 8, 8, 12), timesteps, contexts and negative contexts of these images."""
    torch.manual_seed(1)
    latents = torch.randn(images, config.latent_channels, 8, 12, dtype=torch.float64)
    contexts = torch.randn(2, images, 5, config.context_width, dtype=torch.float64)
    return latents, torch.linspace(50, 900, images), contexts[0], contexts[1]


class PlainTransformer(nn.Module):
    """A transformer with one perturbation, written out. In place of a `SpatialTransformer`."""

    def __init__(self, original: SpatialTransformer, perturbation: Perturbation, negative: Tensor, name: str) -> None:
        super().__init__()
        self.original, self.perturbation, self.negative, self.name = original, perturbation, negative, name

    def forward(self, x: Tensor, context: Tensor, *_: object) -> Tensor:
        """x (B, C, H, W), context (B, S, C_ctx) -> (B, C, H, W)."""
        one, block, size = self.perturbation, self.original.block, (x.shape[2], x.shape[3])
        if isinstance(one, SkippedTransformer):
            return x
        h = self.original.proj_in(self.original.norm(x)).flatten(2).mT
        if isinstance(one, ShuffledTokens):
            numbers = torch.arange(h.shape[1])[None, :, None]
            h = h[:, one.change(numbers, numbers, Place(self.name, size)).flatten()]
        h = h + block.self_attention.out(self._self_attention(block.self_attention, block.norm1(h), size))
        cross, tokens = block.cross_attention, block.norm2(h)
        z = softmax_attention(cross, cross.query(tokens), context, context)
        if isinstance(one, ContrastedAttention):
            away = one.scale * z - (one.scale - 1) * softmax_attention(
                cross, cross.query(tokens), self.negative, self.negative
            )
            ratio = away.abs().sum(-1, keepdim=True) / z.abs().sum(-1, keepdim=True)
            z = one.blend * away / ratio * ratio.clamp(max=one.limit) + (1 - one.blend) * z
        h = h + cross.out(z)
        h = h + block.feed_forward(block.norm3(h))
        return x + self.original.proj_out(h.mT.reshape(x.shape))

    def _self_attention(self, attention: Attention, x: Tensor, size: tuple[int, int]) -> Tensor:
        if isinstance(self.perturbation, IdentityAttention):
            return attention.value(x)
        query = attention.query(x)
        if isinstance(self.perturbation, BlurredQueries):
            query = blurred(query, size, self.perturbation.blur)
        return softmax_attention(attention, query, x, x)


def softmax_attention(attention: Attention, query: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """The output of each head, before the last linear layer."""
    q, k, v = (x.unflatten(2, (attention.heads, -1)) for x in (query, attention.key(keys), attention.value(values)))
    scores = torch.einsum("bthd, bshd -> bhts", q, k) / q.shape[-1] ** 0.5
    return torch.einsum("bhts, bshd -> bthd", scores.softmax(-1), v).flatten(2)


def blurred(query: Tensor, size: tuple[int, int], std: float) -> Tensor:
    """Queries (B, T, C) blurred over the map by SciPy, or their mean for infinity."""
    if std == inf:
        return query.mean(1, keepdim=True).expand_as(query)
    grid = query.unflatten(1, size).numpy()
    for axis in (1, 2):
        grid = gaussian_filter1d(grid, std, axis=axis, mode="reflect", truncate=8.0)
    return torch.from_numpy(grid).flatten(1, 2)
