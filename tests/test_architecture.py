"""The imports follow the table in docs/architecture.md, which is the only place where it is written down."""

from __future__ import annotations

from pathlib import Path

import pytest
from import_graph import allowed, complaints, cycle, imports, module_graph, room

from sdlab.train.stages import STAGES

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs/architecture.md").read_text(encoding="utf-8")


# A stage's configuration builds its stage, which it imports in a function: a mistake in a training file is then
# reported before torch is imported.
LAZY = {f"sdlab.train.stages.{name}_config": f"sdlab.train.stages.{name}" for name in sorted(STAGES)}


def test_imports_are_those_of_the_table():
    assert complaints(ROOT, allowed(PAGE)) == []


def test_rooms_import_each_other_in_one_direction():
    assert cycle(allowed(PAGE)) == []


def test_modules_import_each_other_in_one_direction():
    graph = module_graph(ROOT)
    for config, stage in LAZY.items():
        graph[config].remove(stage)  # a KeyError once it is lazy no more
    assert cycle(graph) == []


@pytest.mark.parametrize(
    ("name", "never"),
    [
        ("samplers", {"sdlab"}),
        ("sdlab/model", {"sdlab/weights", "sdlab/cpu"}),
        ("sdlab/metrics", {"sdlab/sweep", "sdlab/report"}),
        ("sdlab/sweep", {"sdlab/report", "sdlab/commands", "sdlab/cpu"}),
    ],
)
def test_the_table_keeps_the_basic_rules(name: str, never: set[str]):
    """The table may be edited, but these rules need a better reason than a new import."""
    for source, others in allowed(PAGE).items():
        if source == name or source.startswith(f"{name}/"):
            assert not {other for other in others if other in never or other.split("/")[0] in never}


def test_networks_do_not_depend_on_files():
    named = {one.target for one in imports(ROOT) if room(one.source) == "sdlab/model"}
    assert {name for name in named if name.startswith("sdlab.system.")} <= {"sdlab.system.errors"}


def test_the_sweep_room_does_not_depend_on_kinds_of_backend():
    named = {one.target for one in imports(ROOT) if room(one.source) == "sdlab/sweep"}
    concrete = {name for name in named if name.startswith("sdlab.backends.")} - SHARED
    assert concrete == set()


# The protocol, the look-up by name, and inversion, which works on every backend.
SHARED = {f"sdlab.backends.{name}" for name in ("base", "registry", "inversion")}


# The checker itself, on a small tree.

TABLE = """
| room | what it does | may import |
| :-- | :-- | :-- |
| `samplers` | mathematics | |
| `sdlab` | version | |
| `sdlab/model` | networks | `samplers` |
| `sdlab/sweep` | sweeps | `samplers`, `sdlab/model` |
"""
TREE = {
    "samplers/__init__.py": "from samplers.euler import Euler",
    "samplers/euler.py": "import torch",
    "sdlab/__init__.py": "",
    "sdlab/model/__init__.py": "import samplers",
    "sdlab/sweep/__init__.py": "import samplers.euler",
    "sdlab/sweep/run.py": "from sdlab.model import unet\nfrom sdlab.sweep import plan",
}


def small_tree(folder: Path, **changed: str) -> Path:
    for name, text in {**TREE, **{name.replace("__", "/") + ".py": text for name, text in changed.items()}}.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return folder


def test_the_checker_accepts_a_tree_that_follows_its_table(tmp_path: Path):
    assert complaints(small_tree(tmp_path), allowed(TABLE)) == []


@pytest.mark.parametrize(
    ("changed", "line"),
    [
        ({"samplers__euler": "import sdlab.model"}, "samplers/euler.py:1: samplers may not import sdlab/model"),
        (
            {"sdlab__model__unet": "def f():\n    from sdlab.sweep.run import cells"},
            "sdlab/model/unet.py:2: sdlab/model may not import sdlab/sweep",
        ),
        ({"sdlab__weights__file": ""}, "sdlab/weights is a room without a row in the table"),
        ({"sdlab__sweep__run": ""}, "sdlab/sweep does not import sdlab/model; take it out of the table"),
    ],
    ids=["upward", "inside a function", "unknown room", "stale row"],
)
def test_the_checker_reports_a_tree_that_does_not(tmp_path: Path, changed: dict[str, str], line: str):
    assert complaints(small_tree(tmp_path, **changed), allowed(TABLE)) == [line]


def test_the_checker_finds_a_row_without_a_room(tmp_path: Path):
    table = {**allowed(TABLE), "sdlab/train": set[str]()}
    assert complaints(small_tree(tmp_path), table) == ["sdlab/train has a row in the table and no module"]


def test_the_checker_finds_a_cycle(tmp_path: Path):
    root = small_tree(tmp_path, sdlab__sweep__plan="import sdlab.sweep.run")
    assert set(cycle(module_graph(root))) == {"sdlab.sweep.plan", "sdlab.sweep.run"}
    assert cycle({"a": {"b"}, "b": {"c"}, "c": set()}) == []


def test_an_import_for_types_closes_no_cycle_but_is_an_arrow(tmp_path: Path):
    lines = "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from {} import run"
    root = small_tree(tmp_path, sdlab__sweep__plan=lines.format("sdlab.sweep"))
    assert cycle(module_graph(root)) == []
    root = small_tree(tmp_path, sdlab__model__unet=lines.format("sdlab.sweep"))
    assert complaints(root, allowed(TABLE)) == ["sdlab/model/unet.py:3: sdlab/model may not import sdlab/sweep"]


def test_a_relative_import_is_refused(tmp_path: Path):
    with pytest.raises(ValueError, match="line 1: a relative import"):
        imports(small_tree(tmp_path, samplers__heun="from . import euler"))
