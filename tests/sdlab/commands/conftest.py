"""Fixtures of the tests of commands."""

from functools import cache

import pytest

from sdlab.commands import subject
from sdlab.commands.request import Request
from sdlab.pipeline import Pipeline
from sdlab.weights.model_loader import StoredModel, open_model

_open = subject._open


@cache
def _opened(request: Request) -> Pipeline:
    return _open(request, open_model(request.model), [], False)


@pytest.fixture(autouse=True)
def lab_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """Commands share the lab model, which takes longer to load than to draw with."""

    def opened(request: Request, stored: StoredModel, others: list[str], gradients: bool) -> Pipeline:
        if request.model != "scenes" or request.offload or request.compile or others or gradients:
            return _open(request, stored, others, gradients)
        return _opened(Request("", device=request.device, dtype=request.dtype, tiles=request.tiles))

    monkeypatch.setattr(subject, "_open", opened)
