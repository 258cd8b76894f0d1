"""Gradients of compiled networks are those of the plain ones, in the precisions that training allows."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity
from training import TINY

from sdlab.model.decoder import Decoder
from sdlab.model.diffusion import Unet

Network = Callable[[], nn.Module]
NETWORKS: dict[str, tuple[Network, Callable[[int, torch.Generator], tuple[Tensor, ...]]]] = {
    "unet": (
        lambda: Unet(TINY.unet),
        lambda size, generator: (
            torch.randn(2, TINY.unet.latent_channels, size, size, generator=generator),
            torch.tensor([10, 700]),
            torch.randn(2, 5, TINY.unet.context_width, generator=generator),
        ),
    ),
    "decoder": (
        lambda: Decoder(TINY.vae),
        lambda size, generator: (torch.randn(2, TINY.vae.latent_channels, size, size, generator=generator),),
    ),
}


def gradients(name: str, size: int, dtype: torch.dtype, *, compiled: bool) -> dict[str, Tensor]:
    """The gradients of all weights, on two random inputs of `size` × `size`."""
    build, inputs = NETWORKS[name]
    torch.manual_seed(0)
    network = build().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    with torch.no_grad():
        for p in network.parameters():
            if p.ndim > 1 and not p.any():  # the ends of residual branches start at zero, and the gradients before them
                p.normal_(std=0.1)
    if compiled:
        network.compile(dynamic=False)  # as in training
    with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
        out = network(*inputs(size, torch.Generator().manual_seed(1)))
    out.float().square().mean().backward()
    return {key: p.grad for key, p in network.named_parameters() if p.grad is not None}


@pytest.mark.slow
@pytest.mark.parametrize("size", [8, 15])  # in one process: from the second shape on, sizes could become symbols
def test_compiling_keeps_every_gradient(size: int):
    plain, compiled = (gradients("unet", size, torch.float32, compiled=c) for c in (False, True))
    assert plain.keys() == compiled.keys()
    for key, gradient in plain.items():
        torch.testing.assert_close(compiled[key], gradient, rtol=1e-3, atol=1e-6, msg=key)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "size"), [("unet", 8), ("unet", 15), ("decoder", 8)])
def test_compiling_keeps_every_gradient_in_mixed_precision(name: str, size: int):
    """Each has the direction and the length of the exact one, up to the rounding of bfloat16."""
    exact = gradients(name, size, torch.float32, compiled=False)
    compiled = gradients(name, size, torch.bfloat16, compiled=True)
    assert exact.keys() == compiled.keys()
    for key, gradient in exact.items():
        if key.endswith("key.bias"):
            continue  # it adds the same to all logits of a softmax, so its gradient is 0
        assert gradient.norm() > 1e-6, key
        assert cosine_similarity(compiled[key].flatten(), gradient.flatten(), dim=0) > 0.98, key
        assert float(compiled[key].norm()) == pytest.approx(float(gradient.norm()), rel=0.1), key
