"""The backend of diffusers pipelines: `model = {diffusers = "FOLDER"}` in a sweep file, or a single file of weights."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import samplers
from samplers.checks import unknown
from sdlab.backends.base import Backend, Kind, Mistakes, Opened, Setting
from sdlab.backends.diffusers.families import BY_PIPELINE, FAMILIES
from sdlab.backends.diffusers.family import Family, Options, Parts
from sdlab.backends.diffusers.folder import Folder, read_classes, read_folder, read_index
from sdlab.backends.diffusers.library import check_installed
from sdlab.backends.diffusers.load import load_components
from sdlab.backends.diffusers.load_file import check_weights
from sdlab.backends.diffusers.process import Process, read_process
from sdlab.backends.diffusers.single_file import (
    FILE_OPTIONS,
    PATHS,
    FileOptions,
    SingleFile,
    near_paths,
    read_single_file,
    wrong_options,
)
from sdlab.cpu.compiled import check_compiler
from sdlab.denoiser import NetworkDenoiser, Watch, unwatched
from sdlab.guidance import Guided, Strategy
from sdlab.guidance.guided import Seen
from sdlab.model.config import Size
from sdlab.picture import rounded
from sdlab.pipeline import check_finite, tail
from sdlab.registry import Mistake, label
from sdlab.system import resources
from sdlab.system.errors import UsageError
from sdlab.system.limits import SIDE, Range, brief

KEY = "diffusers"
_LENGTH = Range(1, 4096)  # tokens of a text
_SIZED = 3.4e9  # bytes of the U-Net of Stable Diffusion v1 in float32, whose pass takes this long per image:
_SECONDS = {"cpu": 3.0, "cuda": 0.03, "mps": 0.5}


@dataclass(frozen=True)
class _Read:
    """What the configuration of a folder says, or the header of a single file."""

    family: Family
    folder: Folder
    process: Process
    options: Options  # with defaults filled in
    size: Size


class OpenedFolder(Opened):
    """A pipeline folder with its configuration read, or a single file with its header read."""

    draws_pictures = True

    def __init__(self, place: str, options: Mapping[str, Any], read: _Read) -> None:
        """`place` is the path of the folder or file, and `options` are those of the user."""
        self._read, self.options = read, options
        family, folder, size = read.family, read.folder, read.size
        self.name = f"{KEY}:{place}"
        self.label = label(Path(place).name, {key: value for key, value in options.items() if key not in PATHS})
        self.levels, self.size = read.process.levels, size
        self.scale = family.scale(folder)
        given = {field.name: getattr(read.options, field.name) for field in fields(Options)}
        self.identity = {"pipeline": folder.index["_class_name"], **given, "size": size, **folder.identity}
        self.files = folder.files
        self.image_size = size[0] if size[0] == size[1] else None
        self.starts_from_pictures = self.image_size is not None
        self.conditional = family.conditional(folder, read.options)
        self.labels, self.masked = family.labels, family.masked
        self.ignores: frozenset[Setting] = frozenset() if family.prompts else frozenset({"prompts"})
        of_file = folder.notes if isinstance(folder, SingleFile) else ()
        self.notes = (*of_file, *read.process.notes, *family.notes(folder, read.options))
        weights = folder.size_of(family.network)
        self.seconds_per_pass = {device: seconds * weights / _SIZED for device, seconds in _SECONDS.items()}

    def check(self, device: str, compile: bool, others: Collection[str] = (), gradients: bool = False) -> list[str]:
        """Why the model cannot run: diffusers, weights or a compiler are missing.

        Raises:
            RunError: a tensor of a single file is unknown, missing or has another shape.
        """
        found = [f"model {self.name!r}: {line}" for line in self._read.folder.check()]
        try:
            check_installed()
            if isinstance(self._read.folder, SingleFile):
                check_weights(self._read.folder)
            if compile:
                check_compiler(torch.device(device))
        except UsageError as error:
            found += error.lines
        return found

    def load(
        self, device: str, dtype: torch.dtype, compile: bool, others: Collection[str] = (), gradients: bool = False
    ) -> DiffusersModel:
        """The model on `device`.

        Raises:
            UsageError: diffusers or transformers is missing.
            RunError: a file is damaged, or its tensors do not fit the configuration.
        """
        return self.ready(self.load_components(device, dtype, compile))

    def load_components(self, device: str, dtype: torch.dtype, compile: bool) -> dict[str, Any]:
        """The components of the pipeline on `device`, which do not depend on the size of the pictures.

        Raises:
            UsageError: diffusers or transformers is missing.
            RunError: a file is damaged, or its tensors do not fit the configuration.
        """
        components = load_components(self._read.folder, device, dtype)
        if compile:
            components[self._read.family.network].compile(dynamic=False)
        return components

    def ready(self, components: Mapping[str, Any]) -> DiffusersModel:
        """The model with these components."""
        read = self._read
        return DiffusersModel(read.family.build(components, read.folder, read.options, read.size), read.process)


class DiffusersModel(Backend):
    """A loaded pipeline, ready to sample."""

    def __init__(self, parts: Parts, process: Process) -> None:
        self.parts, self.levels = parts, process.levels
        self.denoiser = NetworkDenoiser(parts.network, process.times, process.parametrisation)

    def contexts(self, prompts: Sequence[str], negative: str) -> tuple[Tensor, Tensor]:
        """The contexts of the prompts or classes, (C, …), and the unconditional one, (1, …)."""
        return self.parts.contexts(prompts, negative)

    def cut(self, prompt: str) -> str:
        """The end of a prompt that no text encoder reads."""
        return self.parts.cut(prompt)

    @torch.inference_mode()
    def encode_image(self, images: Tensor) -> Tensor:
        """The samples (B, C, H, W) of pictures (B, 3, H, W) in [−1, 1]."""
        return self.parts.to_samples(images)

    @torch.inference_mode()
    def sample(
        self,
        cond: Tensor,
        uncond: Tensor,
        sampler: samplers.Sampler,
        sigmas: Sequence[float],
        strategy: Strategy,
        seeds: Sequence[int],
        *,
        on_step: Callable[[int, Tensor], object] | None = None,
        init: Tensor | None = None,
        strength: float = 1.0,
        watch: Watch = unwatched,
        on_denoised: Seen | None = None,
    ) -> Tensor:
        """Samples (B, C, H, W) in float32, latents for a pipeline with a VAE."""
        noise, sigmas = samplers.seeded(seeds, self.parts.device), tail(sigmas, strength)
        x = noise(torch.empty(len(seeds), *self.parts.shape, device=self.parts.device)) * sigmas[0]
        if init is not None and strength != 1:
            x = init.to(x) + x
        contexts = {"cond": cond, "uncond": uncond}
        denoise = Guided(strategy, watch(self.denoiser), contexts, seeds, self.parts.encode, on_denoised)
        fitted = sampler.with_levels(self.levels)
        samples = samplers.run(fitted, denoise, x, sigmas, noise=noise, on_step=on_step)
        check_finite("the samples", samples)
        return samples

    @torch.inference_mode()
    def decode(self, samples: Tensor) -> Tensor:
        """Pictures (B, 3, H, W) in [−1, 1], rounded to the 256 values of a PNG."""
        pictures = self.parts.to_pictures(samples)
        check_finite("the pictures", pictures)
        return rounded(pictures)


def open_folder(name: str, options: Mapping[str, Any], folder: Path = Path(), size: Size | None = None) -> OpenedFolder:
    """The pipeline of a name like "diffusers:FOLDER" or "diffusers:FILE", which is searched for in `folder` first.

    Args:
        size: of its pictures, (height, width) in pixels. By default that of the options or of the configuration.

    Raises:
        Mistakes: an option is invalid, the folder is not one of a pipeline, or its family is not supported.
        RunError: a single file is damaged.
    """
    try:
        place = resources.near(name.removeprefix(f"{KEY}:"), folder)
        single = Path(place).is_file()
        faults = _wrong_options(options, FILE_OPTIONS if single else ())
        if faults := [*faults, *(wrong_options(options) if single else ())]:
            raise Mistakes(*faults)
        options = near_paths(options, folder)
        return OpenedFolder(place, options, _read(Path(place), options, size))
    except UsageError as error:
        raise Mistakes(*(("", line) for line in error.lines)) from None
    except (TypeError, ValueError, ArithmeticError) as error:  # a value that the family computes with
        raise Mistakes(("", f"{name}: a setting of the configuration is invalid: {error}")) from None


DIFFUSERS = Kind(dict, lambda path: path.startswith(f"{KEY}:"), open_folder, key=KEY)


def open_components(pipe: Any, size: Size | None, options: Mapping[str, Any]) -> DiffusersModel:
    """The components of a loaded pipeline as a model.

    Raises:
        UsageError: the family is not supported, or a component is of another class.
        Mistakes: the size or an option does not fit.
    """
    if faults := list(_wrong_options(options)):
        raise Mistakes(*faults)
    name, parts = type(pipe).__name__, {key: part for key, part in pipe.components.items() if part is not None}
    places = {key: [type(part).__module__.split(".")[0], type(part).__name__] for key, part in parts.items()}
    index = {**pipe.config, **places, "_class_name": name}
    family = _family(name, index)
    classes = read_classes(Path(name), index, family.components, family.ignored)
    configs = {key: _settings(parts[key]) for key in classes}
    process = {"_class_name": type(pipe.scheduler).__name__, **pipe.scheduler.config}
    folder = Folder(Path(name), index, classes, configs, process)
    read = _fitted(family, folder, Options(**options), size)
    return DiffusersModel(
        family.build({key: parts[key] for key in classes}, folder, read.options, read.size), read.process
    )


def _settings(part: Any) -> dict[str, Any]:
    """The configuration of a component; empty for a tokenizer."""
    config = getattr(part, "config", {})
    return dict(config) if isinstance(config, Mapping) else dict(config.to_dict())


def _family(place: object, index: Mapping[str, Any]) -> Family:
    """The family of an index.

    Raises:
        UsageError: it is not supported.
    """
    name = str(index.get("_class_name"))
    if name not in BY_PIPELINE:
        known = ", ".join(name for one in FAMILIES for name in one.pipelines)
        raise UsageError(f"{place}: {index.get('_class_name')!r} is not supported; pipelines are {known}")
    return BY_PIPELINE[name]


def _read(place: Path, options: Mapping[str, Any], size: Size | None) -> _Read:
    """The configuration of a folder or a single file.

    Raises:
        UsageError: the folder is not one of a pipeline, or a file is damaged.
        RunError: a single file is damaged.
        Mistakes: the family is not supported, or an option does not fit it.
    """
    if place.is_file():
        own = {key: value for key, value in options.items() if key in FILE_OPTIONS}
        options = {key: value for key, value in options.items() if key not in own}
        folder: Folder = read_single_file(place, FileOptions(**own))
        family = _family(place, folder.index)
    else:
        index = read_index(place)
        family = _family(place, index)
        folder = read_folder(place, index, family.components, family.ignored)
    return _fitted(family, folder, Options(**options), size)


def _fitted(family: Family, folder: Folder, options: Options, size: Size | None) -> _Read:
    """The folder with options and a size that fit it.

    Raises:
        UsageError: the configuration is invalid.
        Mistakes: an option does not fit.
    """
    if size is None:
        size = family.size(folder) if options.size is None else (options.size, options.size)
    taken, given = family.defaults(folder), {key: value for key, value in vars(options).items() if value is not None}
    unused = given.keys() - taken.keys() - {"size"}
    faults = [
        *_wrong_size(size, family.multiple(folder)),
        *((key, f"is not an option of this model, which takes {', '.join(['size', *taken])}") for key in unused),
        *family.check(folder, options, size),
    ]
    if faults:
        raise Mistakes(*faults)
    process = read_process(*folder.scheduler, family.tokens(folder, size))
    return _Read(family, folder, process, Options(**{**taken, **given}), size)


def _wrong_size(size: Size, multiple: int) -> list[Mistake]:
    if all(side >= multiple and side % multiple == 0 for side in size):
        return []
    height, width = (max(multiple, round(side / multiple) * multiple) for side in size)
    if size[0] == size[1]:
        return [("size", f"must be a multiple of {multiple}, got {size[0]}; the nearest is {height}")]
    got, nearest = f"{size[1]}x{size[0]}", f"{width}x{height}"
    return [("size", f"both sides must be multiples of {multiple}, got {got}; the nearest is {nearest}")]


def _wrong_options(options: Mapping[str, Any], others: Collection[str] = ()) -> list[Mistake]:
    """What is wrong with the options of any family. `others` are also known."""
    known = {field.name for field in fields(Options)} | set(others)
    found = [(key, unknown("option", key, known)) for key in options if key not in known]
    for key in ("size", "null_class", "max_sequence_length"):
        if key in options and type(options[key]) is not int:
            found.append((key, f"should be a whole number, got {brief(options[key])}"))
    for key, limits in (("size", SIDE), ("max_sequence_length", _LENGTH)):
        if type(value := options.get(key)) is int and not limits.low <= value <= limits.high:
            found.append((key, f"must be from {limits.low} to {limits.high}, got {value}"))
    scale = options.get("guidance_input", 1.0)
    if type(scale) not in (int, float) or not 0 <= scale <= 1000:
        found.append(("guidance_input", f"should be a number from 0 to 1000, got {brief(scale)}"))
    return found
