"""The φ functions and the Adams weights, against quadrature and the textbook."""

import math

import numpy as np
import pytest
import torch
from scipy.integrate import quad

from samplers.adams import adams_weights, difference_weights, log_ratio, phi

ZS = [-40.0, -6.0, -1.001, -1.0, -0.999, -0.3, -1e-9, 0.0, 1e-6, 0.7, 1.0, 1.001, 5.0, 30.0]


@pytest.mark.parametrize("z", ZS)
def test_phi_is_its_integral(z):
    """φ_k(z) = ∫₀¹ e^{(1−θ)z} θ^{k−1}/(k−1)! dθ."""
    for k, value in enumerate(phi(4, z), 1):
        integral = quad(lambda u, k=k: math.exp((1 - u) * z) * u ** (k - 1) / math.factorial(k - 1), 0, 1, epsabs=0)[0]
        assert value == pytest.approx(integral, rel=1e-12)


@pytest.mark.parametrize("z", [z for z in ZS if z != 0])
def test_phi_obeys_its_recurrence(z):
    values = [math.exp(z), *phi(4, z)]
    for k in range(4):
        assert z * values[k + 1] + 1 / math.factorial(k) == pytest.approx(values[k], rel=1e-11, abs=1e-14)


def test_even_steps_have_the_textbook_weights():
    assert adams_weights((0.0, -1.0)) == pytest.approx((3 / 2, -1 / 2), rel=1e-14)
    assert adams_weights((0.0, -1.0, -2.0)) == pytest.approx((23 / 12, -16 / 12, 5 / 12), rel=1e-14)
    assert adams_weights((0.0, -1.0, -2.0, -3.0)) == pytest.approx((55 / 24, -59 / 24, 37 / 24, -9 / 24), rel=1e-13)
    assert adams_weights((1.0, 0.0, -1.0)) == pytest.approx((5 / 12, 8 / 12, -1 / 12), rel=1e-14)  # Adams–Moulton


@pytest.mark.parametrize("z", ZS)
@pytest.mark.parametrize("nodes", [(0.0,), (0.0, -0.4), (0.0, -3.0, -3.5), (0.0, -0.7, -1.9, -2.2), (1.0, 0.0, -0.8)])
def test_weights_integrate_polynomials_exactly(nodes, z):
    """Σ w_j θ_j^k = ∫₀¹ e^{(1−θ)z} θ^k dθ for every power below the number of nodes."""
    weights = adams_weights(nodes, z)
    for k in range(len(nodes)):
        integral = quad(lambda u, k=k: math.exp((1 - u) * z) * u**k, 0, 1, epsabs=0)[0]
        terms = [w * node**k for w, node in zip(weights, nodes, strict=True)]
        assert sum(terms) == pytest.approx(integral, rel=1e-12, abs=1e-13 * max(map(abs, terms)))


def test_difference_weights_find_the_leading_coefficient():
    nodes, poly = (0.0, -0.7, -1.9), np.polynomial.Polynomial([3.0, -2.0, 5.0])
    assert sum(c * poly(n) for c, n in zip(difference_weights(nodes), nodes, strict=True)) == pytest.approx(5.0)


def test_log_ratio_is_never_zero_nor_infinite():
    near = math.nextafter(1.7, 2.0)
    assert log_ratio(near, 1.7) > 0
    assert log_ratio(1e300, 1e-300) == pytest.approx(600 * math.log(10), rel=1e-14)
    assert log_ratio(3.0, 2.0) == pytest.approx(math.log(1.5), rel=1e-15)
    assert torch.isfinite(torch.tensor(log_ratio(1.0, 5e-324)))
