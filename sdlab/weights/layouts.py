"""Model layouts on disk (sdlab, diffusers, original), each read into a configuration and stored tensors."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace

from samplers.checks import did_you_mean
from sdlab.model.config import SD15, ModelConfig
from sdlab.model.noise_schedule import LevelsConfig
from sdlab.model.stable_diffusion import PARTS
from sdlab.system.errors import RunError, UsageError
from sdlab.weights import layout_diffusers, layout_original, recognise, weights_file
from sdlab.weights.extras import is_extra, note
from sdlab.weights.locate import Layout, Located
from sdlab.weights.model_folder import read_config
from sdlab.weights.rename_rules import as_kernels
from sdlab.weights.stored_tensor import StoredTensor

Parts = dict[str, dict[str, StoredTensor]]  # part -> our name -> tensor

CONFIG_KEY = "sdlab.config"  # metadata key of the configuration in the original layout, for models that are not v1
_V, _ZERO_SNR = "v_pred", "ztsnr"  # names of empty tensors with which merging tools mark a model
_MARKERS = frozenset({_V, _ZERO_SNR})


@dataclass(frozen=True)
class Content:
    """What a model's files contain, without a check that it fits together."""

    config: ModelConfig
    parts: Parts
    notes: tuple[str, ...] = ()  # for the user: what was ignored


def read(located: Located) -> Content:
    """The configuration and the tensors of a model, without checking that they fit each other.

    Raises:
        UsageError: the configuration is invalid, or the files contain another kind of model.
        RunError: a file is damaged, or a tensor has an unknown name.
    """
    found = {"sdlab": _sdlab, "diffusers": _diffusers, "original": _original}[located.layout](located)
    return replace(found, parts={part: as_kernels(tensors) for part, tensors in found.parts.items()})


def names(layout: Layout, config: ModelConfig) -> dict[str, dict[str, str]]:
    """The names of the tensors in a layout: part -> our name -> theirs."""
    found: dict[str, dict[str, str]] = {part: {} for part in PARTS}
    if layout == "original":
        for theirs, (part, ours) in layout_original.names(config).items():
            found[part][ours] = theirs
    elif layout == "diffusers":
        for part, known in layout_diffusers.names(config).items():
            found[part] = {ours: theirs for theirs, ours in known.items()}
    return found


def _sdlab(located: Located) -> Content:
    config = read_config(located.place)
    parts, notes = {}, []
    for part, path in zip(PARTS, located.weights, strict=True):
        tensors, _ = weights_file.read(path)
        extra = {
            name for name in tensors if is_extra(name) and (config.vision is None or name != "text_projection.weight")
        }
        parts[part] = {name: tensor for name, tensor in tensors.items() if name not in extra}
        notes += note(path, extra)
    return Content(config, parts, tuple(notes))


def _diffusers(located: Located) -> Content:
    config = layout_diffusers.read_config(located.place)
    parts, notes = {}, []
    for part, path in zip(PARTS, located.weights, strict=True):
        tensors, _ = weights_file.read(path)
        with _known(layout_diffusers.names(config)[part], str(path)):
            parts[part], extra = layout_diffusers.split(part, tensors, config)
        notes += note(path, extra)
        if layout_diffusers.NON_EMA in path.name:
            notes.append(f"{path.name}: these are the weights before averaging; no file with the averages was found")
    return Content(config, parts, tuple(notes))


def _original(located: Located) -> Content:
    path = located.place
    tensors, metadata = weights_file.read(path)
    text = metadata.get(CONFIG_KEY)
    if what := recognise.named(tensors) if text else recognise.foreign({k: t.shape for k, t in tensors.items()}):
        raise UsageError(f"{path}: this is {what}; {recognise.advice(what, path)}")
    config = ModelConfig.from_json(text, source=f"{path}, {CONFIG_KEY}") if text else _version_1(tensors)
    with _known(layout_original.names(config), str(path)):
        parts, extra = layout_original.split(tensors, config)
    config, notes = _as_marked(config, tensors.keys(), path.name)
    return Content(config, parts, (*notes, *note(path, set(extra) - _MARKERS)))


def _version_1(tensors: Mapping[str, StoredTensor]) -> ModelConfig:
    """The configuration of Stable Diffusion v1, with as many tokens as the text encoder has embeddings."""
    embeddings = tensors.get(f"{layout_original.PREFIXES['clip']}embeddings.token_embedding.weight")
    count = embeddings.shape[0] if embeddings is not None and len(embeddings.shape) == 2 else 0
    more = SD15.text.vocab_size < count < 2 * SD15.text.vocab_size
    return replace(SD15, text=replace(SD15.text, vocab_size=count)) if more else SD15


def _as_marked(config: ModelConfig, names: Collection[str], file: str) -> tuple[ModelConfig, list[str]]:
    """The configuration with the prediction type that marker tensors of a merged model give."""
    if not isinstance(config.levels, LevelsConfig) or not (markers := sorted(_MARKERS.intersection(names))):
        return config, []
    levels = replace(config.levels, zero_snr=config.levels.zero_snr or _ZERO_SNR in markers)
    found = f"{file}: its marker{'s' * (len(markers) > 1)} {' and '.join(map(repr, markers))} mean that it predicts v"
    snr = ", with zero terminal SNR" if levels.zero_snr else ""
    return replace(config, prediction="v", levels=levels), [found + snr]


@contextmanager
def _known(names: Iterable[str], source: str) -> Iterator[None]:
    """Report a KeyError in the block as an unknown tensor, and suggest the nearest of `names`."""
    try:
        yield
    except KeyError as error:
        key = str(error.args[0])
        raise RunError(f"{source}: unknown tensor {key!r}{did_you_mean(key, names)}; {recognise.LOADED}") from None
