"""Memory that is kept inside a block, and returned after it."""

from __future__ import annotations

import resource
from pathlib import Path

import pytest
import torch

from sdlab.system import allocator
from sdlab.system.allocator import kept_memory

pytestmark = pytest.mark.skipif(allocator._glibc() is None, reason="only glibc has these settings")
SIZE = 2**26  # bytes


def faults() -> int:
    """The page faults of ten tensors, one after the other."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(10):
        torch.zeros(SIZE, dtype=torch.uint8).add_(1)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


def resident() -> int:
    return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * resource.getpagesize()


def test_a_block_takes_the_pages_of_freed_tensors_again():
    outside = faults()
    with kept_memory():
        torch.zeros(SIZE, dtype=torch.uint8).add_(1)
        inside = faults()
    assert inside < outside / 2
    assert faults() > outside / 2


def test_the_memory_goes_back_to_the_system_at_the_end():
    with kept_memory():
        with kept_memory():
            torch.zeros(SIZE, dtype=torch.uint8).add_(1)
        kept = resident()  # since the inner block ends nothing
    assert resident() < kept - SIZE / 2


def test_without_glibc_the_block_runs_as_it_is(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(allocator, "_glibc", lambda: None)
    with kept_memory():
        assert allocator._inside == [0]
