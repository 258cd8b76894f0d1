"""The path of one image in each cell: previews of x̂₀ at falling noise levels, as data URLs of a limited total size."""

from __future__ import annotations

from dataclasses import dataclass

from sdlab.report.page.pictures import data_url
from sdlab.report.shown import spread
from sdlab.report.stored_run import StoredRun

LIMIT = 4 * 2**20  # bytes of all previews of a page
_SIDE, _QUALITY = 96, 80
_FEWEST = 3  # previews that show a path


@dataclass(frozen=True)
class Paths:
    """The previews of every cell: levels as text, and data URLs."""

    of_cells: tuple[tuple[tuple[str, str], ...], ...]
    left_out: str = ""  # what does not fit, for people


def page_paths(run: StoredRun, limit: int = LIMIT) -> Paths:
    """As many previews of each cell, spread over its path, as fit into `limit` bytes over all cells."""
    known = [run.previews(row) for row in run.rows]
    most = max((len(one.levels) for one in known), default=0)
    paths = [
        [
            (f"{level:.3g}", data_url(picture, _SIDE, _QUALITY))
            for level, picture in zip(one.levels, one.pictures, strict=True)
        ]
        for one in known
    ]
    for count in range(most, _FEWEST - 1, -1):
        some = tuple(tuple(path[i] for i in spread(len(path), count)) for path in paths)
        if sum(len(url) for path in some for _, url in path) <= limit:
            return Paths(some)
    return Paths(tuple(() for _ in known), f"Paths would take more than {limit / 2**20:.3g} MiB." if most else "")
