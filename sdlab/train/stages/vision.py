"""A vision encoder that another stage builds on."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from sdlab.system.errors import UsageError


def check_trained(vision: nn.Module, path: Path, key: str) -> None:
    """Check that the vision encoder of the file was trained, since the table `key` needs its features.

    Raises:
        UsageError: its biases are zero, as they are before training.
    """
    if not any(p.any() for name, p in vision.named_parameters() if name.endswith("bias")):
        raise UsageError(f"`{key}` needs a vision encoder, but that of {path} is untrained; run the clip stage first")
