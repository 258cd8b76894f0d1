"""Memory that is kept inside a block, and returned after it."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from sdlab.system import allocator
from sdlab.system.allocator import kept_memory

glibc = pytest.mark.skipif(allocator._glibc() is None, reason="only glibc has these settings")
SIZE = 2**26  # bytes

# In a process of its own, because what glibc keeps depends on the state of the heap that earlier tests left.
MEASURED = f"""
import json, resource
from pathlib import Path
import torch
from sdlab.system.allocator import kept_memory

def fill(size={SIZE}):
    torch.zeros(size, dtype=torch.uint8).add_(1)

def faults(size={SIZE}):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(10):
        fill(size)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

def resident():
    return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * resource.getpagesize()

found = {{"before": faults()}}
with kept_memory():
    with kept_memory():
        fill()
    found["kept"] = resident()  # since the end of the inner block ends nothing
    found["inside"] = faults()
found["returned"] = resident()
found["after"] = faults(4 * {SIZE})  # for which there is no room in what may be left of the heap
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def measured() -> dict[str, int]:
    """Page faults of ten tensors, four times as large afterwards, and resident bytes."""
    made = subprocess.run([sys.executable, "-c", MEASURED], capture_output=True, text=True, check=True, timeout=120)
    return json.loads(made.stdout)


@glibc
def test_a_block_takes_the_pages_of_freed_tensors_again(measured):
    assert measured["inside"] < measured["before"] / 2
    assert measured["after"] > 4 * measured["before"] / 2


@glibc
def test_the_memory_goes_back_to_the_system_at_the_end(measured):
    assert measured["returned"] < measured["kept"] - SIZE / 2


def test_without_glibc_the_block_runs_as_it_is(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(allocator, "_glibc", lambda: None)
    with kept_memory():
        assert allocator._inside == [0]
