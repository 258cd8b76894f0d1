"""A pipeline folder of diffusers: its index, the configurations of its components, and their files.

Only JSON is read here. Nothing is imported and no code of the folder is ever executed: the classes of its components
must be those that its family lists.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sdlab.model.config import Size
from sdlab.system.errors import UsageError
from sdlab.weights.json_file import read_object

INDEX = "model_index.json"
_SCHEDULER = Path("scheduler", "scheduler_config.json")
# weights.safetensors, weights.fp16.safetensors, and their shards, in both orders of variant and shard
_WEIGHTS = re.compile(r"(diffusion_pytorch_model|model)(\.(?P<a>\w+))?(-\d+-of-\d+)?(\.(?P<b>\w+))?\.safetensors")
_VARIANTS = ("", "fp32", "fp16", "bf16")  # the first that there is is read, then any other
_DATA = {".json", ".txt", ".model"}


@dataclass(frozen=True)
class Folder:
    """A pipeline folder. `configs` has the configuration of each component, which is empty for a tokenizer."""

    place: Path
    index: Mapping[str, Any]
    classes: Mapping[str, tuple[str, str]]  # component -> package and class; without those that are null
    configs: Mapping[str, Mapping[str, Any]]
    process: Mapping[str, Any] | None = None  # the settings of the scheduler, if they are in no file

    def config(self, component: str, key: str, default: Any = None) -> Any:
        """A setting of a component's configuration."""
        return self.configs[component].get(key, default)

    @property
    def scheduler(self) -> tuple[dict[str, Any], Path]:
        """The settings of the scheduler, and their file.

        Raises:
            UsageError: the file is missing or damaged.
        """
        path = self.place / _SCHEDULER
        return read_object(path) if self.process is None else dict(self.process), path

    def sample_size(self, component: str) -> Size:
        """`sample_size` of a network, as (height, width).

        Raises:
            UsageError: it is missing or invalid.
        """
        size = self.config(component, "sample_size")
        sides = [size, size] if type(size) is int else size
        if not (isinstance(sides, list) and len(sides) == 2 and all(type(n) is int and n > 0 for n in sides)):
            raise UsageError(
                f"{self.place / component}/config.json: sample_size must be a whole number above 0, got {size!r}; "
                "give the model a `size` in pixels"
            )
        return sides[0], sides[1]

    def check(self) -> Iterator[str]:
        """What is missing, one line per component."""
        for component, (_, name) in self.classes.items():
            inside = self.place / component
            if _is_tokenizer(name):
                if not self._data(component):
                    yield f"{inside}: no files of a tokenizer"
            elif not self._weights(component):
                other = next(
                    (file.name for pattern in ("*.bin", "*.ckpt", "*.pt") for file in inside.glob(pattern)), ""
                )
                why = f"; {other} is a pickle, and only safetensors are read" if other else ""
                yield f"{inside}: no weights in safetensors{why}"

    def variant(self, component: str) -> str | None:
        """The variant of a component's weights that is read, like "fp16"; None for weights without one."""
        return next(iter(self._weights(component)), "") or None

    def size_of(self, component: str) -> int:
        """The bytes of a component's weights."""
        return sum(file.stat().st_size for file in self.files if file.parent.name == component)

    @property
    def identity(self) -> Mapping[str, Any]:
        """What values depend on that is in no file."""
        return {}

    @property
    def files(self) -> tuple[Path, ...]:
        """All files that are read."""
        found = [self.place / INDEX, self.place / _SCHEDULER]
        for component in self.classes:
            weights = next(iter(self._weights(component).values()), [])
            found += sorted([*weights, *self._data(component)])
        return tuple(found)

    def _data(self, component: str) -> list[Path]:
        """The files of a component beside its weights."""
        return [file for file in (self.place / component).glob("*") if file.suffix in _DATA]

    def _weights(self, component: str) -> dict[str, list[Path]]:
        """The weight files of each variant, the preferred variant first."""
        found: dict[str, list[Path]] = {}
        for file in sorted((self.place / component).glob("*.safetensors")):
            if match := _WEIGHTS.fullmatch(file.name):
                found.setdefault(match["a"] or match["b"] or "", []).append(file)
        known = [name for name in _VARIANTS if name in found]
        return {name: found[name] for name in dict.fromkeys([*known, *found])}


def read_index(place: Path) -> dict[str, Any]:
    """The content of `model_index.json`.

    Raises:
        UsageError: the folder is not one of a pipeline.
    """
    if not place.is_dir():
        raise UsageError(f"{place}: no such folder")
    if not (place / INDEX).is_file():
        raise UsageError(f"{place}: not a diffusers pipeline, because it has no {INDEX}")
    return read_object(place / INDEX)


def read_folder(
    place: Path, index: Mapping[str, Any], wanted: Mapping[str, tuple[str, ...]], ignored: frozenset[str]
) -> Folder:
    """The folder with its components.

    Args:
        wanted: component -> the classes that it may have, like "diffusers.AutoencoderKL", or "" if it may be missing.
        ignored: components that are not used.

    Raises:
        UsageError: a component is missing, unknown, or of another class. One line each.
    """
    classes = read_classes(place / INDEX, index, wanted, ignored)
    configs = {
        component: {} if _is_tokenizer(kind) else read_object(place / component / "config.json")
        for component, (_, kind) in classes.items()
    }
    return Folder(place, index, classes, configs)


def read_classes(
    source: Path, index: Mapping[str, Any], wanted: Mapping[str, tuple[str, ...]], ignored: frozenset[str]
) -> dict[str, tuple[str, str]]:
    """The package and the class of each component, from an index. The arguments are those of `read_folder`.

    Raises:
        UsageError: a component is missing, unknown, or of another class. One line each.
    """
    faults, classes = [], dict[str, tuple[str, str]]()
    listed = {key: value for key, value in index.items() if isinstance(value, list) and not key.startswith("_")}
    for component, known in wanted.items():
        entry = listed.get(component, [None, None])
        name = "" if entry == [None, None] else ".".join(map(str, entry))
        if name in known:
            if name:
                package, _, kind = name.rpartition(".")
                classes[component] = package, kind
        elif not name:
            faults.append(f"component {component!r} is missing")
        else:
            faults.append(f"component {component!r} is {name}, not {' or '.join(filter(None, known))}")
    for component in sorted(listed.keys() - wanted.keys() - ignored):
        if listed[component] != [None, None]:
            faults.append(f"component {component!r} is not one of this family of pipelines")
    if faults:
        raise UsageError(*(f"{source}: {fault}" for fault in faults))
    return classes


def _is_tokenizer(kind: str) -> bool:
    return "Tokenizer" in kind
