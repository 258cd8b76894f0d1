"""Fixtures of the tests of training."""

import pytest


@pytest.fixture(autouse=True)
def loss_curves(monkeypatch: pytest.MonkeyPatch) -> None:
    """Loss curves are empty files, since they take longer to draw than a short run; test_training_record draws them."""
    monkeypatch.setattr("sdlab.train.loss_curves.draw_curves", lambda path, series: path.touch())
