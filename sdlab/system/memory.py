"""Memory that runs out, told in a line."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from sdlab.system.errors import RunError


@contextmanager
def enough_memory(advice: str) -> Iterator[None]:
    """A block that needs much memory; `advice` says how to need less.

    Raises:
        RunError: there was not enough, on the device or, where the system says so and does not kill, in the machine.
    """
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError):
        raise RunError(f"out of memory; {advice}") from None
    except RuntimeError as error:
        if "can't allocate memory" not in str(error):  # PyTorch's words for the machine's own
            raise
        raise RunError(f"out of memory; {advice}") from None
