"""Files shipped with sdlab, in the clone or in the installed package."""

from __future__ import annotations

from pathlib import Path

from sdlab.system.paths import user_path

_PACKAGE = Path(__file__).resolve().parents[1]
ROOT = _PACKAGE / "_bundled" if (_PACKAGE / "_bundled").is_dir() else _PACKAGE.parent


def find(path: str | Path) -> Path:
    """`path` if it exists, otherwise the shipped file of that name, otherwise `path` unchanged.

    This lets `sdlab sweep experiments/cfg_vs_steps.toml` work in any folder. The user's files take precedence.

    Raises:
        UsageError: no file can have this path.
    """
    given = user_path(path)
    shipped = ROOT / given
    return shipped if not given.exists() and shipped.exists() else given


def near(path: str | Path, folder: Path) -> str:
    """A path written in a file in `folder`: relative to that folder if it exists there, otherwise from `find`.

    Raises:
        UsageError: no file can have this path.
    """
    beside = folder / user_path(path)
    return str(beside if beside.exists() else find(path))
