"""Adversarial losses on patches of pictures: the discriminator, its losses, and the weight of the generator's loss."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

Form = Literal["hinge", "non-saturating"]


class PatchDiscriminator(nn.Module):
    """Pictures (B, 3, H, W) -> one logit per patch, (B, 1, H/4, W/4); a large logit means a real patch.

    A patch is 18 × 18 pixels (Isola et al. 2017, arXiv:1611.07004, section 3.2.2). There are no normalisation layers,
    since statistics over a batch conflict with a gradient penalty per picture (Gulrajani et al. 2017,
    arXiv:1704.00028, section 4). With `spectral`, every convolution has spectral norm 1 (Miyato et al. 2018,
    arXiv:1802.05957, algorithm 1).
    """

    def __init__(self, width: int = 32, spectral: bool = True) -> None:
        super().__init__()

        def conv(width_in: int, width_out: int, size: int, stride: int) -> nn.Module:
            layer = nn.Conv2d(width_in, width_out, size, stride=stride, padding=(size - 1) // 2)
            return spectral_norm(layer) if spectral else layer

        self.body = nn.Sequential(
            conv(3, width, 4, 2), nn.LeakyReLU(0.2),
            conv(width, 2 * width, 4, 2), nn.LeakyReLU(0.2),
            conv(2 * width, 4 * width, 3, 1), nn.LeakyReLU(0.2),
            conv(4 * width, 1, 1, 1),
        )  # fmt: skip

    def forward(self, images: Tensor) -> Tensor:
        """The logits of the patches, (B, 1, H/4, W/4)."""
        logits: Tensor = self.body(images)
        return logits


def discriminator_loss(real: Tensor, fake: Tensor, form: Form) -> Tensor:
    """The loss of the discriminator for its logits of real and generated pictures, a scalar.

    `hinge` is E[max(0, 1 − D(x))] + E[max(0, 1 + D(G))] (Lim & Ye 2017, arXiv:1705.02894, eq. 5). `non-saturating` is
    the cross-entropy −E[log s(D(x))] − E[log(1 − s(D(G)))], where s is the sigmoid (Goodfellow et al. 2014,
    arXiv:1406.2661, eq. 1).
    """
    if form == "hinge":
        return F.relu(1 - real).mean() + F.relu(1 + fake).mean()
    return F.softplus(-real).mean() + F.softplus(fake).mean()


def generator_loss(fake: Tensor, form: Form) -> Tensor:
    """The loss of the generator for the discriminator's logits of its pictures, a scalar.

    `hinge` is −E[D(G)], `non-saturating` −E[log s(D(G))] (Goodfellow et al. 2014, arXiv:1406.2661, section 3).
    """
    return -fake.mean() if form == "hinge" else F.softplus(-fake).mean()


def gradient_penalty(discriminator: nn.Module, images: Tensor) -> Tensor:
    """R₁ = E[|∇ₓ D(x)|²] on real pictures, a scalar; D(x) is the sum over patches.

    (Mescheder et al. 2018, arXiv:1801.04406, eq. 9). It is computed in float32.
    """
    with torch.autocast(images.device.type, enabled=False):
        images = images.detach().float().requires_grad_()
        [gradient] = torch.autograd.grad(discriminator(images).sum(), images, create_graph=True)
        return gradient.square().flatten(1).sum(1).mean()


def adaptive_weight(reconstruction: Tensor, adversarial: Tensor, last_layer: Tensor) -> Tensor:
    """|∇ reconstruction| / |∇ adversarial| at the generator's last layer, a scalar without gradient, at most 10⁴.

    With this weight both losses pull equally on the last layer (Esser et al. 2021, arXiv:2012.09841, eq. 7).
    """
    [pull] = torch.autograd.grad(reconstruction, last_layer, retain_graph=True)
    [push] = torch.autograd.grad(adversarial, last_layer, retain_graph=True)
    return (pull.norm() / (push.norm() + 1e-6)).clamp(max=1e4).detach()
