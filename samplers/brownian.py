"""Brownian paths, one per image, shared by all samplers and step counts.

The reverse SDE in λ = −log σ, and the noise of one step, with ⁺ for the next level and W a Brownian motion in 1/σ²:
    dx = 2 (D(x, σ) − x) dλ + √2 σ dB
    x⁺ = (σ⁺/σ)² x + 2 ∫ (σ⁺/s)² D d(−log s) + σ⁺² (W(1/σ⁺²) − W(1/σ²))

(Song et al. 2021, arXiv:2011.13456, eq. 6)

W is built by Lévy's construction (Lévy 1948; Gaines and Lyons 1997). Its increment over an octave 2^{e−1} ≤ σ < 2^e is
a normal draw, and inside a piece [a, b] with known ends it is a Brownian bridge:
    W(1/u²) = (1−s) W(1/b²) + s W(1/a²) + √(s (1−s) (1/a² − 1/b²)) ξ,    s = (1/u² − 1/b²)/(1/a² − 1/b²)
Each draw ξ has an address, so W is a function of the seed and σ alone, whatever the order of calls.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from functools import lru_cache
from itertools import count
from math import frexp, inf, ldexp, sqrt

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from samplers.base import PathNoise
from samplers.noise import FRESH, Address, Addressed

DEPTH = 12  # halvings of an octave, and about as many draws per step; a leaf is one part in 4096 to 8192 of σ
NODE, LEAF, PAIR = 1, 2, 3  # kinds of address; fresh draws use FRESH

Weights = dict[Address, float]  # a sum of independent standard normals


def brownian_path(seeds: Sequence[int], device: torch.device | str | None = None) -> PathNoise:
    """Noise whose `between(sigma, sigma_next, like)` belongs to a Brownian path, one per image.

    The path of image i depends on `seeds[i]` alone. It does not depend on the batch, device or dtype, or on the grid,
    the sampler or the order of calls. With more and more steps a stochastic sampler therefore converges to one image.
    Called with a tensor, as for the initial noise, it returns fresh draws. Shapes, seeds and errors are as in `philox`.

    Two levels in one leaf of the tree, closer than one part in 4096, get noise off the path. Such a short step has the
    right law but does not compose with its neighbours. Even grids of 1000 steps have longer steps.
    """
    return _BrownianPath(seeds, device)


class _BrownianPath:
    def __init__(self, seeds: Sequence[int], device: torch.device | str | None) -> None:
        self._white, self._device, self._draws = Addressed(seeds), device, count()
        # The next step begins where the last one ended and shares half of its draws.
        self._last: dict[Address, NDArray[np.float32]] = {}

    def __call__(self, like: Tensor) -> Tensor:
        return self._white.tensor(self._white((FRESH, next(self._draws), 0), like), like, self._device)

    def between(self, sigma: float, sigma_next: float, like: Tensor) -> Tensor:
        weights, shape = increment(sigma, sigma_next), (len(like), like[:1].numel())
        known = {address: white for address, white in self._last.items() if white.shape == shape}
        self._last = {a: known[a] if a in known else self._white(a, like) for a in weights}
        total = np.zeros(shape)
        for address, white in self._last.items():
            total += np.multiply(white, weights[address], dtype=np.float64)
        return self._white.tensor(total, like, self._device)


@lru_cache(maxsize=4096)
def increment(sigma: float, sigma_next: float) -> Weights:
    """(W(1/σ⁺²) − W(1/σ²))/√(1/σ⁺² − 1/σ²) as weights whose squares sum to 1.

    Raises:
        ValueError: not 0 < sigma_next ≤ sigma < ∞.
    """
    if not 0 < sigma_next <= sigma < inf:
        raise ValueError(f"a Brownian path needs 0 < sigma_next <= sigma, got {sigma!r} and {sigma_next!r}")
    (m, e), (m_next, e_next), q = frexp(sigma), frexp(sigma_next), sigma_next / sigma
    if e == e_next and _leaf(m) == _leaf(m_next):
        return {(PAIR, _bits(sigma), _bits(sigma_next)): 1.0}
    octaves = {(NODE, 1, _word(k)): ldexp(sqrt(3) * m_next, e_next - k) for k in range(e_next + 1, e + 1)}
    steps = _sum((1.0, octaves), (m_next, _from_octave(sigma_next)), (-q * m, _from_octave(sigma)))
    return _sum((1 / sqrt((sigma - sigma_next) / sigma * (1 + q)), steps))


@lru_cache(maxsize=4096)
def _from_octave(sigma: float) -> Weights:
    """2^e (W(1/σ²) − W(1/4^e)), for σ = m 2^e with ½ ≤ m < 1."""
    m, e = frexp(sigma)
    a, b, node = 0.5, 1.0, 1
    at_a: Weights = {(NODE, node, _word(e)): sqrt(3)}
    at_b: Weights = {}
    for _ in range(DEPTH):
        middle = (a + b) / 2
        node = 2 * node + (m >= middle)
        at_middle = _bridge(middle, a, b, at_a, at_b, (NODE, node | 1, _word(e)))
        if m >= middle:
            a, at_a = middle, at_middle
        else:
            b, at_b = middle, at_middle
    return _bridge(m, a, b, at_a, at_b, (LEAF, _bits(sigma), 0))


def _bridge(u: float, a: float, b: float, at_a: Weights, at_b: Weights, address: Address) -> Weights:
    """W at u, given W at a and b."""
    width = (b - a) * (b + a)
    share_a = (b - u) * (b + u) / width * (a / u) ** 2
    share_b = (u - a) * (u + a) / width * (b / u) ** 2
    return _sum((share_a, at_a), (share_b, at_b), (sqrt(share_a * share_b * width) / (a * b), {address: 1.0}))


def _sum(*terms: tuple[float, Weights]) -> Weights:
    total: Weights = {}
    for factor, weights in terms:
        for address, weight in weights.items():
            total[address] = total.get(address, 0.0) + factor * weight
    return total


def _leaf(m: float) -> int:
    """The index of a mantissa among the 2^DEPTH pieces of its octave."""
    return int(ldexp(m - 0.5, DEPTH + 1))


def _bits(sigma: float) -> int:
    return int(struct.unpack("<Q", struct.pack("<d", sigma))[0])


def _word(exponent: int) -> int:
    """An integer mapped to a non-negative one."""
    return exponent % 2**64
