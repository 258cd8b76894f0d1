"""Learning-rate schedules."""

from __future__ import annotations

import math
from typing import Literal

Schedule = Literal["cosine", "linear", "constant"]


def learning_rate(step: int, peak: float, warmup: int, steps: int, schedule: Schedule = "cosine") -> float:
    """The learning rate of a step: linear warm-up to `peak`, then the schedule.

    `cosine` and `linear` decay to 0 at `steps`, along a half cosine (Loshchilov & Hutter 2016, arXiv:1608.03983, eq. 5
    without restarts) or a line. `constant` stays at `peak`.
    """
    if step < warmup:
        return peak * (step + 1) / warmup
    progress = min((step - warmup) / max(1, steps - warmup), 1.0)
    match schedule:
        case "cosine":
            return peak * 0.5 * (1 + math.cos(math.pi * progress))
        case "linear":
            return peak * (1 - progress)
        case "constant":
            return peak
