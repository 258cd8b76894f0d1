"""3 × 3 convolutions in float32 by Winograd's minimal filtering, with a quarter of the multiplications.

The method is from (Winograd 1980, "Arithmetic Complexity of Computations"). Its use on tiles of 4 × 4 pixels is
from (Lavin & Gray 2015, arXiv:1509.09308, sec. 4).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_TILE, _KERNEL = 4, 3
_PATCH = _TILE + _KERNEL - 1
# Besides infinity. Measured rounding errors are half those of the usual 0, ±1, ±2, and close to those of a direct sum.
_POINTS = (0.0, 0.75, -0.75, 1.5, -1.5)
_CHANNELS = 256  # with fewer, the transforms cost the time that the products save
_AT_ONCE = 256  # tiles, so that intermediate values stay in the cache


def transforms() -> tuple[Tensor, Tensor, Tensor]:
    """Aᵀ (4, 6), G (6, 3), Bᵀ (6, 6) in float64: four outputs Aᵀ [(G g) ⊙ (Bᵀ d)] of a filter g (3,) on data d (6,).

    This is the Toom–Cook construction. A product of polynomials follows from its values at six points, and filtering is
    its transpose. The rows of Bᵀ are scaled to a largest element of one, and G absorbs the factor.
    """

    def values(terms: int) -> Tensor:
        points = torch.tensor(_POINTS, dtype=torch.float64)[:, None]
        at_infinity = F.one_hot(torch.tensor([terms - 1]), terms)
        return torch.cat([points ** torch.arange(terms), at_infinity])

    into = torch.linalg.inv(values(_PATCH)).T
    scale = into.abs().amax(1, keepdim=True)
    return values(_TILE).T, values(_KERNEL) * scale, into / scale


def pays(conv: nn.Conv2d, x: Tensor) -> bool:
    """Whether conv can be a `WinogradConv2d` and the gain in speed on x (B, C, H, W) is worth the memory."""
    return (
        (conv.kernel_size, conv.stride, conv.padding, conv.dilation) == ((3, 3), (1, 1), (1, 1), (1, 1))
        and conv.groups == 1
        and conv.weight.dtype == torch.float32
        and min(conv.in_channels, conv.out_channels) >= _CHANNELS
        and x.shape[0] * x.shape[2] * x.shape[3] >= max(conv.in_channels, conv.out_channels)
    )


class WinogradConv2d(nn.Module):
    """A 3 × 3 convolution of stride 1 and padding 1 for float32 inference. Its weights take four times the memory."""

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        out, filters, into = transforms()
        # Each filter in two dimensions, G g Gᵀ: (36, C, C_out).
        plain = conv.weight.detach().permute(2, 3, 1, 0).flatten(0, 1)
        self.weight = (torch.kron(filters, filters).float() @ plain.flatten(1)).unflatten(1, plain.shape[1:])
        self.bias = torch.zeros(conv.out_channels) if conv.bias is None else conv.bias.detach()
        self.into, self.out = torch.kron(into, into).float(), torch.kron(out, out).float()

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C_out, H, W)."""
        batch, channels, height, width = x.shape
        down, across = -(-height // _TILE), -(-width // _TILE)
        edges = (0, 0, 1, _TILE * across + 1 - width, 1, _TILE * down + 1 - height)
        padded = F.pad(x.permute(0, 2, 3, 1), edges)
        patches = padded.unfold(1, _PATCH, _TILE).unfold(2, _PATCH, _TILE).permute(0, 1, 2, 4, 5, 3)
        whole = x.new_empty(batch, down * _TILE, across * _TILE, self.weight.shape[2])
        tiles = whole.view(batch, down, _TILE, across, _TILE, -1).transpose(2, 3)
        rows = max(1, _AT_ONCE // (batch * across))
        for part, seen in zip(tiles.split(rows, 1), patches.split(rows, 1), strict=True):
            values = self.into @ seen.reshape(-1, _PATCH**2, channels)  # (tiles, 36, C)
            products = torch.bmm(values.transpose(0, 1), self.weight)  # (36, tiles, C_out)
            torch.add((self.out @ products.transpose(0, 1)).view(part.shape), self.bias, out=part)
        return whole[:, :height, :width].permute(0, 3, 1, 2)
