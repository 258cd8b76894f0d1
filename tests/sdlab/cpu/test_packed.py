"""Weights packed for a CPU: the same function, in whatever shapes it is called, and nothing left unpacked."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from sdlab.cpu.pack import is_packed, pack
from sdlab.cpu.packed import PackedLinear, can_pack
from sdlab.model.attention import FeedForward
from sdlab.model.config import SCENES
from sdlab.model.diffusion import Unet

CPU = torch.device("cpu")
DTYPES = [
    pytest.param(dtype, marks=pytest.mark.skipif(not can_pack(CPU, dtype), reason=f"no fast {dtype} here"))
    for dtype in (torch.float32, torch.bfloat16)
]

pytestmark = pytest.mark.skipif(not can_pack(CPU, torch.float32), reason="this PyTorch cannot pack")


def unpacked(network: nn.Module) -> list[str]:
    return [name for name, part in network.named_modules() if isinstance(part, nn.Conv2d | nn.Linear | FeedForward)]


@pytest.mark.parametrize(
    ("whole", "shape"),
    [
        (nn.Conv2d(6, 10, 3, padding=1), (2, 6, 7, 5)),
        (nn.Conv2d(6, 10, 3, stride=2, padding=1), (2, 6, 7, 5)),
        (nn.Conv2d(6, 10, 1), (2, 6, 7, 5)),
        (nn.Linear(6, 10), (6,)),
        (nn.Linear(6, 10), (3, 6)),
        (nn.Linear(6, 10, bias=False), (2, 3, 4, 6)),
    ],
    ids=lambda value: str(value),
)
@torch.inference_mode()
def test_a_packed_product_is_the_product(whole: nn.Module, shape: tuple[int, ...]):
    x = torch.randn(shape)
    expected = whole(x)
    network = nn.Sequential(whole)
    assert not is_packed(network)
    pack(network)
    assert is_packed(network)
    torch.testing.assert_close(network(x), expected)
    assert unpacked(network) == []
    if x.ndim == 4:
        torch.testing.assert_close(network(x.contiguous(memory_format=torch.channels_last)), expected)


@pytest.mark.parametrize("dtype", DTYPES)
@torch.inference_mode()
def test_a_packed_unet_predicts_the_same_at_any_size(dtype: torch.dtype):
    torch.manual_seed(0)
    unet = Unet(SCENES.unet).to(dtype, memory_format=torch.channels_last).eval()
    for parameter in unet.parameters():
        parameter += 0.02 * torch.randn_like(parameter)
    sizes = [(3, 8, 8), (1, 8, 8), (2, 5, 9)]
    given = [
        (torch.randn(n, SCENES.unet.latent_channels, height, width), torch.rand(n) * 999, torch.randn(n, 24, 128))
        for n, height, width in sizes
    ]
    expected = [unet(*one) for one in given]
    pack(unet)
    for one, wanted in zip(given, expected, strict=True):
        found = unet(*one)
        assert found.dtype == dtype
        assert (found - wanted).float().norm() < (1e-5 if dtype == torch.float32 else 0.02) * wanted.float().norm()
    assert unpacked(unet) == []


@torch.inference_mode()
def test_a_linear_map_is_packed_anew_for_another_number_of_rows_and_only_then(monkeypatch: pytest.MonkeyPatch):
    reorder = torch.ops.mkldnn._reorder_convolution_weight
    packings: list[int] = []

    def recorded(*given: Any) -> torch.Tensor:
        packings.append(given[-1][2])
        return reorder(*given)

    monkeypatch.setattr(torch.ops.mkldnn, "_reorder_convolution_weight", recorded)
    linear = nn.Linear(320, 640)
    packed = PackedLinear(linear.weight, linear.bias)
    for rows in (2, 2, 8192, 8192, 154, 2):
        x = torch.randn(rows, 320)
        torch.testing.assert_close(packed(x), linear(x), rtol=1e-4, atol=1e-5)
    assert packings == [2, 8192, 154, 2]


@pytest.mark.parametrize("dtype", DTYPES)
@torch.inference_mode()
def test_a_packed_feed_forward_is_the_feed_forward(dtype: torch.dtype):
    torch.manual_seed(0)
    network = nn.Sequential(FeedForward(96)).to(dtype)
    x = torch.randn(2, 50, 96).to(dtype)
    exact, before = network.double()(x.double()), network.to(dtype)(x)
    pack(network)
    assert unpacked(network) == []
    after = network(x)
    assert after.dtype == dtype
    assert (after - exact).norm() < 1.2 * (before - exact).norm()
