"""The streams of a command: full, closed, narrow or read by a program that ends early."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from sdlab.cli import main

FULL = Path("/dev/full")
needs_full = pytest.mark.skipif(not FULL.exists(), reason="this system has no device that is always full")
LIST = [sys.executable, "-m", "sdlab.cli", "list", "metrics"]  # which needs no torch, and so starts quickly


@needs_full
@pytest.mark.parametrize("command", [LIST, [*LIST[:-1], "samplers"], [*LIST[:3], "--help"], [*LIST[:3], "--version"]])
def test_output_that_cannot_be_written_is_one_line(command: list[str]):
    with FULL.open("w") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True)
    assert (done.returncode, done.stderr) == (1, "error: cannot write the output: no space left on device\n")


@needs_full
def test_errors_that_cannot_be_written_leave_the_status():
    with FULL.open("w") as full:
        assert subprocess.run([*LIST[:-1], "nothing"], stderr=full).returncode == 2
        assert subprocess.run(LIST, stdout=subprocess.DEVNULL, stderr=full).returncode == 0


@pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&-"])
def test_closed_streams_drop_text(closed: str):
    done = subprocess.run(["bash", "-c", f'"$@" {closed}', "bash", *LIST], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert ("clip_score" in done.stdout) is (closed == "2>&-")


def test_a_closed_pipe_is_not_an_error():
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(LIST, stdout=write, stderr=subprocess.PIPE, text=True)
    os.close(write)
    assert (done.returncode, done.stderr) == (1, "")


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252", "utf-8"])
def test_every_encoding_takes_every_text(encoding: str):
    done = subprocess.run(LIST, capture_output=True, env={**os.environ, "PYTHONIOENCODING": encoding})
    assert (done.returncode, done.stderr) == (0, b"")
    cross = "100 x cosine" if encoding == "ascii" else "100 × cosine"
    assert cross.encode(encoding) in done.stdout


def test_a_folder_that_may_not_be_read_is_one_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    def refused(path: Path) -> bool:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))

    monkeypatch.setattr(sys, "argv", ["sdlab", "report", "runs/ok"])
    monkeypatch.setattr(Path, "is_file", refused)
    with pytest.raises(SystemExit) as ended:
        main()
    assert (ended.value.code, capsys.readouterr().err) == (1, "error: runs/ok/results.sqlite: permission denied\n")


def test_ctrl_c_during_an_import_exits_with_130_and_no_output(tmp_path: Path):
    (tmp_path / "slow.py").write_text("import time\ntry: time.sleep(60)\nexcept KeyboardInterrupt: pass\n")
    script = (
        "import signal; from sdlab.system.interrupts import handle_ctrl_c; "
        "signal.signal(signal.SIGINT, signal.default_int_handler); "  # it is ignored if the tests run in the background
        "handle_ctrl_c(); "
        "print('ready', flush=True); import slow"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script], cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(0.5)  # the import has begun
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=30)
    assert (process.returncode, errors) == (130, "")
