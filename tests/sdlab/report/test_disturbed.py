"""Times that were measured while other programs used the processor are marked."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from sdlab.report.formats import FORMATS
from sdlab.report.stored_run import opened_run
from sdlab.report.view import View
from sdlab.system.other_work import OtherWork

WARNING = "~ other programs used more than 10% of the processor while the cell ran; do not compare its times."


@pytest.mark.parametrize(("share", "marked"), [(0.3, True), (0.1, False), (0.0, False), (None, False)])
def test_the_time_of_a_disturbed_cell_is_marked(
    run: Callable[..., object],
    no_files: None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    share: float | None,
    marked: bool,
):
    shares: Iterator[float | None] = iter([share, *[0.0] * 7])
    monkeypatch.setattr(OtherWork, "share", lambda self: next(shares))
    run()
    with opened_run(tmp_path / "runs" / "quick") as stored:
        table = View().of(stored)
        rows = json.loads(FORMATS["json"](table))
    times = next(column for column in table.columns if column.name == "seconds_per_image")
    assert [str(one).endswith(" ~") for one in times.fields] == [marked, *[False] * 7]
    assert all(isinstance(row["seconds_per_image"], float) for row in rows)  # the value is kept as it was measured
    assert any(WARNING in line for line in table.legend()) == marked
