"""Products on a CPU with their weights packed once.

PyTorch leaves them to oneDNN, which at every call brings a weight into its own blocked layout. Where feature maps are
small and weights large, as at the coarse levels of a U-Net, that takes longer than the product itself. What
`torch.compile` does when it freezes weights is done here at once, without a compiler.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

Geometry = tuple[list[int], list[int], list[int], int]  # padding, stride, dilation, groups
_POINTWISE: Geometry = ([0, 0], [1, 1], [1, 1], 1)
_POSITIONS = 4096  # how many a 1 × 1 product is laid out for; with any other number it is only a little slower


class PackedConv2d(nn.Module):
    """A convolution for inference; its weight is no parameter any more, and stays on the CPU."""

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        self.bias = conv.bias
        assert not isinstance(conv.padding, str)
        self.geometry: Geometry = (list(conv.padding), list(conv.stride), list(conv.dilation), conv.groups)
        like = [1, conv.in_channels, _POSITIONS, 1] if conv.kernel_size == (1, 1) else None
        self.weight = _pack(conv.weight, self.geometry, like)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C', H', W')."""
        return torch.ops.mkldnn._convolution_pointwise(x, self.weight, self.bias, *self.geometry, "none", [], "")


class PackedLinear(nn.Module):
    """A linear map for inference, as the 1 × 1 convolution that it is: oneDNN's are faster than the other library's."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.bias = linear.bias
        self.weight = _pack(linear.weight[:, :, None, None], _POINTWISE, [1, linear.in_features, _POSITIONS, 1])

    def forward(self, x: Tensor) -> Tensor:
        """(…, C) -> (…, C')."""
        rows = x.reshape(1, -1, x.shape[-1]).transpose(1, 2).unsqueeze(-1)  # (1, C, N, 1), channels last
        out = torch.ops.mkldnn._convolution_pointwise(rows, self.weight, self.bias, *_POINTWISE, "none", [], "")
        return out.squeeze(-1).transpose(1, 2).reshape(*x.shape[:-1], -1)


def can_pack(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether this PyTorch has on this device what packing needs, which is no public part of it."""
    fast = dtype == torch.float32 or (dtype == torch.bfloat16 and torch.ops.mkldnn._is_mkldnn_bf16_supported())
    return (
        device.type == "cpu"
        and torch.backends.mkldnn.is_available()
        and hasattr(torch.ops.mkldnn, "_convolution_pointwise")
        and fast
    )


def pack(network: nn.Module) -> None:
    """Replace convolutions and linear maps in place, one at a time, so that no weight is held twice.

    From then on the network is good for inference alone: no gradients, no other device, no state_dict.
    """
    for name, child in network.named_children():
        if isinstance(child, nn.Conv2d):
            setattr(network, name, PackedConv2d(child))
        elif isinstance(child, nn.Linear):
            setattr(network, name, PackedLinear(child))
        else:
            pack(child)


def _pack(weight: Tensor, geometry: Geometry, like: list[int] | None) -> Tensor:
    reorder: Any = torch._C._nn.mkldnn_reorder_conv2d_weight  # whose annotation lacks `like`
    with torch.no_grad():
        return reorder(weight.to_mkldnn(), *geometry, like)
