"""Ancestral steps: down to below the next level, then up to it with fresh noise (Crowson, k-diffusion, 2022).

With ⁺ for the next level:
    σ_up²   = min(σ⁺², η² σ⁺² (σ² − σ⁺²)/σ²)
    σ_down² = σ⁺² − σ_up²

Adding noise keeps the marginals exactly, so the samples of an ancestral rule have the law of the data at the order of
what carries x to σ_down. How fast they forget where they came from, and which path they take to a given noise, is the
reverse SDE's with η² times its noise, at first order.
"""

from __future__ import annotations

from math import sqrt


def split(q: float, eta: float) -> tuple[float, float]:
    """σ_down/σ⁺ and σ_up/σ⁺, for q = σ⁺/σ."""
    up = min(1.0, eta * sqrt((1 - q) * (1 + q)))
    return sqrt((1 - up) * (1 + up)), up
