"""The errors that a user can cause, with their exit statuses.

    SdlabError
    ├── UsageError   exit status 2: the request is wrong. Found before weights are loaded.
    └── RunError     exit status 1: the work failed, through a lock, a full disk or a broken weight file.

Both are printed without a traceback, one line per mistake. A traceback means a bug in sdlab.
"""

from __future__ import annotations

import sys


class SdlabError(Exception):
    """An error that is reported to the user without a traceback; `status` is the exit status."""

    status = 1

    @property
    def lines(self) -> list[str]:
        """The message line by line: one line per mistake."""
        return str(self).splitlines()


class UsageError(SdlabError):
    """The request cannot be carried out. The message says where, what, and what would be right."""

    status = 2


class RunError(SdlabError):
    """The request was right and the work failed. The message says why and what to do."""


def print_error(error: SdlabError) -> int:
    """Print each line of the error to stderr as `error: …`; returns its exit status."""
    for line in error.lines:
        print(f"error: {line}", file=sys.stderr)
    return error.status
