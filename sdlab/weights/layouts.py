"""Model layouts on disk (sdlab, diffusers, original), each read into a configuration and stored tensors."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from samplers.checks import did_you_mean
from sdlab.model.config import SD15, ModelConfig
from sdlab.model.stable_diffusion import PARTS
from sdlab.system.errors import RunError, UsageError
from sdlab.weights import layout_diffusers, layout_original, recognise, weights_file
from sdlab.weights.locate import Layout, Located
from sdlab.weights.model_folder import read_config
from sdlab.weights.stored_tensor import StoredTensor

Parts = dict[str, dict[str, StoredTensor]]  # part -> our name -> tensor

CONFIG_KEY = "sdlab.config"  # metadata key of the configuration in the original layout, for models that are not v1


def read(located: Located) -> tuple[ModelConfig, Parts]:
    """The configuration and the tensors of a model, without checking that they fit each other.

    Raises:
        UsageError: the configuration is invalid, or the files contain another kind of model.
        RunError: a file is damaged, or a tensor has an unknown name.
    """
    return {"sdlab": _sdlab, "diffusers": _diffusers, "original": _original}[located.layout](located)


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


def _sdlab(located: Located) -> tuple[ModelConfig, Parts]:
    tensors = {part: weights_file.read(path)[0] for part, path in zip(PARTS, located.weights, strict=True)}
    return read_config(located.place), tensors


def _diffusers(located: Located) -> tuple[ModelConfig, Parts]:
    config = layout_diffusers.read_config(located.place)
    parts = {}
    for part, path in zip(PARTS, located.weights, strict=True):
        tensors, _ = weights_file.read(path)
        with _known(layout_diffusers.names(config)[part], str(path)):
            parts[part] = layout_diffusers.split(part, tensors, config)
    return config, parts


def _original(located: Located) -> tuple[ModelConfig, Parts]:
    path = located.place
    tensors, metadata = weights_file.read(path)
    if text := metadata.get(CONFIG_KEY):
        config = ModelConfig.from_json(text, source=f"{path}, {CONFIG_KEY}")
    elif what := recognise.foreign({key: tensor.shape for key, tensor in tensors.items()}):
        raise UsageError(f"{path}: this is {what}; {recognise.LOADED}")
    else:
        config = SD15
    with _known(layout_original.names(config), str(path)):
        return config, layout_original.split(tensors, config)


@contextmanager
def _known(names: Iterable[str], source: str) -> Iterator[None]:
    """Report a KeyError in the block as an unknown tensor, and suggest the nearest of `names`."""
    try:
        yield
    except KeyError as error:
        key = str(error.args[0])
        raise RunError(f"{source}: unknown tensor {key!r}{did_you_mean(key, names)}; {recognise.LOADED}") from None
