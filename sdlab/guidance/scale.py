"""The check of guidance scales."""

from __future__ import annotations

from math import inf

from samplers.checks import within

HIGHEST = 1000.0  # far above what makes sense; a typing error should not become pictures of NaN


def check_scale(where: str, value: float) -> None:
    """Check that 0 ≤ value ≤ 1000.

    Raises:
        ValueError: it is not.
    """
    if isinstance(value, int | float) and HIGHEST < value < inf:
        raise ValueError(f"{where} must be at most {HIGHEST:g}, got {value!r}")
    within(where, value, 0)
