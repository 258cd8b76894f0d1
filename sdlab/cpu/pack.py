"""A network made ready for inference on a CPU: every product of it in its fastest form."""

from __future__ import annotations

from torch import Tensor, nn

from sdlab.cpu.packed import PackedConv2d, PackedLinear
from sdlab.cpu.packed_upsample import PackedUpsample
from sdlab.cpu.winograd import WinogradConv2d, pays
from sdlab.model.attention import FeedForward
from sdlab.model.blocks import Upsample


def pack(network: nn.Module) -> None:
    """Replace feed-forwards, upsamplings, convolutions and linear maps in place.

    From then on the network is good for inference alone: no gradients, no other device, no state_dict.
    """
    for name, child in network.named_children():
        if isinstance(child, ChosenConv2d | PackedUpsample):
            continue  # packed already
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


class ChosenConv2d(nn.Module):
    """A convolution that at its first call, when sizes are known, becomes the faster of two."""

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        self.conv: nn.Module = conv
        self.chosen = False

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C', H', W')."""
        if not self.chosen:
            assert isinstance(self.conv, nn.Conv2d)
            self.conv = WinogradConv2d(self.conv) if pays(self.conv, x) else PackedConv2d.of(self.conv)
            self.chosen = True
        return self.conv(x)


class PackedFeedForward(nn.Module):
    """A `FeedForward` whose gelu and whose multiplication are part of the products before them."""

    def __init__(self, whole: FeedForward) -> None:
        super().__init__()
        weights, biases = (part.detach().chunk(2) for part in whole.value_and_gate.parameters())
        # Copies, so that the two halves do not keep what they are halves of.
        self.value, self.gate = (PackedLinear(w.clone(), b.clone()) for w, b in zip(weights, biases, strict=True))
        self.out = PackedLinear(whole.out.weight, whole.out.bias)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, C) -> (B, T, C)."""
        return self.out(self.value.times(x, self.gate(x, "gelu")))
