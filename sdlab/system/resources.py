"""The files shipped with sdlab: in the clone, or inside the package when it was installed from a wheel."""

from __future__ import annotations

from pathlib import Path

_PACKAGE = Path(__file__).resolve().parents[1]
ROOT = _PACKAGE / "_bundled" if (_PACKAGE / "_bundled").is_dir() else _PACKAGE.parent


def find(path: str | Path) -> Path:
    """`path` if it exists, else the file of that name shipped with sdlab, else `path`.

    So `sdlab sweep experiments/cfg_vs_steps.toml` works in any folder, and a file of the user takes precedence.
    """
    given = Path(path).expanduser()
    shipped = ROOT / given
    return shipped if not given.exists() and shipped.exists() else given


def near(path: str | Path, folder: Path) -> str:
    """`path` as a file in `folder` names it: relative to that folder if it exists there, else as `find` has it."""
    beside = folder / Path(path).expanduser()
    return str(beside if beside.exists() else find(path))
