"""Stores of earlier formats."""

from __future__ import annotations

import sqlite3
from pathlib import Path

from sdlab.sweep.store import _MIGRATIONS, _VERSION


def made_older(path: Path, version: int) -> None:
    """Give a store an earlier format."""
    with sqlite3.connect(path) as db:
        for column in [name for later in range(version + 1, _VERSION + 1) for name in _MIGRATIONS[later]]:
            db.execute(f"ALTER TABLE cells DROP COLUMN {column.split()[0]}")
        db.execute(f"PRAGMA user_version = {version}")
