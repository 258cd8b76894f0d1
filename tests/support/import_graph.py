"""The import graph of the packages, read from the syntax trees of their modules, and the table that limits it."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import NamedTuple

PACKAGES = ("samplers", "sdlab")


class Import(NamedTuple):
    """One module of the project that another imports, and where."""

    source: str
    target: str
    place: str
    runs: bool = True  # not under `if TYPE_CHECKING`


def imports(root: Path) -> list[Import]:
    """All imports between modules of the packages under `root`, those inside functions included."""
    files = {
        _module(path.relative_to(root)): path for name in PACKAGES for path in sorted(root.glob(f"{name}/**/*.py"))
    }
    found = []
    for module, path in files.items():
        for name, number, runs in _imported(path.read_text(encoding="utf-8")):
            target = name if name in files else name.rpartition(".")[0]  # a module, or something in one
            found.append(Import(module, target, f"{path.relative_to(root)}:{number}", runs))
    return found


def module_graph(root: Path) -> dict[str, set[str]]:
    """Module -> the modules it imports when it runs. Imports for types alone are left out."""
    graph: dict[str, set[str]] = {}
    for one in imports(root):
        if one.runs:
            graph.setdefault(one.source, set()).add(one.target)
    return graph


def room(module: str) -> str:
    """The room of a module: a folder of a package, or a file at its root. The samplers' families share one room."""
    package, _, rest = module.partition(".")
    first = rest.partition(".")[0]
    if package == "samplers":
        return f"samplers/{first}" if first in ("grids", "exact") else "samplers"
    return f"sdlab/{first}" if first else "sdlab"


def arrows(root: Path) -> dict[str, dict[str, str]]:
    """Room -> the other rooms it imports, each with one place where it does.

    `samplers/__init__.py` is left out: it exports the names of all three rooms of its package.
    """
    found: dict[str, dict[str, str]] = {}
    for one in imports(root):
        own, other = room(one.source), room(one.target)
        if own != other and one.source != "samplers":
            found.setdefault(own, {}).setdefault(other, one.place)
    return found


def rooms(root: Path) -> set[str]:
    """Every room that has a module."""
    return {room(_module(path.relative_to(root))) for name in PACKAGES for path in root.glob(f"{name}/**/*.py")}


def allowed(page: str) -> dict[str, set[str]]:
    """The table of a page: each row `| `room` | what it does | `room`, `room` |`."""
    rows = re.findall(r"^\| `((?:samplers|sdlab)[\w/]*)` \|.*\|([^|]*)\|$", page, re.MULTILINE)
    return {name: set(re.findall(r"`([\w/]+)`", cell)) for name, cell in rows}


def complaints(root: Path, table: Mapping[str, set[str]]) -> list[str]:
    """The disagreements between the imports under `root` and the table, one line each."""
    found, there = arrows(root), rooms(root)
    lines = [f"{name} is a room without a row in the table" for name in sorted(there - table.keys())]
    lines += [f"{name} has a row in the table and no module" for name in sorted(table.keys() - there)]
    for name in sorted(there & table.keys()):
        real = found.get(name, {})
        lines += [f"{real[other]}: {name} may not import {other}" for other in sorted(real.keys() - table[name])]
        lines += [f"{name} does not import {other}; take it out of the table" for other in table[name] - real.keys()]
    return lines


def cycle(graph: Mapping[str, set[str]]) -> list[str]:
    """A cycle of the graph as the names along it, or an empty list."""
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


def _module(path: Path) -> str:
    return ".".join(path.with_suffix("").parts).removesuffix(".__init__")


@cache
def _imported(code: str) -> list[tuple[str, int, bool]]:
    """What a module imports of the packages: the name, its line, and whether it is imported when the module runs."""
    tree = ast.parse(code)
    for_types = {id(node) for block in ast.walk(tree) if _is_for_types(block) for node in ast.walk(block)}
    return [
        (name, node.lineno, id(node) not in for_types)
        for node, names in _names(tree)
        for name in names
        if name.partition(".")[0] in PACKAGES
    ]


def _names(tree: ast.Module) -> Iterator[tuple[ast.stmt, list[str]]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield node, [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            if node.level:
                raise ValueError(f"line {node.lineno}: a relative import; write the whole name")
            yield node, [f"{node.module}.{alias.name}" for alias in node.names]


def _is_for_types(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"
