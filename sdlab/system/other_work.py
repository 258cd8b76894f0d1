"""The work of other programs on the processor, which disturbs timings."""

from __future__ import annotations

import os
from dataclasses import dataclass, field

import psutil

UNDISTURBED = 0.1  # share of the processor that others may use before timings are disturbed
_SHORTEST = 0.5  # seconds


@dataclass(frozen=True)
class OtherWork:
    """The processor time that other programs use from now on."""

    _busy: float = field(default_factory=lambda: _busy_and_total()[0])
    _total: float = field(default_factory=lambda: _busy_and_total()[1])
    _own: float = field(default_factory=lambda: sum(os.times()[:4]))

    def share(self) -> float | None:
        """The share of the processor that they used so far, from 0 to 1. Time that a virtual machine lost is theirs.

        None before enough time has passed to tell: the clocks count in hundredths of a second.
        """
        busy, total = _busy_and_total()
        elapsed = total - self._total
        others = busy - self._busy - (sum(os.times()[:4]) - self._own)
        return min(1.0, max(0.0, others / elapsed)) if elapsed > _SHORTEST * (os.cpu_count() or 1) else None


def _busy_and_total() -> tuple[float, float]:
    """Seconds since the start of the machine, summed over its cores: those with work, and all."""
    times = psutil.cpu_times()._asdict()
    total = sum(seconds for name, seconds in times.items() if not name.startswith("guest"))  # guests are part of user
    return total - times["idle"] - times.get("iowait", 0.0), total
