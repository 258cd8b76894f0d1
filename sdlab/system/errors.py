"""User-facing errors and their exit statuses.

    SdlabError
    ├── UsageError   exit status 2: the request is invalid. Found before weights are loaded.
    └── RunError     exit status 1: the work failed, because of a lock, a full disk or a damaged weight file.

Both are printed without a traceback, one line per mistake. A traceback means a bug in sdlab.
"""

from __future__ import annotations

import sys


class SdlabError(Exception):
    """An error that is reported to the user without a traceback; `status` is the exit status."""

    status = 1

    @property
    def lines(self) -> list[str]:
        """The lines of the message, one per mistake."""
        return str(self).splitlines()


class UsageError(SdlabError):
    """The request is invalid. The message gives the place, the mistake and the fix."""

    status = 2


class RunError(SdlabError):
    """The request was valid but the work failed. The message gives the reason and the fix."""


def print_error(error: SdlabError) -> int:
    """Print each line of the error to stderr as `error: …`. Returns its exit status."""
    for line in error.lines:
        print(f"error: {line}", file=sys.stderr)
    return error.status
