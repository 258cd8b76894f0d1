"""Errors of sampling with advice for users of a command."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from sdlab import plugins
from sdlab.pipeline import NotFinite
from sdlab.system.errors import RunError


@contextmanager
def explained(dtype: str) -> Iterator[None]:
    """Add advice to an error of sampling, such as another data type or the place of the traceback.

    Raises:
        RunError: sampling failed.
    """
    try:
        yield
    except NotFinite as error:
        raise RunError(f"{error}{error.advice(dtype)}") from None
    except plugins.CodeError as error:
        raise RunError(f"{error}{plugins.logged('sdlab generate', error.trace)}") from None
