"""User-facing errors and their exit statuses.

    SdlabError
    ├── UsageError   exit status 2: the request is invalid. Found before weights are loaded.
    └── RunError     exit status 1: the work failed, because of a lock, a full disk or a damaged weight file.

Both are printed without a traceback, one line per mistake. A traceback means a bug in sdlab.
"""

from __future__ import annotations

from sdlab.system.text import shown

_LONGEST = 2000  # characters of a line; longer values are cut in the middle


class SdlabError(Exception):
    """An error that is reported to the user without a traceback; `status` is the exit status.

    Each argument is one mistake and becomes one line, in which control characters are escaped.
    """

    status = 1

    @property
    def lines(self) -> list[str]:
        """The lines of the message, one per mistake."""
        return [_cut(shown(line)) for line in self.args]

    def __str__(self) -> str:
        return "\n".join(self.lines)


class UsageError(SdlabError):
    """The request is invalid. The message gives the place, the mistake and the fix."""

    status = 2


class RunError(SdlabError):
    """The request was valid but the work failed. The message gives the reason and the fix."""


def _cut(line: str) -> str:
    half = _LONGEST // 2
    return line if len(line) <= _LONGEST else f"{line[:half]} … {line[-half:]}"
