"""Convolutions and linear layers for a CPU, with weights packed once.

PyTorch computes them with oneDNN, which converts a weight to its own blocked layout at every call. If feature
maps are small and weights are large, as at the coarse levels of a U-Net, the conversion takes longer than the product.
Here it is done once, as in `torch.compile` with frozen weights, but without a compiler.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

_OPS = [
    "_convolution_pointwise",
    "_reorder_convolution_weight",
    "_convolution_transpose_pointwise",
    "_reorder_convolution_transpose_weight",
]


class PackedConv2d(nn.Module):
    """A convolution for inference. Its weight is not a parameter and stays on the CPU.

    The first call packs the weight. For 1 × 1 kernels the best layout depends on the number of positions, and a layout
    for another number is many times slower, so the weight is packed again when the input shape changes.
    """

    def __init__(
        self,
        weight: Tensor,
        bias: Tensor | None,
        padding: tuple[int, ...] = (0, 0),
        stride: tuple[int, ...] = (1, 1),
        dilation: tuple[int, ...] = (1, 1),
        groups: int = 1,
    ) -> None:
        """weight (C_out, C / groups, h, w), bias (C_out,)."""
        super().__init__()
        self.weight, self.bias = weight.detach(), None if bias is None else bias.detach()
        self.geometry = (list(padding), list(stride), list(dilation), groups)
        self.depends = weight.shape[2:] == (1, 1)
        self.laid_out_for: list[int] | None = None

    @staticmethod
    def of(conv: nn.Conv2d) -> PackedConv2d:
        """The same convolution."""
        assert not isinstance(conv.padding, str)
        return PackedConv2d(conv.weight, conv.bias, conv.padding, conv.stride, conv.dilation, conv.groups)

    def forward(self, x: Tensor, activation: str = "none") -> Tensor:
        """(B, C, H, W) -> (B, C_out, H_out, W_out), followed by `activation`, "gelu" or "sigmoid"."""
        convolution = torch.ops.mkldnn._convolution_pointwise
        return convolution(x, self._packed_for(x), self.bias, *self.geometry, activation, [], "none")

    def times(self, x: Tensor, other: Tensor) -> Tensor:
        """The convolution of x, multiplied elementwise by `other` (B, C_out, H_out, W_out)."""
        convolution = torch.ops.mkldnn._convolution_pointwise.binary
        return convolution(x, other, self._packed_for(x), self.bias, *self.geometry, "mul", None, None, [], None)

    def _packed_for(self, x: Tensor) -> Tensor:
        check_inference(x)
        if self.laid_out_for is None or (self.depends and self.laid_out_for != list(x.shape)):
            plain = self.weight if self.laid_out_for is None else self.weight.to_dense()
            self.laid_out_for = list(x.shape)
            reorder = torch.ops.mkldnn._reorder_convolution_weight
            self.weight = reorder(plain, *self.geometry, self.laid_out_for)
        return self.weight


class PackedLinear(nn.Module):
    """A linear layer for inference, as a 1 × 1 convolution, which oneDNN computes faster than the default library."""

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        """weight (C_out, C), bias (C_out,)."""
        super().__init__()
        self.product = PackedConv2d(weight[:, :, None, None], bias)

    def forward(self, x: Tensor, activation: str = "none") -> Tensor:
        """(…, C) -> (…, C_out), followed by `activation`, "gelu" or "sigmoid"."""
        return _as_rows(self.product(_as_map(x), activation), x)

    def times(self, x: Tensor, other: Tensor) -> Tensor:
        """The linear map of x, multiplied elementwise by `other` (…, C_out)."""
        return _as_rows(self.product.times(_as_map(x), _as_map(other)), x)


def check_inference(x: Tensor) -> None:
    """Check that no gradient of a packed layer is needed, which would silently be missing.

    Raises:
        ValueError: it is.
    """
    if x.requires_grad and torch.is_grad_enabled():
        raise ValueError("packed networks have no gradients; use optimise_for_inference(model, gradients=True)")


def can_pack(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether this PyTorch has the operators for packing on this device. They are not part of its public API."""
    ops = torch.ops.mkldnn
    if device.type != "cpu" or not torch.backends.mkldnn.is_available():
        return False
    if not all(hasattr(ops, name) for name in _OPS):
        return False
    return dtype == torch.float32 or (dtype == torch.bfloat16 and ops._is_mkldnn_bf16_supported())


def _as_map(rows: Tensor) -> Tensor:
    """(…, C) -> (1, C, N, 1), channels last."""
    return rows.reshape(1, -1, rows.shape[-1]).transpose(1, 2).unsqueeze(-1)


def _as_rows(product: Tensor, like: Tensor) -> Tensor:
    """(1, C_out, N, 1) -> (…, C_out), for `like` (…, C)."""
    return product.squeeze(-1).transpose(1, 2).reshape(*like.shape[:-1], -1)
