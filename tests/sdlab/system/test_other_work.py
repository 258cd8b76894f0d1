"""The work of other programs is counted, and that of this one is not."""

from __future__ import annotations

import os
import subprocess
import sys
import time

import pytest

from sdlab.system import other_work
from sdlab.system.other_work import OtherWork

share = OtherWork.share  # of the class itself: every test has a fixture in its place


def test_a_program_that_computes_beside_this_one_is_seen():
    others = OtherWork()
    with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as program:
        time.sleep(1.5)
        found = share(others)
        program.kill()
    assert found is not None
    assert found > 0.5 / (os.cpu_count() or 1)


@pytest.mark.parametrize(
    ("own", "busy", "wanted"), [(4.0, 4.0, 0.0), (4.0, 8.0, 0.2), (0.0, 20.0, 1.0), (5.0, 4.0, 0.0)]
)
def test_what_is_not_ours_is_theirs(monkeypatch: pytest.MonkeyPatch, own: float, busy: float, wanted: float):
    """On two cores, of which 20 seconds have passed."""
    clock = {"own": 100.0, "busy": 1000.0, "total": 5000.0}
    monkeypatch.setattr(other_work, "_busy_and_total", lambda: (clock["busy"], clock["total"]))
    monkeypatch.setattr(os, "times", lambda: (clock["own"], 0.0, 0.0, 0.0, 0.0))
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    others = OtherWork()
    clock.update(own=100 + own, busy=1000 + busy, total=5020)
    assert share(others) == pytest.approx(wanted)


def test_a_moment_is_too_short_to_tell():
    assert share(OtherWork()) is None
