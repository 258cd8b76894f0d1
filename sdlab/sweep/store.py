"""The store of results, one SQLite file with one row per cell. A row is written whole or not at all.

The rollback journal (SQLite's default) makes every transaction safe if the process is killed or the power fails, and
leaves a single file. A file may come from an untrusted source. What is read from it has limits and is never executed.
"""

from __future__ import annotations

import base64
import io
import json
import math
import re
import sqlite3
import warnings
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydantic import TypeAdapter, ValidationError

from sdlab.sweep.cell import Cell
from sdlab.sweep.previews import Previews
from sdlab.sweep.results import CellResult, no_path
from sdlab.sweep.times import Amount, Times
from sdlab.system.errors import RunError

_OURS = 0x5D1AB  # PRAGMA application_id, which marks a file as a store
_VERSION = 5
_TABLES = """
CREATE TABLE cells (
    key               TEXT PRIMARY KEY,  -- hash of everything that determines the values
    cell              TEXT NOT NULL,     -- JSON
    status            TEXT NOT NULL CHECK (status IN ('ok', 'failed')),
    reason            TEXT NOT NULL,     -- why it failed
    metrics           TEXT NOT NULL,     -- JSON, name -> value
    stderr            TEXT NOT NULL,     -- JSON, name -> standard error
    per_image         BLOB NOT NULL,     -- NumPy .npz, name -> one value per image
    replicates        BLOB,              -- NumPy .npz, name -> two rows of the jackknife; NULL in rows of format 1
    network_passes    REAL,              -- per image
    seconds_per_image REAL,
    ms_per_pass       REAL,
    network_share     REAL,              -- of the time, 0 to 1
    peak_memory       REAL,              -- bytes; NULL in rows of format 2, as are the times
    times             TEXT,              -- JSON, seconds per image of each part and repetition
    error_path        BLOB,              -- NumPy .npz, levels and the distance to the flow; NULL in rows of format 3
    prompts           TEXT NOT NULL,     -- JSON, of the thumbnails
    thumbnails        BLOB,              -- PNG, the pictures side by side
    preview_levels    TEXT,              -- JSON, noise levels of the previews; NULL in rows of format 4
    previews          BLOB,              -- PNG, the previews side by side
    provenance        TEXT NOT NULL,     -- JSON
    created           TEXT NOT NULL      -- ISO 8601, UTC
);
CREATE TABLE notes (
    name  TEXT PRIMARY KEY,
    value TEXT NOT NULL
);
"""
_MIGRATIONS = {  # by the format that each leads to
    2: ("replicates BLOB",),
    3: ("peak_memory REAL", "times TEXT"),
    4: ("error_path BLOB",),
    5: ("preview_levels TEXT", "previews BLOB"),
}
_COLUMNS = {
    table: set(re.findall(r"^ {4}(\w+) ", definition, re.MULTILINE))
    for table, definition in re.findall(r"CREATE TABLE (\w+) \(\n(.*?)\n\);", _TABLES, re.DOTALL)
}
_RESULTS = "metrics, stderr, per_image, replicates"
_PATH = "reference_error"
INPUTS = "inputs"  # the note with the input pictures
_LARGEST = 2**28  # bytes of one value, both stored and decompressed
_PIXELS = 2**27  # of all pictures of a cell
_REASON = 120  # characters of the reason why a row cannot be read
_NUMBERS, _TEXTS, _TABLE = TypeAdapter(dict[str, float]), TypeAdapter(list[str]), TypeAdapter(dict[str, Any])
_TIMES, _LEVELS = TypeAdapter(Times), TypeAdapter(tuple[Amount, ...])
_COSTS = ("network_passes", "seconds_per_image", "ms_per_pass", "network_share", "peak_memory")


class Damaged(Exception):
    """A row or its pictures cannot be read. The message is the reason; other rows are not affected."""


@dataclass(frozen=True)
class Row:
    """A row of the store; a failed cell has a reason and no values."""

    key: str
    cell: Cell
    reason: str = ""
    metrics: dict[str, float] = field(default_factory=dict)
    stderr: dict[str, float] = field(default_factory=dict)
    per_image: dict[str, NDArray[np.floating]] = field(default_factory=dict)  # (N,) each
    replicates: dict[str, NDArray[np.floating]] = field(default_factory=dict)  # (2, U) each
    network_passes: float = math.nan
    seconds_per_image: float = math.nan
    ms_per_pass: float = math.nan
    network_share: float = math.nan
    peak_memory: float = math.nan  # bytes
    times: Times = field(default_factory=Times)  # empty if they are not known
    error_path: NDArray[np.floating] = field(
        default_factory=no_path
    )  # (2, S), levels and the distance to the flow there
    provenance: dict[str, Any] = field(default_factory=dict)
    created: str = ""

    @property
    def ok(self) -> bool:
        """Whether the cell has values."""
        return not self.reason

    @property
    def images(self) -> int:
        """The number of images that have a value each, 0 without such values."""
        return max(map(len, self.per_image.values()), default=0)


class Store:
    """An open store. Only one process may write; any number may read."""

    def __init__(self, path: Path, *, only_read: bool = False) -> None:
        """Open the file, or create it. With `only_read` it has to exist, and it is never changed.

        Raises:
            RunError: the file is a link, is not a store, is damaged, or was written by a newer sdlab. It is not
                changed.
        """
        self.path, self._only_read = path, only_read
        if path.is_symlink() and not only_read:
            raise RunError(f"{path} is a link, and results are not written through links; move the file itself there")
        with self._reporting():
            self._db = sqlite3.connect(path, isolation_level=None, timeout=30)
            self._db.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, _LARGEST)
        try:
            with self._reporting():
                self._check()
        except RunError:
            self._db.close()
            raise

    def _check(self) -> None:
        ours, version = (self._one(f"PRAGMA {name}") for name in ("application_id", "user_version"))
        if not self._one("SELECT count(*) FROM sqlite_master"):
            if self._only_read:
                raise RunError(f"{self.path} is empty; no sweep has been run there")
            self._db.executescript(
                f"BEGIN; PRAGMA application_id = {_OURS}; PRAGMA user_version = {_VERSION}; {_TABLES} COMMIT;"
            )
        elif ours != _OURS:
            raise RunError(f"{self.path} is a database of another program; move it away or use another --out")
        elif not 1 <= version <= _VERSION:
            newer = "a newer sdlab" if version > _VERSION else "another program"
            raise RunError(
                f"{self.path} was written by {newer} (format {version}; this version reads up to {_VERSION})"
            )
        elif self._one("SELECT count(*) FROM sqlite_master WHERE type NOT IN ('table', 'index')"):
            raise RunError(f"{self.path} was not written by sdlab: it has views or triggers")
        elif self._one("SELECT count(*) FROM pragma_table_xinfo('cells') WHERE hidden"):
            raise RunError(f"{self.path} was not written by sdlab: it has computed columns")
        elif self._one("PRAGMA quick_check(1)") != "ok":
            raise sqlite3.DatabaseError("quick_check failed")
        elif self._only_read:
            self._show_as_up_to_date(version)
        else:
            self._bring_up_to_date()

    def _show_as_up_to_date(self, version: int) -> None:
        """Read a store of an earlier sdlab through a temporary view, in which the columns that it lacks are empty."""
        added = {column.split()[0] for later in range(version + 1, _VERSION + 1) for column in _MIGRATIONS[later]}
        self._check_columns(added)
        if added:
            empty = ", ".join(f"NULL AS {column}" for column in sorted(added))
            self._db.execute(f"CREATE TEMP VIEW cells AS SELECT rowid, *, {empty} FROM main.cells")
        self._db.execute("PRAGMA query_only = ON")

    def _bring_up_to_date(self) -> None:
        """Bring a store of an earlier sdlab to the present format, in one transaction, and check its columns."""
        with self._transaction():
            for later in range(self._one("PRAGMA user_version") + 1, _VERSION + 1):
                for column in _MIGRATIONS[later]:
                    self._db.execute(f"ALTER TABLE cells ADD COLUMN {column}")
                self._db.execute(f"PRAGMA user_version = {later}")
            self._check_columns(set())

    def _check_columns(self, added: set[str]) -> None:
        """Check that the tables have their columns. A store of an earlier sdlab lacks those that were `added` later."""
        for table, columns in _COLUMNS.items():
            found = self._db.execute("SELECT name FROM pragma_table_info(?)", (table,))
            if lacking := columns - {name for (name,) in found} - (added if table == "cells" else set()):
                raise RunError(f"{self.path} was not written by sdlab: `{table}` has no column `{min(lacking)}`")

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        """One transaction, which takes back everything after an error. It writes only if it has to."""
        self._db.execute("BEGIN IMMEDIATE" if self._one("PRAGMA user_version") < _VERSION else "BEGIN")
        try:
            yield
        except BaseException:
            self._db.execute("ROLLBACK")
            raise
        self._db.execute("COMMIT")

    def close(self) -> None:
        """Close the file."""
        self._db.close()

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def finished(self) -> set[str]:
        """The keys of the cells that have values."""
        with self._reporting():
            return {key for (key,) in self._db.execute("SELECT key FROM cells WHERE status = 'ok'")}

    def rows(self, keys: Iterable[str] | None = None) -> list[Row]:
        """The rows of `keys` that exist and can be read, in their order. Without `keys` all, oldest first."""
        if keys is None:
            with self._reporting():
                keys = [key for (key,) in self._db.execute("SELECT key FROM cells ORDER BY created, rowid")]
        found = []
        for key in keys:
            with suppress(Damaged):
                found.append(self.row(key))
        return [row for row in found if row is not None]

    def row(self, key: str) -> Row | None:
        """The row of a key, if it exists.

        Raises:
            Damaged: it cannot be read.
        """
        names = f"cell, reason, {_RESULTS}, {', '.join(_COSTS)}, times, error_path, provenance, created"
        with self._reporting(), _intact():
            found = self._db.execute(f"SELECT {names} FROM cells WHERE key = ?", (key,)).fetchone()
            return None if found is None else _row(key, *found)

    def thumbnails(self, key: str) -> tuple[list[str], NDArray[np.uint8]] | None:
        """The prompts (K) and pictures (K, H, W, 3) of a cell, if it has any.

        Raises:
            Damaged: they cannot be read.
        """
        with self._reporting(), _intact():
            found = self._db.execute("SELECT prompts, thumbnails FROM cells WHERE key = ?", (key,)).fetchone()
            if found is None or found[1] is None:
                return None
            prompts = _TEXTS.validate_json(found[0])
            return prompts, _unstrip(found[1], len(prompts))

    def previews(self, key: str) -> Previews:
        """The previews of a cell, empty if it has none.

        Raises:
            Damaged: they cannot be read.
        """
        with self._reporting(), _intact():
            found = self._db.execute("SELECT preview_levels, previews FROM cells WHERE key = ?", (key,)).fetchone()
            if found is None or found[1] is None:
                return Previews()
            levels = _LEVELS.validate_json(found[0])
            return Previews(levels, _unstrip(found[1], len(levels)))

    def add(self, key: str, cell: Cell, result: CellResult, prompts: Sequence[str], provenance: dict[str, Any]) -> None:
        """Write a finished cell. `prompts` are those of its thumbnails.

        Raises:
            ValueError: the number of prompts differs from that of the thumbnails.
            RunError: the disk is full or fails. Other rows are not affected.
        """
        if len(prompts) != len(result.thumbnails):
            raise ValueError(f"{len(prompts)} prompts for {len(result.thumbnails)} thumbnails")
        self._write(
            key=key,
            cell=cell,
            status="ok",
            reason="",
            prompts=json.dumps(list(prompts)),
            thumbnails=_strip(result.thumbnails),
            preview_levels=json.dumps(result.previews.levels),
            previews=_strip(result.previews.pictures),
            provenance=provenance,
            **_values(result),
        )

    def extend(self, key: str, result: CellResult, provenance: dict[str, Any]) -> None:
        """Write the values of more images of a finished cell, including the earlier ones. Its thumbnails stay.

        Raises:
            RunError: as for `add`.
        """
        self._change(key, **_values(result), **_origin(provenance))

    def set_times(self, key: str, times: Times, provenance: dict[str, Any]) -> None:
        """Write other times of a finished cell.

        Raises:
            RunError: as for `add`.
        """
        self._change(key, **_of_times(times), **_origin(provenance))

    def add_failed(self, key: str, cell: Cell, reason: str, provenance: dict[str, Any]) -> None:
        """Store the reason why a cell failed. The next run tries it again.

        Raises:
            RunError: as for `add`.
        """
        empty = {
            "metrics": "{}",
            "stderr": "{}",
            "per_image": _npz({}),
            "replicates": None,
            "error_path": None,
            "prompts": "[]",
            "thumbnails": None,
            "preview_levels": None,
            "previews": None,
        }
        costs = dict.fromkeys((*_COSTS, "times"))
        self._write(key=key, cell=cell, status="failed", reason=reason, provenance=provenance, **empty, **costs)

    def take(self, other: Store, key: str) -> None:
        """Copy the row of a key from another store as it is, in place of one that is here.

        Raises:
            Damaged: it cannot be read.
            RunError: as for `add`, or the other store is damaged.
        """
        names = ", ".join(sorted(_COLUMNS["cells"]))
        with other._reporting(), _intact():
            values = other._db.execute(f"SELECT {names} FROM cells WHERE key = ?", (key,)).fetchone()
        with self._reporting():
            marks = ", ".join("?" * len(values))
            self._db.execute(f"INSERT OR REPLACE INTO cells ({names}) VALUES ({marks})", values)

    def _write(self, cell: Cell, provenance: dict[str, Any], **columns: Any) -> None:
        columns["cell"] = json.dumps(cell.model_dump())
        columns |= _origin(provenance)
        names, marks = ", ".join(columns), ", ".join("?" * len(columns))
        with self._reporting():
            self._db.execute(f"INSERT OR REPLACE INTO cells ({names}) VALUES ({marks})", tuple(columns.values()))

    def _change(self, key: str, **columns: Any) -> None:
        changes = ", ".join(f"{name} = ?" for name in columns)
        with self._reporting():
            self._db.execute(f"UPDATE cells SET {changes} WHERE key = ?", (*columns.values(), key))

    def note(self, name: str) -> str | None:
        """A text stored beside the cells."""
        with self._reporting():
            found = self._db.execute("SELECT value FROM notes WHERE name = ?", (name,)).fetchone()
        return None if found is None else found[0]

    def set_note(self, name: str, value: str) -> None:
        """Store a text beside the cells.

        Raises:
            RunError: as for `add`.
        """
        with self._reporting():
            self._db.execute("INSERT OR REPLACE INTO notes VALUES (?, ?)", (name, value))

    def inputs(self) -> NDArray[np.uint8] | None:
        """The input pictures (K, H, W, 3) of image-to-image.

        Raises:
            Damaged: they cannot be read.
        """
        with _intact():
            text = self.note(INPUTS)
            if text is None:
                return None
            count, strip = json.loads(text)
            return _unstrip(base64.b64decode(strip), count)

    def set_inputs(self, pictures: NDArray[np.uint8]) -> None:
        """Store the input pictures beside the cells.

        Raises:
            RunError: as for `add`.
        """
        strip = _strip(pictures)
        assert strip is not None
        self.set_note(INPUTS, json.dumps([len(pictures), base64.b64encode(strip).decode()]))

    def _one(self, query: str) -> Any:
        return self._db.execute(query).fetchone()[0]

    @contextmanager
    def _reporting(self) -> Iterator[None]:
        """Turn errors of SQLite into errors of sdlab with one line each."""
        try:
            yield
        except sqlite3.DatabaseError as error:
            code = getattr(error, "sqlite_errorname", "SQLITE_CORRUPT")
            if code.startswith("SQLITE_READONLY"):
                text = f"cannot write {self.path}, which may not be changed; copy it to a folder of your own"
            elif code.startswith(("SQLITE_FULL", "SQLITE_IOERR")):
                text = f"cannot write {self.path}: the disk is full or fails ({error}); finished cells are kept"
            elif code == "SQLITE_TOOBIG":
                text = (
                    f"{self.path} is damaged: a value has more than {_LARGEST >> 20} MiB; move it away to start again"
                )
            elif code.startswith(("SQLITE_NOTADB", "SQLITE_CORRUPT")):
                text = f"{self.path} is damaged or is not an SQLite file ({error}); move it away to start again"
            else:
                text = f"cannot use {self.path}: {error}"
            raise RunError(text) from error


@contextmanager
def _intact() -> Iterator[None]:
    """Report a value that cannot be read in one line. On such values NumPy, Pillow and JSON may raise any error."""
    try:
        yield
    except sqlite3.DataError as error:  # it is too large
        raise Damaged(str(error)) from None
    except (sqlite3.DatabaseError, RunError):
        raise
    except Exception as error:
        text = " ".join(_cause(error).split())
        raise Damaged(f"{text[:_REASON]}…" if len(text) > _REASON else text) from None


def _cause(error: Exception) -> str:
    """The first mistake in a stored value, without the name of the error or of the library that found it."""
    if isinstance(error, ValidationError):
        first = error.errors(include_url=False, include_input=False)[0]
        return ": ".join(filter(None, (".".join(map(str, first["loc"])), first["msg"])))
    return str(error) or type(error).__name__


def _row(key: str, cell: str, reason: str, metrics: str, stderr: str, per_image: bytes, *rest: Any) -> Row:
    replicates, *costs, times, error_path, provenance, created = rest
    errors = _NUMBERS.validate_json(stderr)
    if any(error < 0 for error in errors.values()):
        raise ValueError("a standard error is negative")
    return Row(
        key=key,
        cell=Cell.model_validate_json(cell),
        reason=str(reason),
        metrics=_NUMBERS.validate_json(metrics),
        stderr=errors,
        per_image=_arrays(per_image, 1),
        replicates={} if replicates is None else _arrays(replicates, 2),
        times=Times() if times is None else _TIMES.validate_json(times),
        error_path=no_path() if error_path is None else _path(error_path),
        provenance=_TABLE.validate_json(provenance),
        created=str(created),
        **{name: math.nan if cost is None else float(cost) for name, cost in zip(_COSTS, costs, strict=True)},
    )


def _values(result: CellResult) -> dict[str, Any]:
    """The columns of the values and costs of a result."""
    return {
        "metrics": json.dumps(result.metrics),
        "stderr": json.dumps(result.stderr),
        "per_image": _npz(result.per_image),
        "replicates": _npz(result.replicates),
        "error_path": _npz({_PATH: result.error_path}) if result.error_path.size else None,
        "network_passes": float(result.network_passes),
        "peak_memory": float(result.peak_memory),
        **_of_times(result.times),
    }


def _of_times(times: Times) -> dict[str, Any]:
    """The columns of the times, and of what they sum up to."""
    return {
        "seconds_per_image": times.seconds,
        "ms_per_pass": times.ms_per_pass,
        "network_share": times.network_share,
        "times": _TIMES.dump_json(times).decode(),
    }


def _origin(provenance: dict[str, Any]) -> dict[str, str]:
    """The columns of where and when a row was written."""
    return {"provenance": json.dumps(provenance), "created": datetime.now(UTC).isoformat(timespec="milliseconds")}


def _path(stored: bytes) -> NDArray[np.floating]:
    """Levels that fall, and distances, (2, S)."""
    found = _arrays(stored, 2)[_PATH].astype(np.float64)
    if len(found) != 2 or not (np.isfinite(found).all() and (found >= 0).all() and (np.diff(found[0]) < 0).all()):
        raise ValueError("the path is not one of falling levels with distances")
    return found


def _arrays(stored: bytes, dimensions: int) -> dict[str, NDArray[np.floating]]:
    """The inverse of `_npz`, for arrays with so many dimensions. Pickles are refused."""
    with zipfile.ZipFile(io.BytesIO(stored)) as archive:
        if (size := sum(member.file_size for member in archive.infolist())) > _LARGEST:
            raise ValueError(f"{size / 2**20:.0f} MiB of values")
        files = {name.removesuffix(".npy"): io.BytesIO(archive.read(name)) for name in archive.namelist()}
    found = {name: np.lib.format.read_array(file, allow_pickle=False) for name, file in files.items()}
    if not all(array.ndim == dimensions and array.dtype.kind in "fiu" for array in found.values()):
        raise ValueError("the values per image or the replicates are not numbers")
    return found


def _npz(arrays: dict[str, NDArray[np.floating]]) -> bytes:
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)  # type: ignore[arg-type]
    return buffer.getvalue()


def _strip(pictures: NDArray[np.uint8]) -> bytes | None:
    """(K, H, W, 3) -> PNG of the pictures side by side, or None for K = 0."""
    if not len(pictures):
        return None
    buffer = io.BytesIO()
    Image.fromarray(np.concatenate(list(pictures), axis=1)).save(buffer, format="PNG")
    return buffer.getvalue()


def _unstrip(strip: bytes, count: int) -> NDArray[np.uint8]:
    """The inverse of `_strip`."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # the limit of this module applies
        image = Image.open(io.BytesIO(strip), formats=["PNG"])
    if image.width * image.height > _PIXELS:
        raise ValueError(f"the pictures have {image.width} × {image.height} pixels")
    return np.stack(np.split(np.asarray(image.convert("RGB")), count, axis=1))
