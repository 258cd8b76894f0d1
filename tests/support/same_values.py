"""What two runs of one plan have in common: every value that does not depend on the machine and the moment."""

from dataclasses import replace
from pathlib import Path

import numpy as np

from sdlab.sweep.store import Row, Store
from sdlab.sweep.times import Times


def _rows(directory: Path) -> list[Row]:
    with Store(directory / "results.sqlite") as store:
        return sorted(store.rows(), key=lambda row: row.key)


def rows(directory: Path) -> list[Row]:
    """The rows without what differs between machines: times, and when and where they were measured."""
    times = {
        "seconds_per_image": 0.0,
        "ms_per_pass": 0.0,
        "network_share": 0.0,
        "times": Times(),
        "error_path": None,  # in `arrays`
        "peak_memory": 0.0,
        "provenance": {},
        "created": "",
    }
    return [replace(row, per_image={}, replicates={}, **times) for row in _rows(directory)]


def arrays(directory: Path) -> list[np.ndarray]:
    """The values of each image, the replicates and the errors along sigma."""
    found = _rows(directory)
    named = [values for row in found for kind in (row.per_image, row.replicates) for _, values in sorted(kind.items())]
    return [*named, *(row.error_path for row in found)]


def assert_same_values(one: Path, other: Path) -> None:
    """All numbers of two run directories are equal, except for times."""
    assert rows(one) == rows(other)
    for ours, theirs in zip(arrays(one), arrays(other), strict=True):
        np.testing.assert_array_equal(ours, theirs)
