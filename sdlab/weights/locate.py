"""Search for model files: in paths from the user, then in environment variables, then in `data/`."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from samplers.checks import unknown
from sdlab.model.stable_diffusion import PARTS
from sdlab.system import resources
from sdlab.system.errors import UsageError
from sdlab.system.paths import user_path
from sdlab.system.reading import check_regular
from sdlab.weights import layout_diffusers
from sdlab.weights.shards import is_index, read_index
from sdlab.weights.vocabulary import COMBINED, added_file

MODELS = {
    "scenes": "lab model, 64 × 64 pictures of simple scenes; included with sdlab (data/scenes)",
    "portraits": "lab model, 64 × 64 pixel-art portraits; included with sdlab (data/portraits)",
    "sd15": "Stable Diffusion v1.5, 512 × 512; needs its files in data/",
}
WEIGHTS_VARIABLE, VOCABULARY_VARIABLE = "SDLAB_SD15", "SDLAB_SD15_VOCAB"
# The first that exists in data/ is used.
SD15_WEIGHTS = (
    "v1-5-pruned-emaonly.ckpt",
    "v1-5-pruned-emaonly.safetensors",
    "v1-5-pruned-emaonly-fp16.safetensors",
    "v1-5-pruned.ckpt",
    "v1-5-pruned.safetensors",
    "stable-diffusion-v1-5",
)
_FOLDER = "a model folder has config.json, vocab.json, merges.txt, clip.safetensors, vae.safetensors, unet.safetensors"
_SD15 = (
    "download the weights of stable-diffusion-v1-5, and vocab.json and merges.txt from its tokenizer/, into data/; "
    f"or set {WEIGHTS_VARIABLE} to a file or folder and {VOCABULARY_VARIABLE} to a folder; see data/README.md"
)
_CLIP = (
    "the text encoders need CLIP's vocabulary: put vocab.json and merges.txt, from the folder tokenizer/ of Stable "
    "Diffusion v1.5, beside the file or into data/"
)


@dataclass(frozen=True)
class ModelSource:
    """A model as the user names it: in a sweep, `model = {name = "sd15", weights = "…", vocab = "…", merges = "…"}`."""

    name: str  # one of `MODELS`, or a path to a weight file, a folder in diffusers layout or an sdlab model folder
    weights: str | Path | None = None  # for `sd15` only: such a path
    vocab: str | Path | None = None
    merges: str | Path | None = None

    def __str__(self) -> str:
        return self.name


Model = str | Path | ModelSource
Layout = Literal["sdlab", "diffusers", "original"]


@dataclass(frozen=True)
class Located:
    """The files of a model. All of them exist."""

    layout: Layout
    place: Path  # the folder, or the one file
    configs: tuple[Path, ...]
    vocab: Path
    merges: Path
    weights: tuple[Path, ...]  # in the order of `PARTS`; in the original layout the same for all
    shards: tuple[Path, ...] = ()  # the files that those in `weights` list which are indexes
    added: Path | None = None  # tokens added to the vocabulary
    others: Mapping[str, Path] = field(default_factory=dict)  # unet_NAME.safetensors of further U-Nets, by name

    @property
    def files(self) -> tuple[Path, ...]:
        """All files except those of further U-Nets: configuration, vocabulary and weights."""
        added = () if self.added is None else (self.added,)
        return tuple(dict.fromkeys((*self.configs, self.vocab, self.merges, *added, *self.weights, *self.shards)))


def locate(model: Model) -> Located:
    """Find the files of a model. Of these, only indexes are opened.

    Raises:
        UsageError: the model or some of its files are not found; the message has a line for each, with the
            places searched. Or an index is invalid, or shards are missing.
    """
    source = model if isinstance(model, ModelSource) else ModelSource(str(model))
    search = _Search()
    place = _place(source, search)
    layout: Layout = "original" if not place.is_dir() else "diffusers" if _in_layout_diffusers(place) else "sdlab"
    configs: list[Path] = []
    weights = [place] * len(PARTS)
    if layout == "sdlab":
        configs = [search.find(["config.json"], [place])]
        weights = [search.find([f"{part}.safetensors"], [place]) for part in PARTS]
    elif layout == "diffusers":
        layout_diffusers.check_family(place)
        configs = [search.find([file], [place]) for file in layout_diffusers.CONFIGS.values()]
        folders = [place / layout_diffusers.FOLDERS[part] for part in PARTS]
        weights = [_weights(search, layout_diffusers.WEIGHTS[p], f) for p, f in zip(PARTS, folders, strict=True)]
    beside = _vocabulary_folders(source, place, layout)
    either = [COMBINED] if layout == "diffusers" else []
    vocab, merges = (
        search.find([name, *either], beside) if given is None else search.existing(given)
        for given, name in ((source.vocab, "vocab.json"), (source.merges, "merges.txt"))
    )
    for path in (vocab, merges, *configs, *weights):
        if path.exists() and not path.is_dir():
            check_regular(path)
    if search.missing:
        given = layout == "original" and place.exists()  # so only the vocabulary is missing
        lines = (*search.missing, _CLIP if given else _FOLDER if layout == "sdlab" else _SD15)
        raise UsageError(*(f"model {source.name!r}: {line}" for line in lines))
    added = added_file(vocab)
    shards = [file for path in dict.fromkeys(weights) if is_index(path) for file in read_index(path).values()]
    shards = list(dict.fromkeys(shards))
    others = further_unets(place) if layout == "sdlab" else {}
    return Located(layout, place, tuple(configs), vocab, merges, tuple(weights), tuple(shards), added, others)


def find_vocabulary(file: Path, vocab: str | Path | None, merges: str | Path | None) -> tuple[Path, Path]:
    """`vocab.json` and `merges.txt` for a single file, from the given paths or from the usual places.

    The places are the folder of the file, `tokenizer/` in it, that of `SDLAB_SD15_VOCAB`, and `data/`.

    Raises:
        UsageError: one of them is missing. The message has a line for each, with the places searched.
    """
    search, folders = _Search(), _vocabulary_folders(ModelSource(str(file)), file, "original")
    folders = list(dict.fromkeys([folders[0], file.parent / "tokenizer", *folders]))
    found = [
        search.find([name], folders) if given is None else search.existing(given)
        for given, name in ((vocab, "vocab.json"), (merges, "merges.txt"))
    ]
    for path in found:
        if path.exists() and not path.is_dir():
            check_regular(path)
    if search.missing:
        raise UsageError(*search.missing, _CLIP)
    return found[0], found[1]


def further_unets(folder: Path) -> dict[str, Path]:
    """The files unet_NAME.safetensors of a model folder, by name."""
    return {path.stem.removeprefix("unet_"): path for path in sorted(folder.glob("unet_?*.safetensors"))}


def _weights(search: _Search, names: Sequence[str], folder: Path) -> Path:
    single, pickle = names[0], next(name for name in names if name.endswith(".bin"))
    variant = single.replace(".", ".fp16.")
    return search.find(names, [folder], f"{single} (or {pickle}, a variant like {variant}, or an index of shards)")


class _Search:
    """A search for files that keeps a line about each missing one."""

    def __init__(self) -> None:
        self.missing: list[str] = []

    def find(self, names: Sequence[str], folders: Sequence[Path], what: str | None = None) -> Path:
        """The first of `names` in the first folder that has any of them; `what` describes them if none is found."""
        if path := _first(names, folders):
            return path
        what = what or (names[0] if len(names) == 1 else f"{names[0]} (or {', '.join(names[1:])})")
        self.missing.append(f"{what} not found in {' or '.join(f'{folder}/' for folder in folders)}")
        return folders[0] / names[0]

    def existing(self, path: str | Path) -> Path:
        """A path from the user, noted as missing if it does not exist."""
        path = user_path(path)
        if not path.exists():
            self.missing.append(f"{path}: no such file or folder")
        return path


def _place(source: ModelSource, search: _Search) -> Path:
    """The folder or file with the weights."""
    if source.weights is not None and source.name != "sd15":
        raise UsageError(f"model {source.name!r}: `weights` is only for 'sd15'; use the file or folder as the model")
    if source.name == "sd15":
        given = source.weights or os.environ.get(WEIGHTS_VARIABLE)
        place = search.existing(given) if given else None
        if place and not _holds_models(place):
            return place
        return search.find(SD15_WEIGHTS, [place] if place else _data())
    if source.name in MODELS:  # the others are included
        return resources.find(f"data/{source.name}")
    place = resources.find(source.name)
    if place.exists():
        return (_holds_models(place) and _first(SD15_WEIGHTS, [place])) or place
    if Path(source.name).name == source.name:
        raise UsageError(unknown("model", source.name, MODELS) + ", or the file or folder of a model")
    raise UsageError(f"{source.name}: no such file or folder")


def _vocabulary_folders(source: ModelSource, place: Path, layout: Layout) -> list[Path]:
    if layout == "sdlab":
        return [place]
    named = [user_path(folder)] if (folder := os.environ.get(VOCABULARY_VARIABLE)) else []
    beside = [place / "tokenizer" if layout == "diffusers" else place.parent]
    # The variable is meant for v1.5. For other models, files next to the model come first.
    folders = named + beside if source.name == "sd15" else beside + named
    return list(dict.fromkeys([*folders, *_data()]))


def _holds_models(folder: Path) -> bool:
    """Whether this is a folder of models, such as `data/`, and not a model."""
    return folder.is_dir() and not _in_layout_diffusers(folder) and not (folder / "config.json").exists()


def _in_layout_diffusers(folder: Path) -> bool:
    return (folder / "model_index.json").exists() or (folder / "unet" / "config.json").exists()


def _first(names: Sequence[str], folders: Sequence[Path]) -> Path | None:
    return next((folder / name for folder in folders for name in names if (folder / name).exists()), None)


def _data() -> list[Path]:
    """The `data/` folders of the working directory and of sdlab."""
    folders = [Path("data"), resources.ROOT / "data"]
    return folders[:1] if folders[0].resolve() == folders[1].resolve() else folders
