"""Gradients of the compiled U-Net are those of the plain one, in the precision that training allows."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from training import TINY

from sdlab.model.diffusion import Unet


def gradients(size: int, *, compiled: bool) -> dict[str, Tensor]:
    """The gradients of all weights on two latents of `size` × `size`."""
    torch.manual_seed(0)
    unet = Unet(TINY.unet).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    with torch.no_grad():
        unet.conv_out.weight.normal_(std=0.1)  # it starts at zero, and every other gradient with it
    if compiled:
        unet.compile(dynamic=False)  # as in training
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(2, TINY.unet.latent_channels, size, size, generator=generator)
    context = torch.randn(2, 5, TINY.unet.context_width, generator=generator)
    unet(x, torch.tensor([10, 700]), context).square().mean().backward()
    return {name: p.grad for name, p in unet.named_parameters() if p.grad is not None}


@pytest.mark.slow
@pytest.mark.parametrize("size", [8, 12, 16])  # in one process: from the second shape on, sizes could become symbols
def test_compiling_keeps_every_gradient(size: int):
    plain, compiled = gradients(size, compiled=False), gradients(size, compiled=True)
    assert plain.keys() == compiled.keys()
    for name, gradient in plain.items():
        torch.testing.assert_close(compiled[name], gradient, rtol=1e-3, atol=1e-6, msg=name)
