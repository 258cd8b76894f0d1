"""The check of guidance scales."""

from __future__ import annotations

from samplers.checks import within

HIGHEST = 1000.0  # far above what makes sense; a typing error should not become pictures of NaN


def check_scale(where: str, value: float) -> None:
    """Check that 0 ≤ value ≤ 1000.

    Raises:
        ValueError: it is not.
    """
    within(where, value, 0)
    if value > HIGHEST:
        raise ValueError(f"{where} must be at most {HIGHEST:g}, got {value!r}")
