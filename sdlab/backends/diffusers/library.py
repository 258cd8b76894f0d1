"""The optional packages diffusers and transformers: imported on first use, offline and without output."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any

from sdlab.system.errors import UsageError

_PACKAGES = ("diffusers", "transformers")


def check_installed() -> None:
    """Check that the packages are installed, without importing them.

    Raises:
        UsageError: one of them is missing.
    """
    for package in _PACKAGES:
        if find_spec(package) is None:
            raise UsageError(f"a diffusers model needs the package {package}: pip install 'sdlab[diffusers]'")


def library(package: str) -> Any:
    """The package, imported.

    Raises:
        UsageError: it is missing.
    """
    check_installed()
    return importlib.import_module(package)


@contextmanager
def quiet() -> Iterator[None]:
    """Without progress bars and warnings of the packages. Their settings are restored at the end."""
    logs = [library(f"{package}.utils.logging") for package in _PACKAGES]
    levels, bars = [log.get_verbosity() for log in logs], [log.is_progress_bar_enabled() for log in logs]
    for log in logs:
        log.set_verbosity_error()
        log.disable_progress_bar()
    try:
        yield
    finally:
        for log, level, bar in zip(logs, levels, bars, strict=True):
            log.set_verbosity(level)
            if bar:
                log.enable_progress_bar()
