"""Registries read from the source code. Nothing is imported, because PyTorch takes seconds to import."""

from __future__ import annotations

import ast
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path


@dataclass(frozen=True)
class Definition:
    """A class or function in a module."""

    module: str
    node: ast.ClassDef | ast.FunctionDef

    @property
    def first_line(self) -> str:
        """The first line of its docstring."""
        return (ast.get_docstring(self.node) or "").partition("\n")[0]

    def constant(self, name: str) -> str:
        """The class attribute `name`, its own or that of its first base.

        Raises:
            LookupError: neither the class nor a base sets it to a constant.
        """
        for line in self.node.body:
            if isinstance(line, ast.Assign) and _is_name(line.targets[0], name):
                return str(ast.literal_eval(line.value))
        if isinstance(self.node, ast.ClassDef) and self.node.bases and isinstance(base := self.node.bases[0], ast.Name):
            return definition(self.module, base.id).constant(name)
        raise LookupError(f"{self.module}.{self.node.name} sets no constant {name}")


def entries(module: str, registry: str) -> dict[str, Definition]:
    """The entries of a registry by name, from the one annotated assignment to it in `module`.

    The value is a dictionary from names to classes or functions, or a comprehension over instances that have a `name`.

    Raises:
        LookupError: there is no such assignment.
    """
    assigned = (line for line in _tree(module).body if isinstance(line, ast.AnnAssign))
    value = next((line.value for line in assigned if _is_name(line.target, registry)), None)
    if isinstance(value, ast.Dict):
        names = [ast.literal_eval(key) for key in value.keys if key is not None]
        return {name: definition(module, _id(entry)) for name, entry in zip(names, value.values, strict=True)}
    if isinstance(value, ast.DictComp):
        built = [call for call in ast.walk(value) if isinstance(call, ast.Call)]
        return {entry.constant("name"): entry for entry in (definition(module, _id(call.func)) for call in built)}
    raise LookupError(f"{module} defines no registry {registry}")


def definition(module: str, name: str) -> Definition:
    """The class or function `name` of `module`, which either defines it or imports it from the module that does.

    Raises:
        LookupError: the module neither defines nor imports it.
    """
    for line in _tree(module).body:
        if isinstance(line, ast.ClassDef | ast.FunctionDef) and line.name == name:
            return Definition(module, line)
        if isinstance(line, ast.ImportFrom) and line.module:
            for alias in line.names:
                if (alias.asname or alias.name) == name:
                    return definition(line.module, alias.name)
    raise LookupError(f"{module} has no class or function {name}")


@cache
def _tree(module: str) -> ast.Module:
    package, _, rest = module.partition(".")
    spec = find_spec(package)
    assert spec is not None
    path = Path(str(spec.origin)).parent.joinpath(*rest.split("."))
    path = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    return ast.parse(path.read_bytes(), str(path))


def _is_name(node: ast.expr, name: str) -> bool:
    return isinstance(node, ast.Name) and node.id == name


def _id(node: ast.expr) -> str:
    assert isinstance(node, ast.Name)
    return node.id
