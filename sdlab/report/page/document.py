"""The file report.html. It contains all scripts, styles and data, and loads nothing."""

from __future__ import annotations

import base64
import hashlib
import html
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sdlab.system.text import shown

_HERE = Path(__file__).parent
_LIBRARIES = ("vega", "vega-lite", "vega-embed", "tabulator")
_IN_SCRIPT = {ord(sign): f"\\u{ord(sign):04x}" for sign in "<>&\u2028\u2029"}  # could end the element, or a line


def document(title: str, data: Mapping[str, Any]) -> str:
    """The page that shows `data`, as `page_data` returns it.

    Texts of the run are in one JSON block, and page.js adds them to the page as text nodes. The policy allows the
    scripts of this file by their hashes, so a text could not run as a script even if it became markup.
    """
    scripts = [_library(name) for name in _LIBRARIES] + [_read("page.js")]
    styles = [_licensed("tabulator", _read("vendor/tabulator.min.css")), _read("page.css")]
    parts = {
        "policy": f"default-src 'none'; script-src {' '.join(map(_hash, scripts))}; style-src 'unsafe-inline'; "
        "img-src data:; base-uri 'none'; form-action 'none'",
        "title": html.escape(shown(title)),
        "styles": "\n".join(f"<style>{style}</style>" for style in styles),
        "data": in_script(data),
        "scripts": "\n".join(f"<script>{script}</script>" for script in scripts),
    }
    return re.sub(r"\{\{(\w+)\}\}", lambda found: parts[found[1]], _read("template.html"))


def in_script(data: Any) -> str:
    """JSON that cannot end the script element it is in."""
    return json.dumps(_shown(data), allow_nan=False, ensure_ascii=False, separators=(",", ":")).translate(_IN_SCRIPT)


def _shown(data: Any) -> Any:
    """The data with all texts as `shown`."""
    if isinstance(data, str):
        return shown(data)
    if isinstance(data, Mapping):
        return {shown(key): _shown(value) for key, value in data.items()}
    return [_shown(value) for value in data] if isinstance(data, list | tuple) else data


def _library(name: str) -> str:
    """A library with its licence, which has to be part of every copy. The source map is not."""
    return _licensed(name, re.sub(r"//# sourceMappingURL=\S*\s*$", "", _read(f"vendor/{name}.min.js")))


def _licensed(name: str, text: str) -> str:
    return f"/*\n{name}\n{_read(f'vendor/{name}.LICENSE')}*/\n{text}"


def _hash(script: str) -> str:
    """The source expression of a Content-Security-Policy that allows this script alone."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'"


def _read(name: str) -> str:
    return (_HERE / name).read_text(encoding="utf-8")
