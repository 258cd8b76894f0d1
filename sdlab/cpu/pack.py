"""Packing of a network for inference on a CPU, with each product in its fastest form."""

from __future__ import annotations

from torch import Tensor, nn

from sdlab.cpu.packed import PackedConv2d, PackedLinear
from sdlab.cpu.packed_upsample import PackedUpsample
from sdlab.cpu.winograd import WinogradConv2d, pays
from sdlab.model.attention import FeedForward
from sdlab.model.blocks import Upsample


def pack(network: nn.Module) -> None:
    """Replace the feed-forwards, upsamplings, convolutions and linear maps of a network in place.

    A packed network is for inference only. It has no gradients and no complete state_dict, and it cannot be moved to
    another device or dtype. Parts that are already packed are skipped.
    """
    for name, child in network.named_children():
        if isinstance(child, ChosenConv2d | PackedUpsample):
            continue
        if isinstance(child, FeedForward):
            setattr(network, name, PackedFeedForward(child))
        elif isinstance(child, Upsample):
            setattr(network, name, PackedUpsample(child))
            pack(child)
        elif isinstance(child, nn.Conv2d):
            setattr(network, name, ChosenConv2d(child))
        elif isinstance(child, nn.Linear):
            setattr(network, name, PackedLinear(child.weight, child.bias))
        else:
            pack(child)


def is_packed(network: nn.Module) -> bool:
    """Whether any part of the network is packed."""
    return any(isinstance(part, ChosenConv2d | PackedLinear | PackedUpsample) for part in network.modules())


class ChosenConv2d(nn.Module):
    """A convolution that picks the faster of two implementations at its first call, when the input size is known."""

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        self.conv: nn.Module = conv
        self.chosen = False

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C_out, H_out, W_out)."""
        if not self.chosen:
            assert isinstance(self.conv, nn.Conv2d)
            self.conv = WinogradConv2d(self.conv) if pays(self.conv, x) else PackedConv2d.of(self.conv)
            self.chosen = True
        return self.conv(x)


class PackedFeedForward(nn.Module):
    """A `FeedForward` with gelu and multiplication fused into the products before them."""

    def __init__(self, whole: FeedForward) -> None:
        super().__init__()
        weights, biases = (part.detach().chunk(2) for part in whole.value_and_gate.parameters())
        # Copied, because a view would keep the whole weight in memory.
        self.value, self.gate = (PackedLinear(w.clone(), b.clone()) for w, b in zip(weights, biases, strict=True))
        self.out = PackedLinear(whole.out.weight, whole.out.bias)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, C) -> (B, T, C)."""
        return self.out(self.value.times(x, self.gate(x, "gelu")))
