"""Single files of Stable Diffusion 1.x, 2.x and XL, as their pipelines: `model = {diffusers = "FILE"}` in a sweep.

A file has the names of the original training code. Only its header is read here, and no pickle is executed.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from sdlab.backends.base import Mistakes
from sdlab.backends.diffusers.folder import Folder
from sdlab.backends.diffusers.published import BETAS, UNET, V1, V2, VAE, XL, Published, Text
from sdlab.backends.diffusers.sizes import Sizes, text_config, unet_config, vae_config
from sdlab.registry import Mistake
from sdlab.system import resources
from sdlab.system.errors import RunError, UsageError
from sdlab.system.limits import brief
from sdlab.system.paths import path_fault
from sdlab.weights import recognise, weights_file
from sdlab.weights.extras import is_extra, note
from sdlab.weights.layout_original import OTHER_ATTENTION
from sdlab.weights.layouts import CONFIG_KEY
from sdlab.weights.locate import find_vocabulary
from sdlab.weights.rename_rules import rename
from sdlab.weights.shards import is_index, read_index
from sdlab.weights.stored_tensor import StoredTensor
from sdlab.weights.vocabulary import added_file, read_tokenizer

Tensors = Mapping[str, StoredTensor]

PREDICTIONS = {"eps": "epsilon", "v": "v_prediction", "x0": "sample"}  # ours -> in the settings of a scheduler
_STATED = {"epsilon": "eps", "eps": "eps", "v": "v", "v_prediction": "v", "sample": "x0"}  # in metadata
_MARKER, _ZERO_SNR, _METADATA = "v_pred", "ztsnr", "modelspec.prediction_type"
_EDM = ("edm_mean", "edm_vpred.sigma_max")  # markers of models of the EDM process
_SIDE_EPS_V2 = 512  # pixels of those models of 2.x that predict ε
_NETWORKS = (UNET, VAE, "cond_stage_model.", "conditioner.")
_LOADED = "complete models of Stable Diffusion 1.x, 2.x and XL that draw from a text are loaded"


@dataclass(frozen=True)
class FileOptions:
    """The options of a single file beside those of its family."""

    prediction: str | None = None  # what the U-Net predicts: "eps", "v" or "x0"
    zero_snr: bool | None = None  # whether it was trained with zero terminal SNR
    vocab: str | None = None  # paths of CLIP's vocabulary, outside their usual places
    merges: str | None = None


FILE_OPTIONS = frozenset(one.name for one in fields(FileOptions))
PATHS = ("vocab", "merges")


@dataclass(frozen=True)
class Parameters:
    """What the U-Net predicts, as the file, the user or the family says."""

    prediction: str
    zero_snr: bool


@dataclass(frozen=True, kw_only=True)
class SingleFile(Folder):
    """A single file, described like the folder of its pipeline."""

    known: Published
    tensors: Tensors  # under the usual names, without those that no network uses
    parameters: Parameters
    vocabulary: tuple[Path, Path] | UsageError
    notes: tuple[str, ...] = ()

    def text(self, component: str) -> Text | None:
        """The facts about a text encoder; None for another network."""
        return self.known.texts.get(component)

    def padding(self, tokenizer: str) -> str:
        """The padding token of a tokenizer."""
        return self.known.texts[tokenizer.replace("tokenizer", "text_encoder")].padding

    def check(self) -> Iterator[str]:
        """What is wrong with the vocabulary."""
        if isinstance(self.vocabulary, UsageError):
            yield from self.vocabulary.lines
            return
        vocab, merges = self.vocabulary
        try:
            found = read_tokenizer(vocab, merges, self.config("text_encoder", "max_position_embeddings")).vocab_size
        except UsageError as error:
            yield from error.lines
            return
        for component in self.known.texts:
            if (wanted := self.config(component, "vocab_size")) != found:
                yield f"{vocab}: has {found} tokens, but {component} of {self.place} has {wanted}"

    @property
    def identity(self) -> Mapping[str, Any]:
        """What the U-Net predicts."""
        return vars(self.parameters)

    @property
    def files(self) -> tuple[Path, ...]:
        """The file and its vocabulary."""
        shards = dict.fromkeys(read_index(self.place).values()) if is_index(self.place) else ()
        words = () if isinstance(self.vocabulary, UsageError) else self.vocabulary
        added = [path for path in (added_file(words[0]),) if path] if words else []
        return (self.place, *shards, *words, *added)

    def size_of(self, component: str) -> int:
        """The bytes of a network's weights."""
        prefix = UNET if component == "unet" else VAE
        return sum(tensor.extent for name, tensor in self.tensors.items() if name.startswith(prefix))


def wrong_options(options: Mapping[str, Any]) -> Iterator[Mistake]:
    """What is wrong with the options of a single file."""
    if "prediction" in options and options["prediction"] not in PREDICTIONS:
        yield "prediction", f"should be one of {', '.join(PREDICTIONS)}, got {brief(options['prediction'])}"
    if "zero_snr" in options and type(options["zero_snr"]) is not bool:
        yield "zero_snr", f"should be true or false, got {brief(options['zero_snr'])}"
    for key in PATHS:
        if key in options and (type(options[key]) is not str or (fault := path_fault(options[key]))):
            what = f"should be a path in quotes, got {brief(options[key])}"
            yield key, what if type(options[key]) is not str else fault


def read_single_file(place: Path, options: FileOptions) -> SingleFile:
    """A single file from its header.

    Raises:
        UsageError: the file has another format, or another kind of model.
        RunError: the file is damaged, or a tensor is missing.
        Mistakes: an option does not fit the file.
    """
    stored, metadata = weights_file.read(place)
    if CONFIG_KEY in metadata:
        raise UsageError(f"{place}: was written by sdlab, and diffusers has no such sizes; leave out `diffusers`")
    known, tensors, extra = _recognised(place, stored)
    parameters, notes = _parameters(place, known, stored, metadata, options)
    if known is V2 and parameters.prediction == "eps":
        known = replace(known, side=_SIDE_EPS_V2)
    sizes = Sizes(place, tensors)
    vae = vae_config(sizes, known)
    configs = {"unet": unet_config(sizes, known, 2 ** (len(vae["block_out_channels"]) - 1)), "vae": vae}
    classes = {"unet": ("diffusers", "UNet2DConditionModel"), "vae": ("diffusers", "AutoencoderKL")}
    for component, text in known.texts.items():
        configs[component] = text_config(sizes, text)
        classes[component] = "transformers", f"CLIPTextModel{'WithProjection' * text.projection}"
    for tokenizer in (name.replace("text_encoder", "tokenizer") for name in known.texts):
        configs[tokenizer], classes[tokenizer] = {}, ("transformers", "CLIPTokenizer")
    process = {
        **BETAS,
        "_class_name": "DDIMScheduler",
        "prediction_type": PREDICTIONS[parameters.prediction],
        "rescale_betas_zero_snr": parameters.zero_snr,
    }
    try:
        vocabulary: tuple[Path, Path] | UsageError = find_vocabulary(place, options.vocab, options.merges)
    except UsageError as error:
        vocabulary = error
    index = {**known.index, "_class_name": known.pipeline}
    notes += note(place, extra)
    return SingleFile(
        place, index, classes, configs, process,
        known=known, tensors=tensors, parameters=parameters, vocabulary=vocabulary, notes=tuple(notes),
    )  # fmt: skip


def near_paths(options: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """The options with paths that are searched for in `folder` first.

    Raises:
        UsageError: no file can have such a path.
    """
    return {key: resources.near(value, folder) if key in PATHS else value for key, value in options.items()}


def _recognised(place: Path, stored: Tensors) -> tuple[Published, dict[str, StoredTensor], set[str]]:
    """The family, its tensors under their usual names, and the names of those that no network uses.

    Raises:
        UsageError: the file has another kind of model, or only a part of one.
        RunError: the file has a tensor twice, under different names.
    """
    what = recognise.foreign({name: tensor.shape for name, tensor in stored.items()})
    if what is not None and not what.startswith((recognise.V2, recognise.XL)):
        raise UsageError(f"{place}: this is {what}; {_advice(what)}")
    if marker := next((name for name in _EDM if name in stored), None):
        raise UsageError(f"{place}: this is a model of the EDM process, as its tensor {marker!r} says; {_LOADED}")
    known = V1 if what is None else XL if any(name.startswith("conditioner.embedders.1.") for name in stored) else V2
    tensors, extra = dict[str, StoredTensor](), set[str]()
    for name, tensor in stored.items():
        usual = _usual(name)
        projection = known is XL and usual == f"{XL.texts['text_encoder_2'].prefix}text_projection"
        if usual.startswith(_NETWORKS) and (projection or not is_extra(usual)):
            if usual in tensors:
                raise RunError(f"{place}: {name!r} and another tensor are both {usual!r}; remove one of them")
            tensors[usual] = tensor
        elif name not in (_MARKER, _ZERO_SNR):
            extra.add(name)
    parts = {"U-Net": UNET, "VAE": VAE, **{key: text.prefix for key, text in known.texts.items()}}
    if lacking := [part for part, prefix in parts.items() if not any(name.startswith(prefix) for name in tensors)]:
        raise UsageError(f"{place}: this is a checkpoint without its {' and '.join(lacking)}; {_LOADED}")
    if known is V2 and f"{UNET}label_emb.0.0.weight" in tensors:
        raise UsageError(f"{place}: this is a model that draws variations of a picture (unCLIP); {_LOADED}")
    return known, tensors, extra


def _advice(what: str) -> str:
    advice = recognise.advice(what, Path())
    return _LOADED if advice == recognise.LOADED else advice


def _usual(name: str) -> str:
    """The usual name of a tensor that other tools write with another one."""
    # 2.x in the form of later training code, and the text encoder of 1.x without its last part.
    name = re.sub(r"^conditioner\.embedders\.0\.model\.", "cond_stage_model.model.", name)
    name = re.sub(r"^(cond_stage_model\.transformer)\.(?!text_model\.)", r"\1.text_model.", name)
    return rename(name, OTHER_ATTENTION) if ".attn_1." in name else name


def _parameters(
    place: Path, known: Published, names: Iterable[str], metadata: Mapping[str, str], options: FileOptions
) -> tuple[Parameters, list[str]]:
    """What the U-Net predicts, and a note on where that is from.

    Raises:
        Mistakes: zero terminal SNR with a prediction of ε.
    """
    markers, stated = {_MARKER, _ZERO_SNR}.intersection(names), _STATED.get(metadata.get(_METADATA, ""))
    notes = []
    if options.prediction is not None:
        prediction = options.prediction
    elif markers:
        prediction = "v"
        found = " and ".join(map(repr, sorted(markers)))
        notes.append(f"{place.name}: its marker{'s' * (len(markers) > 1)} {found} mean that it predicts v")
    elif stated is not None:
        prediction = stated
        notes.append(f"{place.name}: its metadata say that it predicts {prediction}")
    elif known is V2:
        prediction = "v"
        notes.append(
            f"{place.name}: does not say what it predicts; assumed v, as models of 768 × 768 do; for one of 512 × 512 "
            'write prediction = "eps"'
        )
    else:
        prediction = "eps"
    zero_snr = _ZERO_SNR in markers if options.zero_snr is None else options.zero_snr
    if zero_snr and prediction == "eps":
        raise Mistakes(
            ("zero_snr", 'needs prediction = "v", because at pure noise a prediction of the noise says nothing')
        )
    return Parameters(prediction, zero_snr), notes
