"""Small files of a model: configurations, vocabularies and indexes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from sdlab.system.errors import UsageError
from sdlab.system.limits import brief
from sdlab.system.reading import read_bytes


def read_object(path: Path) -> dict[str, Any]:
    """The content of a file with a JSON object.

    Raises:
        UsageError: the file is missing, too large, not JSON, or has another kind of value at its top level.
    """
    try:
        content = json.loads(read_bytes(path))
    except UnicodeDecodeError:
        raise UsageError(f"{path}: not UTF-8 text") from None
    except RecursionError:
        raise UsageError(f"{path}: not JSON of a model: it is nested too deeply") from None
    except json.JSONDecodeError as error:
        raise UsageError(f"{path}: not JSON: {error}") from None
    except ValueError:
        raise UsageError(f"{path}: not JSON of a model: an integer has too many digits") from None
    if not isinstance(content, dict):
        raise UsageError(f"{path}: must be a JSON object, got {brief(content)}")
    return content
