"""The exit status of a command that can be interrupted."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import ParamSpec

from sdlab.system.errors import SdlabError
from sdlab.system.interrupts import STATUS
from sdlab.system.output import print_error, remark

P = ParamSpec("P")


def reported(interrupted: str) -> Callable[[Callable[P, int]], Callable[P, int]]:
    """Print the error that the function raises, or `interrupted` after Ctrl-C, and return the exit status of either."""

    def decorate(work: Callable[P, int]) -> Callable[P, int]:
        @wraps(work)
        def wrapped(*args: P.args, **kwargs: P.kwargs) -> int:
            try:
                return work(*args, **kwargs)
            except SdlabError as error:
                return print_error(error)
            except KeyboardInterrupt:
                remark(interrupted)
                return STATUS

        return wrapped

    return decorate
