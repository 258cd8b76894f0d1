"""Round-trip error of the noise alone: how far samples come back if nothing but their noise is kept."""

from __future__ import annotations

from typing import ClassVar

from sdlab.metrics.round_trip import RoundTripMetric


class NoiseRoundTripError(RoundTripMetric):
    """The round-trip error when the way back begins with the noise alone, as in another tool or after it was edited.

    The second state that exact inversion needs is forgotten. For `ddim`, which has none, it is the round-trip error.
    """

    name = "noise_round_trip_error"
    label = "round-trip error of the noise alone"
    about = "round-trip error when only the noise is kept, and not the second state of the sampler"
    keeps_memory: ClassVar[bool] = False
