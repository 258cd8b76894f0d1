"""Limits of numbers in sweep files, training files and options, checked before anything runs.

They are far above what makes sense, and low enough that a typing mistake is reported instead of hanging the machine.
Whether a request fits into memory shows when it runs.
"""

from __future__ import annotations

from dataclasses import dataclass

from sdlab.system.errors import UsageError


@dataclass(frozen=True)
class Range:
    """Numbers from `low` to `high`, both included."""

    low: int
    high: int

    def check(self, where: str, value: int) -> None:
        """Check a number; `where` names it in the message.

        Raises:
            UsageError: it is outside the range.
        """
        if not self.low <= value <= self.high:
            raise UsageError(f"{where} must be from {self.low} to {self.high}, got {brief(value)}")


def brief(value: object) -> str:
    """`repr(value)` for a message, cut if it is long. Python writes out no integer of more than 4300 digits."""
    if isinstance(value, int) and value.bit_length() > 400:
        return f"an integer of {value.bit_length()} bits"
    try:
        text = repr(value)
    except ValueError:  # a list with such an integer
        return f"a {type(value).__name__} with a huge integer"
    return text if len(text) <= 200 else f"{text[:200]}…"


STEPS = Range(1, 10_000)  # of a sampler
REFERENCE_STEPS = Range(10, 10_000)  # of the run that a reference error compares with
PASSES = Range(1, 10_000)  # per image: a budget
IMAGES = Range(1, 1_000_000)  # per cell, or of one `sdlab generate`
BATCH = Range(1, 65_536)
TIMING_ROUNDS = Range(0, 1000)  # in which the cells of a sweep are timed in turn
SIDE = Range(1, 16_384)  # pixels
SEED = Range(0, 2**62 - 1)  # of the first image; the others follow
GALLERY = 128  # pictures of a cell that are kept by a sweep without metrics, which is run for its pictures
CELLS = Range(1, 10_000)  # of a sweep
SHARDS = Range(1, 10_000)  # of a sweep
TRAINING_STEPS = Range(1, 100_000_000)
TRAINING_PICTURES = Range(1, 10_000_000)
THREADS = Range(1, 256)
WORKERS = Range(0, 256)  # processes that draw training data
WIDTH = Range(1, 8192)  # channels of a layer
LARGEST = 1e6  # of rates and weights in training files
