"""CMMD: its estimator written out, the authors' biased form, and pictures whose order is known."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from tiny_clip import tiny_clip
from torch import Tensor

from sdlab.metrics import METRICS, Batch, Meters, MetricFiles, Run, Tools, cmmd, complaints, missing_files
from sdlab.metrics.base import PICTURES, Subject
from sdlab.metrics.folder import measure_folder
from sdlab.picture import to_bytes
from sdlab.weights.model_loader import load
from sdlab.worlds import scenes


def units(n: int, seed: int, shift: float = 0.0) -> Tensor:
    return F.normalize(shift + torch.randn(n, 6, generator=torch.Generator().manual_seed(seed)), dim=1)


def kernel(a: Tensor, b: Tensor) -> Tensor:
    distances = (a[:, None].double() - b[None].double()).square().sum(2)
    return (-distances / (2 * 10.0**2)).exp()


def test_cmmd_is_a_thousand_times_the_unbiased_estimate():
    x, y = units(7, 0), units(9, 1, 0.5)
    k, h = kernel(x, x), kernel(y, y)
    within = (k.sum() - k.trace()) / (7 * 6) + (h.sum() - h.trace()) / (9 * 8)
    found = cmmd.to(y)(x, ())
    assert found.value == pytest.approx(1000 * float(within - 2 * kernel(x, y).mean()), rel=1e-9)
    biased = 1000 * float(k.mean() + h.mean() - 2 * kernel(x, y).mean())  # the authors' code
    own_pairs = 1000 * float((1 - within_mean(k)) / 7 + (1 - within_mean(h)) / 9)
    assert biased - found.value == pytest.approx(own_pairs, rel=1e-6)


def within_mean(k: Tensor) -> Tensor:
    return (k.sum() - k.trace()) / (len(k) * (len(k) - 1))


def test_cmmd_of_two_sets_of_one_law_is_zero_within_its_error():
    real = units(2048, 0)
    same = [cmmd.to(real)(units(64, seed), ()) for seed in range(1, 9)]
    assert sum(one.value for one in same) / 8 == pytest.approx(0, abs=4 * max(one.stderr or 0 for one in same) / 8**0.5)
    other = cmmd.to(real)(units(64, 1, 0.5), ())
    assert other.stderr is not None
    assert other.value > 4 * other.stderr


def test_replicates_are_those_of_the_smaller_sets():
    x, y = units(9, 0), units(11, 1)
    found = cmmd.to(y)(x, ())
    assert found.replicates is not None
    for i in range(9):
        less = cmmd.to(y)(torch.cat([x[:i], x[i + 1 :]]), ()).value
        assert float(found.replicates[0, i]) == pytest.approx(9 * found.value - 8 * less, rel=1e-7, abs=1e-9)


@pytest.mark.slow
def test_worse_pictures_of_the_lab_score_worse():
    model = load("scenes")
    assert model.clip is not None
    meters = Meters([METRICS["cmmd"]], Tools((64, 64), (model.clip, model.tokenizer)))
    images = scenes.render(scenes.sample(64, torch.Generator().manual_seed(1)))

    def value(pictures: Tensor) -> float:
        measurement = meters.start(Run(64))
        measurement.update(Batch(range(64), pictures))
        return measurement.results()["cmmd"].value

    good, faded, grey = value(images), value(images * 0.5), value(images * 0.1)
    assert abs(good) < faded < grey


def test_a_folder_is_compared_with_another_folder(tmp_path: Path):
    tiny_clip(tmp_path / "clip")
    images = scenes.render(scenes.sample(12, torch.Generator().manual_seed(1)))
    for name, pictures in (("real", images), ("made", images), ("faded", images * 0.2)):
        (tmp_path / name).mkdir()
        for i, picture in enumerate(to_bytes(pictures).numpy()):
            Image.fromarray(picture).save(tmp_path / name / f"{i:02}.png")
    files = MetricFiles(clip=str(tmp_path / "clip"), reference=str(tmp_path / "real"))
    same, other = (measure_folder(tmp_path / name, ["cmmd"], files=files)["cmmd"] for name in ("made", "faded"))
    assert same.value < 0 < other.value  # of two equal sets, the unbiased estimate is negative
    assert METRICS["cmmd"].label_with(files) == "CMMD (OpenAI)"


@pytest.mark.parametrize(
    ("files", "images", "line"),
    [
        (MetricFiles(), 8, "metrics: cmmd: needs real pictures; name a folder of them as reference in [metric_files]"),
        (
            MetricFiles(inception="i.pth", reference="r.npz"),
            8,
            "metrics: cmmd: needs a folder of real pictures, but metric_files.reference has only statistics",
        ),
        (MetricFiles(reference="real"), 3, "metrics: cmmd: needs at least 4 images per cell, got 3"),
    ],
)
def test_what_cmmd_lacks_is_one_line(files: MetricFiles, images: int, line: str):
    assert complaints(["cmmd"], Subject("sd15", images, PICTURES, (512, 512), clip=True, files=files)) == [line]


def test_missing_real_pictures_are_named(tmp_path: Path):
    assert missing_files(["cmmd"], MetricFiles(reference=str(tmp_path / "no"))) == [
        f"metric_files.reference: {tmp_path / 'no'}: not found; it should be a folder of real pictures"
    ]
