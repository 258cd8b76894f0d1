"""Small files of a model: configurations, vocabularies and indexes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from sdlab.system.errors import UsageError
from sdlab.system.files import reason

_LARGEST = 64 * 2**20  # bytes; the largest that models have, a tokenizer.json, takes a few million


def read_limited(path: Path) -> bytes:
    """The bytes of a file that should be small.

    Raises:
        UsageError: the file is missing or too large.
    """
    try:
        with path.open("rb") as file:
            data = file.read(_LARGEST + 1)
    except OSError as error:
        raise UsageError(f"{path}: {reason(error)}") from None
    if len(data) > _LARGEST:
        raise UsageError(
            f"{path}: has more than {_LARGEST:,} bytes, so it is not the file of a model that it should be"
        )
    return data


def read_object(path: Path) -> dict[str, Any]:
    """The content of a file with a JSON object.

    Raises:
        UsageError: the file is missing, too large, not JSON, or has another kind of value at its top level.
    """
    try:
        content = json.loads(read_limited(path))
    except UnicodeDecodeError:
        raise UsageError(f"{path}: not UTF-8 text") from None
    except RecursionError:
        raise UsageError(f"{path}: not JSON of a model: it is nested too deeply") from None
    except ValueError as error:
        raise UsageError(f"{path}: not JSON: {error}") from None
    if not isinstance(content, dict):
        raise UsageError(f"{path}: must be a JSON object, got a {type(content).__name__}")
    return content
