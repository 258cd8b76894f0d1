"""Metrics of image-to-image against their formulas, and on pictures that change by known amounts."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from math import log10

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torchmetrics.functional.image import peak_signal_noise_ratio

from sdlab.metrics import METRICS
from sdlab.metrics.changes_made import changes_made
from sdlab.metrics.feature_distance import feature_distance
from sdlab.metrics.files import MetricFiles
from sdlab.metrics.lab import evaluator_file
from sdlab.metrics.psnr import EQUAL, psnr
from sdlab.metrics.ssim import ssim
from sdlab.weights.model_folder import load_part
from sdlab.worlds import scenes
from sdlab.worlds.evaluator import Evaluator
from sdlab.worlds.scenes.captions import Statement, Thing
from sdlab.worlds.scenes.reader import Reading, Seen


@pytest.fixture(scope="module")
def evaluator() -> Evaluator:
    return load_part(evaluator_file(MetricFiles()), partial(Evaluator, scenes.HEADS))


def renders(n: int, seed: int = 0) -> Tensor:
    return scenes.render(scenes.sample(n, torch.Generator().manual_seed(seed)))


def noisy(images: Tensor, strength: float) -> Tensor:
    noise = torch.randn(images.shape, generator=torch.Generator().manual_seed(1))
    return (images + strength * noise).clamp(-1, 1)


def test_psnr_is_20_decibels_for_each_factor_of_ten():
    """Pictures in [−1, 1] a constant c apart: 10 log₁₀ (2² / c²)."""
    images = torch.zeros(4, 3, 16, 16)
    others = images + torch.tensor([0.0, 0.02, 0.2, 2.0]).view(4, 1, 1, 1)
    expected = [EQUAL, 20 * log10(2 / 0.02), 20 * log10(2 / 0.2), 0.0]
    torch.testing.assert_close(psnr(images, others), torch.tensor(expected), rtol=1e-4, atol=1e-4)


def test_psnr_is_that_of_torchmetrics():
    images = renders(6)
    others = noisy(images, 0.3)
    expected = peak_signal_noise_ratio(images, others, data_range=2.0, reduction="none", dim=(1, 2, 3))
    torch.testing.assert_close(psnr(images, others), expected, rtol=1e-6, atol=0)


def test_ssim_is_the_formula_of_the_paper():
    """Wang et al. 2004, equation 13, written out: Gaussian windows of 11 pixels, σ = 1.5, the edges mirrored."""
    a, b = renders(3).double(), noisy(renders(3), 0.3).double()
    found = ssim(a, b)
    torch.testing.assert_close(ssim(a, a), torch.ones(3, dtype=torch.float64))
    a, b = (F.pad(images, (5, 5, 5, 5), mode="reflect") for images in (a, b))
    x = torch.arange(11, dtype=torch.float64) - 5
    kernel = torch.exp(-(x**2) / (2 * 1.5**2))
    window = torch.outer(kernel, kernel) / kernel.sum() ** 2

    def mean(images: Tensor) -> Tensor:
        return F.conv2d(images, window.expand(3, 1, 11, 11), groups=3)

    c1, c2 = (0.01 * 2) ** 2, (0.03 * 2) ** 2
    ma, mb = mean(a), mean(b)
    va, vb, cov = mean(a * a) - ma**2, mean(b * b) - mb**2, mean(a * b) - ma * mb
    expected = ((2 * ma * mb + c1) * (2 * cov + c2) / ((ma**2 + mb**2 + c1) * (va + vb + c2))).mean((1, 2, 3))
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


@torch.no_grad()
def test_the_feature_distance_is_that_of_unit_vectors_place_by_place(evaluator: Evaluator):
    a, b = renders(2, 0), renders(2, 1)
    expected = []
    for one, other in zip(a, b, strict=True):
        total = 0.0
        f, g = one[None], other[None]
        for layer in (evaluator.fine, evaluator.coarse):
            f, g = layer(f), layer(g)
            cosines = F.cosine_similarity(f, g)[0]
            total += float((2 - 2 * cosines).mean())  # |u − v|² = 2 − 2 u·v
        expected.append(total)
    torch.testing.assert_close(feature_distance(evaluator, a, b), torch.tensor(expected), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["psnr", "ssim", "feature_distance"])
@torch.no_grad()
def test_the_more_a_picture_changes_the_less_it_resembles(evaluator: Evaluator, name: str):
    measure: Callable[[Tensor, Tensor], Tensor]
    measure = {"psnr": psnr, "ssim": ssim, "feature_distance": lambda a, b: feature_distance(evaluator, a, b)}[name]
    images = renders(8)
    found = torch.stack([measure(noisy(images, strength), images) for strength in (0.0, 0.05, 0.2, 0.8)])
    better = 1 if METRICS[name].better == "higher" else -1
    assert torch.all(better * found.diff(dim=0) < 0)
    torch.testing.assert_close(measure(images, noisy(images, 0.2)), found[2])  # the same both ways


def test_changes_are_counted_among_facts_absent_from_the_input():
    """Asked: a small red circle on white. The input was a small blue circle on black; a result may mend one or both."""
    asked = Statement((Thing(shape=0, colour=0, size=0),), background=0)

    def seen(colour: int, background: int) -> Reading:
        return Reading((Seen(Thing(0, colour, 0), 30.0, 30.0),), background)

    before, after = seen(5, 2), [seen(5, 2), seen(0, 2), seen(5, 0), seen(0, 0)]
    found = changes_made(scenes, [asked] * 4, [before] * 4, after)
    torch.testing.assert_close(found, torch.tensor([0.0, 0.5, 0.5, 1.0]))
    nothing = Reading((), 0)  # what was there and is lost is no change that was asked for
    torch.testing.assert_close(changes_made(scenes, [asked], [before], [nothing]), torch.tensor([0.5]))
    torch.testing.assert_close(changes_made(scenes, [asked], [seen(0, 0)], [nothing]), torch.tensor([1.0]))


def test_equal_pictures_have_the_documented_psnr():
    picture = torch.zeros(1, 3, 8, 8)
    assert psnr(picture, picture).tolist() == [100.0]
