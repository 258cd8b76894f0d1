"""Errors are printed one line per mistake, and carry their exit status."""

import pytest

from sdlab.system.errors import RunError, UsageError
from sdlab.system.output import print_error


def test_each_line_of_an_error_is_marked_as_one(capsys: pytest.CaptureFixture[str]):
    assert print_error(UsageError("a.toml: steps: must be at least 1", "a.toml: seed: must be at least 0")) == 2
    assert (
        capsys.readouterr().err == "error: a.toml: steps: must be at least 1\nerror: a.toml: seed: must be at least 0\n"
    )
    assert print_error(RunError("no space left")) == 1


def test_no_value_in_an_error_can_forge_a_line_or_run_a_terminal_command(capsys: pytest.CaptureFixture[str]):
    error = UsageError("a.toml: unknown key 'x\nerror: all is well\r\x1b[2J\u202e'")
    assert error.lines == [str(error)] == [r"a.toml: unknown key 'x\nerror: all is well\r\x1b[2J\u202e'"]
    print_error(error)
    assert capsys.readouterr().err.splitlines() == [f"error: {error}"]


def test_a_long_value_is_cut_in_the_middle():
    [line] = UsageError(f"the place: {'9' * 100_000}: the fix").lines
    assert (len(line), line[:12], line[-9:]) == (2003, "the place: 9", ": the fix")
