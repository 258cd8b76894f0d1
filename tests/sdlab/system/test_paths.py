"""Paths that no file can have are errors of one line, wherever they are written."""

from __future__ import annotations

from pathlib import Path

import pytest

from sdlab.backends.base import Mistakes
from sdlab.backends.registry import open_model
from sdlab.plugins import add
from sdlab.system.errors import UsageError
from sdlab.system.paths import path_fault, user_path
from sdlab.system.resources import find, near
from sdlab.weights.locate import ModelSource, locate

FAULTS = {
    "~nosuchuser/x": "~nosuchuser/x: there is no such user; write the folder itself",
    "a\0b": "a\\x00b: a path cannot contain NUL",
    "a" * 300: f"{'a' * 60}…: the path is too long",
    "a/" * 3000: f"{'a/' * 30}…: the path is too long",
}


@pytest.mark.parametrize("path", FAULTS, ids=["user", "NUL", "long name", "long path"])
def test_the_mistake_is_reported_wherever_the_path_is_written(path: str, tmp_path: Path):
    assert path_fault(path) == FAULTS[path]
    for use in (
        user_path,
        find,
        lambda text: near(text, tmp_path),
        lambda text: add("sampler", text + ".py:Sampler"),
        lambda text: locate(text),
        lambda text: locate(ModelSource("sd15", weights=text)),
    ):
        with pytest.raises(UsageError) as caught:
            use(path)
        assert len(caught.value.lines) == 1
        assert FAULTS[path].rpartition(": ")[2] in str(caught.value)
    with pytest.raises(Mistakes):
        open_model(path, {}, tmp_path)


def test_home_is_expanded(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HOME", "/somewhere")
    assert user_path("~/x") == Path("/somewhere/x")
    assert user_path("x") == Path("x")


@pytest.mark.parametrize("path", ["", " ", "\t"])
def test_an_empty_path_is_not_the_current_folder(path: str):
    with pytest.raises(UsageError, match=r"^the path is empty; write \. for the current folder$"):
        user_path(path)
