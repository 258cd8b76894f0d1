"""The peak of the memory that a part of a program uses."""

from __future__ import annotations

import math
import re
from pathlib import Path

import torch

_RESET, _STATUS = Path("/proc/self/clear_refs"), Path("/proc/self/status")
_PEAK = "5"  # what resets the peak of the resident memory (proc(5))


class PeakMemory:
    """The peak since this object was made: of the memory that PyTorch allocated on a GPU, or that the process occupied.

    Only one can be in use at a time, because the peak is that of the whole device or process.
    """

    def __init__(self, device: torch.device | str) -> None:
        self._device = torch.device(device)
        self._known = True
        if self._device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self._device)
            return
        try:
            _RESET.write_text(_PEAK, encoding="ascii")
        except OSError:  # not Linux, or not allowed
            self._known = False

    @property
    def size(self) -> float:
        """In bytes; NaN if the system does not tell."""
        if self._device.type == "cuda":
            return float(torch.cuda.max_memory_allocated(self._device))
        try:
            found = re.search(r"^VmHWM:\s+(\d+) kB", _STATUS.read_text(encoding="ascii"), re.MULTILINE)
        except OSError:
            found = None
        return 1024.0 * int(found[1]) if self._known and found else math.nan
