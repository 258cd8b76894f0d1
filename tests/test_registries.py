"""Every module that defines an entry of a registry is in it, and CONTRIBUTING.md shows how to add one."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import inspect
import pkgutil
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from rich.console import Console

import samplers
import samplers.grids
import sdlab.backends
import sdlab.guidance
import sdlab.metrics
import sdlab.train.stages
from samplers.base import Sampler
from samplers.exact.problems import GaussianMixture
from samplers.grids.registry import GRIDS
from sdlab.backends.base import Kind
from sdlab.backends.registry import BACKENDS, open_model
from sdlab.guidance import GUIDANCE, WRAPPERS, Guided
from sdlab.metrics import METRICS, Batch, Run, Tools
from sdlab.metrics.base import Metric
from sdlab.train.config import Training
from sdlab.train.loop import train
from sdlab.train.stages import STAGES

ROOT = Path(__file__).parents[1]


def modules(package: ModuleType) -> Iterator[ModuleType]:
    """The modules of a package, those of its folders left out."""
    for info in pkgutil.iter_modules(package.__path__):
        if not info.ispkg:
            yield importlib.import_module(f"{package.__name__}.{info.name}")


def defined(package: Iterable[ModuleType], is_entry: Callable[[Any], bool]) -> dict[str, Any]:
    """The entries that the modules define publicly themselves: "module.name" -> entry."""
    found = {}
    for module in package:
        for name, value in vars(module).items():
            own = not (inspect.isclass(value) or inspect.isfunction(value)) or value.__module__ == module.__name__
            if own and not name.startswith("_") and is_entry(value):
                found[f"{module.__name__}.{name}"] = value
    return found


def is_sampler(value: Any) -> bool:
    return inspect.isclass(value) and issubclass(value, Sampler) and not inspect.isabstract(value)


def is_grid(value: Any) -> bool:
    return inspect.isfunction(value) and list(inspect.signature(value).parameters)[:2] == ["steps", "levels"]


def is_strategy(value: Any) -> bool:
    methods = ("queries", "combine")
    concrete = inspect.isclass(value) and not inspect.isabstract(value) and not getattr(value, "_is_protocol", False)
    return concrete and all(callable(getattr(value, method, None)) for method in methods)


def is_metric(value: Any) -> bool:
    return inspect.isclass(value) and issubclass(value, Metric) and not inspect.isabstract(value)


def is_stage(value: Any) -> bool:
    return inspect.isclass(value) and issubclass(value, Training) and not inspect.isabstract(value)


REGISTRIES: dict[str, tuple[ModuleType, Callable[[Any], bool], list[Any]]] = {
    "samplers": (samplers, is_sampler, list(samplers.SAMPLERS.values())),
    "grids": (samplers.grids, is_grid, list(GRIDS.values())),
    "guidance": (sdlab.guidance, is_strategy, [*GUIDANCE.values(), *WRAPPERS.values()]),
    "metrics": (sdlab.metrics, is_metric, [type(metric) for metric in METRICS.values()]),
    "backends": (sdlab.backends, lambda value: isinstance(value, Kind), list(BACKENDS.values())),
    "stages": (sdlab.train.stages, is_stage, list(STAGES.values())),
}


def missing(package: Iterable[ModuleType], is_entry: Callable[[Any], bool], registered: list[Any]) -> list[str]:
    """The entries that the modules define and the registry lacks."""
    return [name for name, value in defined(package, is_entry).items() if not any(value is one for one in registered)]


@pytest.mark.parametrize("name", REGISTRIES)
def test_every_entry_is_registered(name: str):
    package, is_entry, registered = REGISTRIES[name]
    assert missing(modules(package), is_entry, registered) == []


@pytest.mark.parametrize("name", REGISTRIES)
def test_every_registered_entry_is_found_in_the_package(name: str):
    """So the walk above sees them all: a predicate that finds nothing would pass it."""
    package, is_entry, registered = REGISTRIES[name]
    found = list(defined(modules(package), is_entry).values())
    assert all(any(one is value for value in found) for one in registered)


@pytest.mark.parametrize(
    ("registry", "code"),
    [
        ("samplers", "class New(samplers.Sampler):\n    def step(self, *args): pass"),
        ("grids", "def new(steps, levels, power=1.0): pass"),
        ("guidance", "class New:\n    def queries(self, sigma): pass\n    def combine(self, *args): pass"),
        ("metrics", "class New(Metric):\n    def open(self, tools): pass"),
        ("backends", "new = Kind(dict, bool, print)"),
        ("stages", "class New(Training):\n    def build(self): pass"),
    ],
)
def test_an_entry_that_was_forgotten_is_found(registry: str, code: str):
    module = ModuleType("forgotten")
    vars(module).update(samplers=samplers, Metric=Metric, Kind=Kind, Training=Training)
    exec(code, vars(module))
    _, is_entry, registered = REGISTRIES[registry]
    assert [name.lower() for name in missing([module], is_entry, registered)] == ["forgotten.new"]


# Descriptions and sources

DOCUMENTED = {
    f"{registry}: {name}": entry
    for registry, entries in {
        "sampler": samplers.SAMPLERS, "grid": GRIDS, "guidance": GUIDANCE, "metric": METRICS, "stage": STAGES,
    }.items()
    for name, entry in entries.items()
}  # fmt: skip


@pytest.mark.parametrize("name", DOCUMENTED)
def test_an_entry_has_a_description_of_one_line(name: str):
    first = (inspect.getdoc(DOCUMENTED[name]) or "").partition("\n")[0]
    assert 10 < len(first) <= 120, first


def unsourced(docstring: str) -> list[str]:
    """The authors and years in a docstring that no address follows, and the arXiv numbers in another form."""
    address = r"(?:arXiv:\d{4}\.\d{4,5}|doi:|https?://|,\s[\w-]+/[\w-]+\))"  # the last: owner and repository
    cited = re.findall(rf"(?:et al\.|& \w+) \d{{4}}(?!.{{,40}}{address})", docstring, re.DOTALL)
    return cited + re.findall(r"arXiv(?!:\d{4}\.\d{4,5})\S*", docstring)


@pytest.mark.parametrize("name", DOCUMENTED)
def test_a_citation_has_the_one_form(name: str):
    assert unsourced(inspect.getdoc(DOCUMENTED[name]) or "") == []


def test_a_citation_without_an_address_is_found():
    assert unsourced("(Ho et al. 2020, arXiv:2006.11239, eq. 11)") == []
    assert unsourced("(Zhou et al. 2023, zju-pi/diff-sampler)") == []
    assert unsourced("(Ho et al. 2020, eq. 11)") == ["et al. 2020"]
    assert unsourced("(Ho & Salimans 2022, arXiv 2207.12598)") == ["& Salimans 2022", "arXiv"]


# CONTRIBUTING.md: each example is one file and one line

TEXT = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")


def example(heading: str) -> tuple[str, str, str, str]:
    """File, code, place of the line ("SAMPLERS of samplers/__init__.py"), and the line, of a section."""
    section = re.search(rf"^### {heading}$(.*?)(?=^##|\Z)", TEXT, re.DOTALL | re.MULTILINE)
    assert section is not None
    (code,) = re.findall(r"```python\n(.*?)```", section[1], re.DOTALL)
    place = re.search(r"The line, in `(\w+)` of `([\w/.]+)`:\n\n    (.*)", section[1])
    assert place is not None
    assert place[1] in (ROOT / place[2]).read_text(encoding="utf-8")
    return code.partition("\n")[0].removeprefix("# "), code, place[2], place[3]


def added(heading: str, folder: Path) -> Any:
    """The example as a module in its file, and its line as what the registry gets: a pair, or an entry."""
    file, code, place, line = example(heading)
    assert Path(file).parts[0] == Path(place).parts[0]
    assert not (ROOT / file).exists()
    path = folder / file
    path.parent.mkdir(parents=True)
    path.write_text(code, encoding="utf-8")
    spec = importlib.util.spec_from_file_location(f"example_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[module.__name__] = module
    spec.loader.exec_module(module)
    tree = ast.parse(f"{{{line}}}" if ":" in line else f"({line})", mode="eval")
    (entry,) = items.items() if isinstance(items := eval(compile(tree, file, "eval"), vars(module)), dict) else items
    return entry


def test_the_example_of_a_sampler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    name, sampler = added("A sampler", tmp_path)
    monkeypatch.setitem(samplers.SAMPLERS, name, sampler)
    levels = samplers.continuous_levels(0.02, 10)
    law = GaussianMixture(torch.tensor([[1.0, 0.0], [-0.5, 0.8]], dtype=torch.float64), 0.3)
    x = torch.tensor([[3.0, -5.0]], dtype=torch.float64)

    def error(steps: int) -> float:
        sigmas = samplers.grid("karras", steps=steps, levels=levels, ending="stop_at_sigma_min")
        return float((samplers.run(samplers.make(name), law.denoise, x, sigmas) - law.flow(x, 10, 0.02)).norm())

    assert error(128) / error(256) == pytest.approx(4, rel=0.1)
    assert samplers.make(name).nfe([2.0, 1.0, 0.0]) == 4


def test_the_example_of_a_grid(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    name, grid = added("A grid", tmp_path)
    monkeypatch.setitem(GRIDS, name, grid)
    assert samplers.grid(name, steps=3, levels=samplers.continuous_levels(1, 5)) == (5.0, 3.0, 1.0, 0.0)


def test_the_example_of_a_guidance_strategy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    name, strategy = added("A guidance strategy", tmp_path)
    monkeypatch.setitem(GUIDANCE, name, strategy)
    cond, uncond = torch.full((2, 1), 3.0), torch.ones(2, 1)
    denoise = Guided(
        sdlab.guidance.make(name, scale=3.0), lambda x, sigma, context: context, {"cond": cond, "uncond": uncond}
    )
    assert denoise(torch.zeros(2, 1), 0.5).tolist() == [[5.0], [5.0]]  # 1 + (1 + 2 · 0.5) (3 − 1)
    assert denoise(torch.zeros(2, 1), 9.0).tolist() == [[7.0], [7.0]]


def test_the_example_of_a_metric(tmp_path: Path):
    metric = added("A metric", tmp_path)
    pictures = torch.randn(3, 3, 8, 8)
    cell = metric.open(Tools()).start(Run(3))
    cell.update(Batch([0, 1, 2], pictures=pictures))
    assert torch.allclose(cell.result().per_image, pictures.flatten(1).mean(dim=1))
    assert metric.text(0.5) == "0.500"


def test_the_example_of_a_backend(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    name, kind = added("A backend", tmp_path)
    monkeypatch.setitem(BACKENDS, name, kind)
    opened = open_model("point", {}, tmp_path)
    assert opened.check("cpu", False) == []
    backend = opened.load("cpu", torch.float32, False)
    cond, uncond = backend.contexts([], "")
    sigmas = samplers.grid("karras", steps=2, levels=opened.levels)
    samples = backend.sample(
        cond.expand(2, -1), uncond.expand(2, -1), samplers.make("euler"), sigmas, sdlab.guidance.make("none"), [0, 1]
    )
    assert samples.tolist() == [[0.0, 0.0], [0.0, 0.0]]


def test_the_example_of_a_training_stage(tmp_path: Path):
    kind = added("A training stage", tmp_path)
    assert kind.stage not in STAGES
    config = kind(out=tmp_path, steps=300, batch=64, lr=0.1, warmup=1, weight_decay=0, ema=0.9, precision="float32")
    measured = train(config.build(), config, Console(quiet=True))
    assert measured["slope"] == pytest.approx(2, abs=0.05)
    assert measured["offset"] == pytest.approx(1, abs=0.05)
