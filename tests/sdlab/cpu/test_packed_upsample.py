"""Upsampling with weights added in advance: the same function, for a doubling by way of a transposed convolution."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from sdlab.cpu.pack import pack
from sdlab.cpu.packed import can_pack
from sdlab.cpu.packed_upsample import PackedUpsample, added_in_advance
from sdlab.model.blocks import Upsample

CPU = torch.device("cpu")


def test_a_convolution_of_repeated_pixels_is_a_transposed_one_of_the_pixels():
    torch.manual_seed(0)
    whole = Upsample(5).double()
    x = torch.randn(2, 5, 3, 4, dtype=torch.float64)
    # Whole numbers, so that weights added in float32 are exact.
    whole.conv.weight.data = torch.randint(-9, 10, whole.conv.weight.shape).double()
    found = F.conv_transpose2d(x, added_in_advance(whole.conv.weight.data), whole.conv.bias, stride=2, padding=1)
    torch.testing.assert_close(found, whole(x), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@torch.inference_mode()
def test_packed_it_is_the_upsampling_at_any_size_and_rounds_little_worse(dtype: torch.dtype):
    if not can_pack(CPU, dtype):
        pytest.skip(f"no fast {dtype} here")
    torch.manual_seed(0)
    plain = Upsample(48).to(dtype)
    exact = Upsample(48).double()
    exact.load_state_dict(plain.state_dict())
    network = nn.Sequential(Upsample(48).to(dtype))
    network[0].load_state_dict(plain.state_dict())
    pack(network)
    pack(network)  # what is packed stays as it is
    packed = network[0]
    assert isinstance(packed, PackedUpsample)
    for height, width, size in [(6, 7, None), (1, 1, None), (6, 7, (12, 14)), (6, 7, (11, 14)), (6, 7, (11, 13))]:
        x = torch.randn(2, 48, height, width).to(dtype, memory_format=torch.channels_last)
        wanted, found = exact(x.double(), size), packed(x, size)
        assert (found.shape, found.dtype) == (wanted.shape, dtype)
        # One more rounding, of the sums of weights, and sums in another order.
        assert (found - wanted).norm() < 2 * (plain(x, size) - wanted).norm() + 1e-7 * wanted.norm()


@pytest.mark.skipif(not can_pack(CPU, torch.float32), reason="this PyTorch cannot pack")
@torch.inference_mode()
def test_a_doubling_does_not_repeat_pixels(monkeypatch: pytest.MonkeyPatch):
    network = nn.Sequential(Upsample(4))
    pack(network)
    monkeypatch.setattr(F, "interpolate", lambda *given, **options: pytest.fail("repeated"))
    assert network(torch.randn(1, 4, 3, 3)).shape == (1, 4, 6, 6)
