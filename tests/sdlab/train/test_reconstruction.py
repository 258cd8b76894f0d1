"""The measures of a VAE's reconstructions tell what was done to the pictures."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d

from sdlab.train.stages.reconstruction import gradient_energy, measure
from sdlab.train.world_pictures import WorldPictures
from sdlab.worlds.registry import open_world

PORTRAITS = Path(__file__).resolve().parents[3] / "data" / "portraits"


@pytest.fixture(autouse=True)
def few_pictures(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("sdlab.train.stages.reconstruction._BATCHES", 2)


def of(change: Callable[[Tensor], Tensor], folder: Path = PORTRAITS) -> dict[str, float]:
    pictures = WorldPictures(open_world("portraits"), "all")
    return measure(change, pictures, folder, torch.Generator().manual_seed(5), "cpu")


def blurred(images: Tensor) -> Tensor:
    return avg_pool2d(images, 5, stride=1, padding=2, count_include_pad=False)


def test_perfect_reconstructions():
    found = of(lambda images: images)
    assert found["ssim"] == pytest.approx(1, abs=1e-5)
    assert found["edges"] == 1
    assert found["rfid"] == pytest.approx(0, abs=1e-4)
    assert found["facts_read"] > 0.995


def test_blur_takes_edges_and_noise_adds_some():
    blur, noise = of(blurred), of(lambda images: images + 0.1 * torch.randn_like(images))
    assert blur["edges"] < 0.7 < 1.1 < noise["edges"]
    assert blur["rfid"] > noise["rfid"] > 0.01
    assert noise["psnr_db"] == pytest.approx(26, abs=1)  # 20 log₁₀(2 / 0.1), and more where values are clipped
    assert blur["ssim"] < 0.9


def test_pictures_of_no_world_or_without_an_evaluator_are_measured_without_a_reader(tmp_path: Path):
    assert list(of(blurred, tmp_path)) == ["psnr_db", "ssim", "edges"]


def test_gradient_energy_of_a_step():
    step = torch.zeros(1, 3, 4, 6)
    step[..., 3:] = 0.5
    assert gradient_energy(step) == 3 * 4 * 0.25
