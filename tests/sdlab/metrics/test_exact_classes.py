"""MMD² and class probability on mixtures, against sampling, quadrature and Bayes' rule."""

from __future__ import annotations

from math import exp, pi

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

from samplers.exact.families import ClassMixture
from samplers.exact.problems import GaussianMixture
from sdlab.backends.exact_models import class_mixture, mixture
from sdlab.metrics import METRICS, Batch, Meters, Run, Tools, mmd
from sdlab.metrics.class_probability import class_probability

MEANS = torch.tensor([[1.0, 0.0], [-1.0, 0.5], [0.0, -1.0], [0.5, 1.5]], dtype=torch.float64)
LAWS = ClassMixture(
    GaussianMixture(MEANS, torch.tensor([0.3, 0.2, 0.5, 0.4]).double(), torch.tensor([1.0, 2, 3, 2])), [0, 0, 1, 1]
)


def drawn(n: int, seed: int, laws: ClassMixture = LAWS) -> Tensor:
    """n samples, of the classes in turn."""
    generator = torch.Generator().manual_seed(seed)
    labels = sorted(set(laws.labels))
    parts = [laws.given(label).sample(n // len(labels), generator, torch.float64) for label in labels]
    return torch.stack(parts, dim=1).flatten(0, 1)


def kernel(a: Tensor, b: Tensor, width: float) -> Tensor:
    return (-(a[:, None] - b[None]).square().sum(-1) / (2 * width)).exp()


def test_the_distance_is_that_from_many_draws_of_the_law():
    x, far = drawn(40, 0) * 0.7, drawn(20_000, 1)
    found = mmd.estimate(x, LAWS).value
    widths = [(1 * 0.09 + 2 * 0.04) / 3, (3 * 0.25 + 2 * 0.16) / 5]
    expected = []
    for k, width in enumerate(widths):
        a, b = x[k::2], far[k::2]
        pairs, others = (kernel(one, one, width) for one in (a, b[:3000]))
        within = [(one.sum() - len(one)) / (len(one) * (len(one) - 1)) for one in (pairs, others)]
        expected.append(float(within[0] + within[1] - 2 * kernel(a, b, width).mean()))
    assert found == pytest.approx(np.mean(expected), abs=0.01)


def test_the_distance_of_a_point_from_a_gaussian_is_the_closed_form():
    """With h = s: E k(x, y) = exp(−|x − μ|²/4s²)/2 and E k(y, y′) = 1/3, in two dimensions."""
    law = ClassMixture(GaussianMixture(torch.zeros(1, 2), 0.5), [0])
    x = torch.tensor([[1.0, 0.0]]).repeat(6, 1)  # copies, whose kernel is 1
    assert mmd.estimate(x, law).value == pytest.approx(1 - 2 * exp(-1) / 2 + 1 / 3, abs=1e-12)


def test_samples_of_the_law_are_at_0_on_average_with_the_claimed_error():
    found = [mmd.estimate(drawn(64, seed), LAWS) for seed in range(100)]
    values, errors = np.array([one.value for one in found]), np.array([one.stderr for one in found])
    assert abs(values.mean()) < 4 * values.std() / 10
    assert np.sqrt(np.mean(errors**2)) / values.std() == pytest.approx(1.15, abs=0.3)  # √(4/3), as all is of order 2
    assert min(mmd.estimate(drawn(64, 0) * 0.5, LAWS).value, mmd.estimate(drawn(64, 0) + 1, LAWS).value) > 0.1


def test_leaving_out_images_is_measuring_the_others():
    x = drawn(40, 0)
    found = mmd.estimate(x, LAWS)
    assert found.replicates is not None
    law = LAWS.given(0)
    own, others = (mmd.Distance(x[k::2], LAWS.given(k)).without([]) for k in (0, 1))
    assert found.value == pytest.approx((own + others) / 2, abs=1e-12)
    for i in range(20):  # the first class
        kept = x[::2][[k != i for k in range(20)]]
        less = mmd.estimate(kept, ClassMixture(law, [0, 0])).value
        expected = 40 * found.value - 39 * (less + others) / 2
        assert float(found.replicates[0, i]) == pytest.approx(expected, abs=1e-11)


def test_the_class_probability_is_bayes_rule():
    x = drawn(6, 3)

    def joint(k: int, point: Tensor) -> float:
        std, weight = float(LAWS.mixture.stds[k]), float(LAWS.mixture.weights[k])
        return weight * float(stats.multivariate_normal(MEANS[k].numpy(), std**2).pdf(point.numpy()))

    for i, point in enumerate(x):
        of_class = [joint(0, point) + joint(1, point), joint(2, point) + joint(3, point)]
        found = class_probability(point[None], torch.tensor([i]), LAWS)
        assert float(found) == pytest.approx(of_class[i % 2] / sum(of_class), rel=1e-9)


def test_metrics_of_classes_measure_image_i_in_class_i_mod_c_in_any_order():
    model = class_mixture(std=0.25)
    assert model.classes is not None
    x = drawn(64, 0, model.classes)
    meters = Meters([METRICS["mmd"], METRICS["class_probability"]], Tools())
    measurement = meters.start(Run(64, classes=model.classes))
    for part in (range(40, 64), range(40)):
        measurement.update(Batch(list(part), samples=x[list(part)]))
    found = measurement.results()
    assert found["mmd"].value == pytest.approx(mmd.estimate(x, model.classes).value)
    assert abs(found["mmd"].value) < 0.05
    assert found["class_probability"].value > 0.7
    turned = meters.start(Run(64, classes=model.classes))
    turned.update(Batch(range(64), samples=x.roll(1, 0)))  # every sample in the next class
    wrong = turned.results()
    assert wrong["class_probability"].value < 0.2
    assert wrong["mmd"].value > 0.15


def test_a_model_without_classes_is_one_class():
    model = mixture()
    assert model.classes is not None
    assert set(model.classes.labels) == {0}
    angle = 2 * pi * torch.arange(8) / 8
    ring = torch.stack([angle.cos(), angle.sin()], 1)
    assert class_probability(ring, torch.arange(8), model.classes).tolist() == pytest.approx([1.0] * 8)
