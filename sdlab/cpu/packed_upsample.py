"""Upsampling on a CPU as a transposed convolution, without repeating pixels.

A doubled image has each row twice, so two of the three rows under a kernel are equal, and their weights can be added in
advance. The result is a transposed convolution of stride 2 and kernel 4 × 4, with 4/9 of the multiplications.
"""

from __future__ import annotations

from itertools import product

import torch
from torch import Tensor, nn

from sdlab.cpu.packed import check_inference
from sdlab.model.blocks import Upsample
from sdlab.model.config import Size

_GEOMETRY = ([1, 1], [0, 0], [2, 2], [1, 1], 1)  # padding, output padding, stride, dilation, groups


class PackedUpsample(nn.Module):
    """An `Upsample` for inference. Its weights take 25/9 of the memory."""

    def __init__(self, whole: Upsample) -> None:
        super().__init__()
        self.whole = whole
        kernel = added_in_advance(whole.conv.weight.detach())
        self.weight = torch.ops.mkldnn._reorder_convolution_transpose_weight(kernel, *_GEOMETRY)
        self.bias = None if whole.conv.bias is None else whole.conv.bias.detach()

    def forward(self, x: Tensor, size: Size | None = None) -> Tensor:
        """(B, C, H, W) -> (B, C, 2H, 2W), or `size` instead of (2H, 2W)."""
        if size is not None and tuple(size) != (2 * x.shape[2], 2 * x.shape[3]):
            return self.whole(x, size)
        check_inference(x)
        transposed = torch.ops.mkldnn._convolution_transpose_pointwise
        return transposed(x, self.weight, self.bias, *_GEOMETRY, "none", [], "")


def added_in_advance(weight: Tensor) -> Tensor:
    """Convert the weight of a convolution after repetition, (C_out, C, 3, 3), to a transposed one, (C, C_out, 4, 4)."""
    mirrored = weight.transpose(0, 1).flip(2, 3)  # transposed convolutions flip the kernel
    kernel = mirrored.new_zeros(*mirrored.shape[:2], 4, 4, dtype=torch.float32)
    for row, column in product((0, 1), (0, 1)):
        kernel[:, :, row : row + 3, column : column + 3] += mirrored
    return kernel.to(weight.dtype)
