"""Standard output and standard error: lines for people, on any stream."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from io import TextIOWrapper
from typing import TextIO

from sdlab.system.errors import RunError, SdlabError
from sdlab.system.files import reason
from sdlab.system.text import PLAINLY, shown


def say(line: object) -> None:
    """Print one line to standard output, with control characters escaped."""
    print(shown(line))


def remark(line: object) -> None:
    """Print one line to standard error, with control characters escaped."""
    print(shown(line), file=sys.stderr)


def write_bytes(content: bytes) -> None:
    """Write bytes to standard output, which should not be a terminal.

    Raises:
        RunError: standard output cannot be written.
        BrokenPipeError: the reader of a pipe has ended.
    """
    try:
        sys.stdout.flush()
        sys.stdout.buffer.write(content)
        sys.stdout.buffer.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        raise RunError(f"cannot write the output: {reason(error)}") from None


def print_error(error: SdlabError) -> int:
    """Print each line of the error to stderr as `error: …`. Returns its exit status."""
    for line in error.lines:
        remark(f"error: {line}")
    return error.status


def prepare() -> None:
    """Let both streams take any text. What their encoding lacks is written plainly; a closed stream drops all text.

    Streams that something else has put in place are left alone.
    """
    if sys.stdout is sys.__stdout__:
        sys.stdout = _Stream(sys.stdout, 1)
    if sys.stderr is sys.__stderr__:
        sys.stderr = _Stream(sys.stderr, 2)


class _Stream(TextIOWrapper):
    """A standard stream that reports once that it cannot be written, and then drops all text."""

    def __init__(self, stream: TextIO | None, number: int) -> None:
        self._number = number
        if stream is None:  # it was closed when the process started
            super().__init__(os.fdopen(os.open(os.devnull, os.O_WRONLY), "wb"), "utf-8")
        else:
            stream.flush()
            same = os.fdopen(number, "wb", closefd=False)
            super().__init__(same, stream.encoding, PLAINLY, line_buffering=number == 2 or stream.isatty())

    def write(self, text: str) -> int:
        """Write text.

        Raises:
            RunError: this is standard output, and it cannot be written.
            BrokenPipeError: the reader of a pipe has ended.
        """
        with self._reporting():
            return super().write(text)
        return len(text)

    def flush(self) -> None:
        """Write what is buffered. Raises as `write` does."""
        with self._reporting():
            super().flush()

    @contextmanager
    def _reporting(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            os.dup2(os.open(os.devnull, os.O_WRONLY), self.fileno())  # Python flushes once more when it ends
            if isinstance(error, BrokenPipeError):
                raise
            if self._number == 1:  # a failure of standard error cannot be reported anywhere
                raise RunError(f"cannot write the output: {reason(error)}") from None
