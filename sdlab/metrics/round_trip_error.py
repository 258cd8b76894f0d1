"""Round-trip error: how far samples come back from where they were when they are inverted and drawn again."""

from __future__ import annotations

from typing import ClassVar

from sdlab.metrics.round_trip import RoundTripMetric


class RoundTripError(RoundTripMetric):
    """The RMS distance of each sample to itself, inverted and drawn again with the sampler, grid and guidance of its
    cell.

    The way back begins with all that the inversion returns: the noise, and the second state of a sampler that has one.
    The network passes of the round trip are not among those of the cell.
    """

    name = "round_trip_error"
    label = "round-trip error"
    about = "root-mean-square distance of samples to themselves, inverted and drawn again, of latents or samples"
    keeps_memory: ClassVar[bool] = True
