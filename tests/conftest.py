"""Fixtures of all tests."""

from collections.abc import Iterator

import pytest

from sdlab import plugins
from sdlab.system.other_work import OtherWork


@pytest.fixture(autouse=True)
def registries() -> Iterator[None]:
    """What a test registers is gone after it, so that no test sees the custom code of another."""
    kept = [(one, dict(one)) for one in (*plugins.REGISTRIES.values(), plugins._PLUGINS)]
    yield
    for registry, before in kept:
        if registry != before:
            registry.clear()
            registry.update(before)


@pytest.fixture(autouse=True)
def undisturbed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests run beside each other, which would mark the times in their tables as disturbed."""
    monkeypatch.setattr(OtherWork, "share", lambda self: None)


@pytest.fixture(autouse=True)
def few_reconstructions(monkeypatch: pytest.MonkeyPatch) -> None:
    """The VAE stage measures few pictures in tests."""
    monkeypatch.setattr("sdlab.train.stages.reconstruction._BATCHES", 1)
