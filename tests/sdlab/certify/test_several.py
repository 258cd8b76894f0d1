"""Certification in several processes ends at once, and with it its processes."""

import io
import os
import signal
import time
from multiprocessing import active_children

import pytest
from rich.console import Console

from sdlab.certify.several import measured
from sdlab.system.errors import RunError

QUIET = Console(file=io.StringIO())
# Each process takes long to start, so there are two only where it matters.


def interrupted(name: str) -> None:
    """Ctrl-C in a terminal reaches the worker and the process that started it."""
    os.kill(os.getpid(), signal.SIGINT)
    os.kill(os.getppid(), signal.SIGINT)
    time.sleep(600)


def killed(name: str) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def terminated(name: str) -> None:
    os.kill(os.getppid(), signal.SIGTERM)
    time.sleep(600)


@pytest.mark.parametrize("certify", [interrupted, terminated])
def test_an_interrupt_waits_for_no_measurement(certify, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("sdlab.certify.several.os.cpu_count", lambda: 1 if certify is terminated else 2)
    began = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        measured("sampler", ["euler", "heun", "ddim"], certify, 1, QUIET)
    assert time.monotonic() - began < 300
    assert not active_children()


def test_a_process_that_is_killed_is_one_line(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("sdlab.certify.several.os.cpu_count", lambda: 1)
    with pytest.raises(RunError, match=r"^a process that certifies was ended from outside"):
        measured("sampler", ["euler", "heun", "ddim"], killed, 1, QUIET)


def test_the_results_are_in_the_order_of_the_names():
    assert measured("sampler", ["heun", "ddim", "euler"], str.upper, 1, QUIET) == ["HEUN", "DDIM", "EULER"]
