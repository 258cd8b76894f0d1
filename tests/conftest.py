"""Fixtures of all tests."""

from collections.abc import Iterator

import pytest

from sdlab import plugins
from sdlab.metrics import kept
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


@pytest.fixture(autouse=True, scope="session")
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Tests share what they keep on the disk with each other, and nothing with the user."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(kept.FOLDER, str(tmp_path_factory.mktemp("kept")))
        yield


@pytest.fixture(autouse=True)
def undisturbed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests run beside each other, which would mark the times in their tables as disturbed."""
    monkeypatch.setattr(OtherWork, "share", lambda self: None)


@pytest.fixture(autouse=True)
def few_reconstructions(monkeypatch: pytest.MonkeyPatch) -> None:
    """The VAE stage measures few pictures in tests."""
    monkeypatch.setattr("sdlab.train.stages.reconstruction._BATCHES", 1)
