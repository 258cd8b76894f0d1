"""Model loading from any layout into a `StableDiffusion`. Files are opened first, then weights are read."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch

from sdlab.model.clip import Clip, ClipText
from sdlab.model.config import ModelConfig
from sdlab.model.diffusion import Unet
from sdlab.model.stable_diffusion import PARTS, StableDiffusion, networks, shapes
from sdlab.model.tokenizer import Tokenizer
from sdlab.model.vae import Vae
from sdlab.weights import layouts
from sdlab.weights.fill import check, fill
from sdlab.weights.locate import Located, Model, locate
from sdlab.weights.model_folder import check_part, load_part
from sdlab.weights.padding import without_padding
from sdlab.weights.vocabulary import check_size, read_tokenizer


@dataclass(frozen=True)
class StoredModel:
    """A model whose weights are still in its files; its configuration, vocabulary and file headers have been read."""

    located: Located
    config: ModelConfig
    tokenizer: Tokenizer
    tensors: layouts.Parts
    notes: tuple[str, ...] = ()  # for the user: what was ignored

    def check(self) -> None:
        """Check that the tensors fit the configuration.

        Raises:
            RunError: a name or a shape differs. The message names it.
        """
        names = layouts.names(self.located.layout, self.config)
        for (part, wanted), path in zip(shapes(self.config).items(), self.located.weights, strict=True):
            check(self.tensors[part], wanted, str(path), names[part])

    def check_others(self, others: Iterable[str]) -> None:
        """The same for the further U-Nets of these names.

        Raises:
            RunError: a file is damaged, or does not fit the configuration.
        """
        for name in others:
            check_part(self.located.others[name], lambda: Unet(self.config.unet))


def open_model(model: Model) -> StoredModel:
    """Read a model's configuration, vocabulary and file headers, and check that its tensors fit the configuration.

    Args:
        model: a name that `locate.MODELS` lists, a path to a file or folder, or a `ModelSource`.

    Raises:
        UsageError: the model or one of its files is not found, the configuration or the vocabulary is invalid, or the
            files contain another kind of model, which the message names.
        RunError: a weight file is damaged or does not fit the configuration.
    """
    stored = read_model(model)
    stored.check()
    return stored


def read_model(model: Model) -> StoredModel:
    """As `open_model`, but without the check of the tensors (`StoredModel.check`), which takes most of the time.

    Raises:
        UsageError: as for `open_model`.
        RunError: a weight file is damaged.
    """
    located = locate(model)
    content = layouts.read(located)
    tokenizer = read_tokenizer(located.vocab, located.merges, content.config.text.context_length)
    content = without_padding(content, tokenizer.vocab_size, located.weights[0])
    check_size(tokenizer, content.config.text, located.vocab, located.place)
    return StoredModel(located, content.config, tokenizer, content.parts, content.notes)


def load(
    model: Model | StoredModel,
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
    others: Iterable[str] = (),
) -> StableDiffusion:
    """Load a model, named as for `open_model` or already opened by it, with those of its further U-Nets in `others`.

    Raises:
        UsageError: as for `open_model`.
        RunError: as for `open_model`, or the weights cannot be read.
    """
    stored = model if isinstance(model, StoredModel) else open_model(model)
    modules = networks(stored.config)
    for part, module in modules.items():
        fill(module, stored.tensors[part], device, dtype)
    clip, vae, unet = (modules[part] for part in PARTS)
    full = clip if isinstance(clip, Clip) else None
    text = full.text if full else clip
    assert isinstance(text, ClipText)
    assert isinstance(vae, Vae)
    assert isinstance(unet, Unet)
    further = {
        name: load_part(stored.located.others[name], lambda: Unet(stored.config.unet), device, dtype) for name in others
    }
    return StableDiffusion(stored.config, stored.tokenizer, text, full, vae, unet, torch.device(device), dtype, further)
