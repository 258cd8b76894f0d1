"""What can go wrong, and the exit status each kind gives.

    SdlabError
    ├── UsageError   the user's slip: file, key, value, what would be right; found before any weight is loaded   exit 2
    └── RunError     the work itself failed: a lock, a full disk, a broken weight file                            exit 1

Both are shown as one line. A traceback means a bug of ours.
"""

from __future__ import annotations

import difflib
import sys
from collections.abc import Iterable


class SdlabError(Exception):
    """An error that is told to the user in one line; `status` is the exit status."""

    status = 1

    @property
    def lines(self) -> list[str]:
        """The message line by line: one line per mistake."""
        return str(self).splitlines()


class UsageError(SdlabError):
    """The user asked for something that cannot be; the message says where, what, and what would be right."""

    status = 2


class RunError(SdlabError):
    """The request was right and the work failed; the message says why and what to do."""


def print_error(error: SdlabError) -> int:
    """Print each line of the error to stderr as `error: …`; returns its exit status."""
    for line in error.lines:
        print(f"error: {line}", file=sys.stderr)
    return error.status


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """`" (did you mean 'euler'?)"` when `word` is near one of `known`, else an empty string."""
    near = difflib.get_close_matches(word, list(known), n=1)
    return f" (did you mean {near[0]!r}?)" if near else ""


def unknown(kind: str, word: str, known: Iterable[str]) -> str:
    """`"unknown sampler 'eular' (did you mean 'euler'?); known: ddim, euler"`."""
    names = sorted(known)
    return f"unknown {kind} {word!r}{did_you_mean(word, names)}; known: {', '.join(names)}"
