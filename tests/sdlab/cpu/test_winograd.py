"""Winograd's filtering: exact in rational terms, and in float32 as good as a direct convolution."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from sdlab.cpu.pack import pack
from sdlab.cpu.packed import can_pack
from sdlab.cpu.winograd import WinogradConv2d, pays, transforms

CPU = torch.device("cpu")


def test_six_products_give_four_outputs_of_a_filter_of_three():
    out, filters, into = transforms()
    g, d = torch.randn(3, dtype=torch.float64), torch.randn(6, dtype=torch.float64)
    found = out @ ((filters @ g) * (into @ d))
    torch.testing.assert_close(found, torch.stack([g @ d[i : i + 3] for i in range(4)]), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("shape", [(2, 16, 16), (1, 13, 22), (3, 4, 4), (1, 1, 1), (40, 8, 8), (1, 3, 90)], ids=str)
@pytest.mark.parametrize("bias", [True, False])
@torch.inference_mode()
def test_it_is_the_convolution_and_rounds_no_worse(shape: tuple[int, int, int], bias: bool):
    torch.manual_seed(0)
    conv = nn.Conv2d(256, 320, 3, padding=1, bias=bias)
    x = F.silu(torch.randn(shape[0], 256, *shape[1:])).to(memory_format=torch.channels_last)
    exact = F.conv2d(x.double(), conv.weight.double(), None if conv.bias is None else conv.bias.double(), padding=1)
    found = WinogradConv2d(conv)(x)
    assert found.shape == exact.shape
    assert (found - exact).norm() < 2e-6 * exact.norm()  # a direct one of 256 channels: 0.3e-6 to 1e-6


@torch.inference_mode()
def test_rounding_does_not_grow_with_the_channels():
    torch.manual_seed(0)
    errors = []
    for channels in (256, 2560):
        conv = nn.Conv2d(channels, 256, 3, padding=1)
        x = torch.randn(1, channels, 16, 16).to(memory_format=torch.channels_last)
        exact = F.conv2d(x.double(), conv.weight.double(), conv.bias.double(), padding=1)
        errors.append(((WinogradConv2d(conv)(x) - exact).norm() / exact.norm()).item())
    assert errors[1] < 1.5 * errors[0]


def test_when_it_is_faster():
    large, small = torch.empty(1, 256, 16, 16), torch.empty(1, 256, 8, 8)
    assert pays(nn.Conv2d(256, 256, 3, padding=1), large)
    assert not pays(nn.Conv2d(256, 256, 3, padding=1), small)
    for other in (
        nn.Conv2d(256, 256, 3, padding=1, stride=2),
        nn.Conv2d(256, 256, 3),
        nn.Conv2d(256, 256, 3, padding=2, dilation=2),
        nn.Conv2d(256, 256, 3, padding=1, groups=2),
        nn.Conv2d(256, 256, 1),
        nn.Conv2d(256, 4, 3, padding=1),
        nn.Conv2d(256, 256, 3, padding=1).bfloat16(),
    ):
        assert not pays(other, large.to(other.weight.dtype))


@pytest.mark.skipif(not can_pack(CPU, torch.float32), reason="this PyTorch cannot pack")
@torch.inference_mode()
def test_packing_chooses_it_at_the_first_call():
    network = nn.Sequential(nn.Conv2d(256, 256, 3, padding=1), nn.Conv2d(256, 256, 3, stride=2, padding=1))
    x = torch.randn(1, 256, 16, 16)
    expected = network(x)
    pack(network)
    torch.testing.assert_close(network(x), expected, rtol=1e-4, atol=1e-5)
    assert [isinstance(part.conv, WinogradConv2d) for part in network] == [True, False]
