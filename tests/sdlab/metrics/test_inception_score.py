"""The Inception score: closed forms, torchmetrics' formula on the same logits, and its jackknife."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn
from torchmetrics.image.inception import InceptionScore

from sdlab.metrics import METRICS, Batch, Meters, MetricFiles, Run, Tools, complaints, inception, missing_files
from sdlab.metrics.base import PICTURES, Subject
from sdlab.metrics.inception_score import estimate


def certain(classes: list[int], of: int = 5) -> Tensor:
    """Logits of pictures whose class is certain."""
    return 100 * torch.eye(of)[classes]


@pytest.mark.parametrize(
    ("logits", "score"),
    [
        (certain([0, 1, 2, 3, 4] * 4), 5.0),  # all classes equally often
        (certain([0, 1] * 10), 2.0),
        (certain([3] * 20), 1.0),  # one class
        (torch.zeros(20, 5), 1.0),  # every class as probable in every picture
        (certain([0, 0, 0, 1] * 5), float(torch.tensor([0.75, 0.25]).log().neg() @ torch.tensor([0.75, 0.25]))),
    ],
)
def test_scores_in_closed_form(logits: Tensor, score: float):
    expected = score if score >= 1 else float(torch.tensor(score).exp())  # exp of the entropy of (¾, ¼)
    assert estimate(logits).value == pytest.approx(expected, rel=1e-6)


class Given(nn.Module):
    """Stands in for the network of torchmetrics: it is given logits instead of pictures."""

    def forward(self, logits: Tensor) -> Tensor:
        return logits


def logits_of(n: int, k: int = 12) -> Tensor:
    return 3 * torch.randn(n, k, generator=torch.Generator().manual_seed(n))


def test_the_score_is_that_of_torchmetrics_with_one_part():
    witness = InceptionScore(Given(), splits=1)
    witness.update(logits_of(40))
    assert estimate(logits_of(40)).value == pytest.approx(float(witness.compute()[0]), rel=1e-5)


@pytest.mark.parametrize("units", [(), tuple(i % 5 for i in range(13))])
def test_replicates_are_those_of_the_smaller_sets(units: tuple[int, ...]):
    found, of_image = estimate(logits_of(13), units), torch.tensor(units or range(13))
    count = len(set(of_image.tolist()))
    assert found.replicates is not None
    assert found.replicates.shape == (2, count)
    for i in range(count):
        less = estimate(logits_of(13)[of_image != i]).value
        assert float(found.replicates[0, i]) == pytest.approx(count * found.value - (count - 1) * less, rel=1e-9)


def test_the_mean_of_the_pseudo_values_removes_most_of_the_bias():
    population = estimate(logits_of(20_000)).value
    small = [estimate(logits_of(20_000)[k * 50 : k * 50 + 50]) for k in range(40)]
    plain = sum(one.value for one in small) / 40
    extrapolated = sum(float(one.replicates[0].mean()) for one in small if one.replicates is not None) / 40
    assert plain < population
    assert abs(extrapolated - population) < 0.2 * (population - plain)


def test_classes_come_from_the_last_layer_of_the_network_without_its_bias(monkeypatch: pytest.MonkeyPatch):
    """The network's weights cannot be had here; this one has features of its own and a last layer of two classes."""

    class Small(inception.Inception):
        def __init__(self, weights: Path, device: object) -> None:
            self.network = SimpleNamespace(fc=nn.Linear(3, 2))
            nn.init.constant_(self.network.fc.bias, 7.0)

        def __call__(self, pictures: Tensor) -> Tensor:
            return pictures.flatten(2).mean(2)

    loaded = list[Small]()

    def make(weights: Path, device: object) -> Small:
        loaded.append(Small(weights, device))
        return loaded[-1]

    monkeypatch.setattr(inception, "Inception", make)
    measurement = Meters([METRICS["inception_score"]], Tools(files=MetricFiles(inception="i.pth"))).start(Run(6))
    pictures = torch.randn(6, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    measurement.update(Batch([3, 4, 5], pictures[3:]))
    measurement.update(Batch([0, 1, 2], pictures[:3]))
    [network] = loaded
    logits = network(pictures) @ network.network.fc.weight.detach().T
    assert measurement.results()["inception_score"].value == pytest.approx(estimate(logits).value, rel=1e-6)


def test_without_inception_the_score_is_refused_in_one_line(tmp_path: Path):
    assert missing_files(["inception_score"], MetricFiles()) == [
        "metrics: inception_score: needs Inception's class probabilities; name its weights as inception in "
        "[metric_files]"
    ]
    lines = missing_files(["inception_score"], MetricFiles(inception=str(tmp_path / "i.pth")))
    assert lines[0].startswith(f"metric_files.inception: {tmp_path / 'i.pth'}: not found; it should be the network")
    assert not any("reference" in line for line in lines)
    few = Subject("sd15", 3, PICTURES, (512, 512), files=MetricFiles(inception="i.pth"))
    assert complaints(["inception_score"], few) == ["metrics: inception_score: needs at least 4 images per cell, got 3"]
