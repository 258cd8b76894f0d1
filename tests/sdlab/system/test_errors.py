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
