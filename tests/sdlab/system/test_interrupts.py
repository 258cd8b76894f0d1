"""Interrupts by Ctrl-C and SIGTERM, and the temporary folders that they must not leave behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from sdlab.system.interrupts import STATUS, temporary_folder

WORK = """
import sys, time
from sdlab.system.interrupts import STATUS, handle_ctrl_c, temporary_folder
handle_ctrl_c()
try:
    with temporary_folder() as folder:
        (folder / "part").write_text("x")
        {work}
except KeyboardInterrupt:
    sys.exit(STATUS)
"""
WAIT = "print('ready', flush=True); time.sleep(60)"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("importing", [False, True])
def test_an_interrupt_leaves_no_temporary_folder(number: signal.Signals, importing: bool, tmp_path: Path):
    (tmp_path / "slow.py").write_text(f"import time\n{WAIT}\n")
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    paths = os.pathsep.join([str(tmp_path), *sys.path])
    code = WORK.format(work="import slow" if importing else WAIT)
    with subprocess.Popen(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "TMPDIR": str(temporary), "PYTHONPATH": paths},
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline() == "ready\n"
        assert [path.name for path in temporary.glob("sdlab-*/*")] == ["part"]
        process.send_signal(number)
        assert process.wait(30) == STATUS
        assert process.stderr.read() == ""
    assert not [*temporary.iterdir()]


def test_a_temporary_folder_is_gone_after_its_block():
    with temporary_folder() as folder:
        (folder / "part").write_text("x")
    assert not folder.exists()
