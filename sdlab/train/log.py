"""The loss log, a CSV file with one row every few steps."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from sdlab.system.files import replacing


class LossLog:
    """Values by step, on disk after every row.

    A loss that starts later adds a column, empty in earlier rows. Rows from step `start` on are dropped first, because
    a resumed run repeats them. Without `writes` the rows are only kept.
    """

    def __init__(self, path: Path, start: int, *, writes: bool = True) -> None:
        self._path, self._writes = path, writes
        lines = path.read_text(encoding="utf-8").splitlines() if start and path.exists() else []
        table = [line.split(",") for line in lines]
        self._columns = table[0] if table else []
        self._rows = [row for row in table[1:] if int(row[0]) < start]
        self._early: dict[str, float] = {}
        self._rewrite()

    def row(self, step: int, values: Mapping[str, float]) -> None:
        """Append a row."""
        texts = {"step": str(step), **{name: f"{value:.6g}" for name, value in values.items()}}
        new = [name for name in texts if name not in self._columns]
        self._columns += new
        self._rows.append([texts.get(name, "") for name in self._columns])
        if new:
            self._rewrite()
        elif self._writes:
            with self._path.open("a", encoding="utf-8") as file:
                file.write(",".join(self._rows[-1]) + "\n")

    def early(self, name: str) -> float | None:
        """The largest magnitude of a value in its first ten rows, or None if it has fewer."""
        if name not in self._early and name in self._columns:
            column = self._columns.index(name)
            first = [abs(float(row[column])) for row in self._rows if len(row) > column and row[column]][:10]
            if len(first) == 10:
                self._early[name] = max(first)
        return self._early.get(name)

    def series(self) -> dict[str, tuple[list[int], list[float]]]:
        """The steps and values of each column that has values."""
        columns: dict[str, tuple[list[int], list[float]]] = {name: ([], []) for name in self._columns[1:]}
        for row in self._rows:
            for name, text in zip(self._columns[1:], row[1:], strict=False):
                if text:
                    columns[name][0].append(int(row[0]))
                    columns[name][1].append(float(text))
        return {name: points for name, points in columns.items() if points[0]}

    def _rewrite(self) -> None:
        if not self._writes:
            return
        width = len(self._columns)
        rows = [self._columns, *(row + [""] * (width - len(row)) for row in self._rows)] if width else []
        with replacing(self._path) as draft:
            draft.write_text("".join(",".join(row) + "\n" for row in rows), encoding="utf-8")
