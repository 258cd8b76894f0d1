"""The text stage: CLIP's text encoder is trained to encode the marks of a world, such as what is in which half.

A contrastive loss alone yields bags of words (Yuksekgonul et al. 2022, arXiv:2210.01936). "red left of blue" places the
red object through three words together, and a short contrastive training does not learn that. The text encoder is
therefore trained first, on what pictures show. The clip stage then trains the vision encoder against it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from sdlab.model.clip import Clip
from sdlab.model.tokenizer import Tokenizer
from sdlab.system.errors import UsageError
from sdlab.train.folder import configuration, update
from sdlab.train.optimizer import standard
from sdlab.train.randomness import measuring_generator
from sdlab.train.stage import Loss, Stage
from sdlab.train.stages.text_config import TextTraining
from sdlab.train.stages.text_distillation import TextDistillation
from sdlab.train.stages.text_probes import PROBES, Encoded, Probes
from sdlab.train.vocabulary import tokenizer_for
from sdlab.train.world_pictures import WorldPictures
from sdlab.weights.model_folder import save_part
from sdlab.weights.vocabulary import VOCAB


class Grounded(nn.Module):
    """A CLIP, and linear probes on the states of its text encoder."""

    def __init__(self, clip: Clip, build: Callable[[], Probes]) -> None:
        super().__init__()
        self.clip = clip
        self.probes = build()


class Example(NamedTuple):
    """A batch of captions."""

    tokens: Tensor  # (B, L)
    behind: Tensor  # a position from the end token on, (B,)
    statements: list[Any]  # what the captions state
    truth: Any


@dataclass(frozen=True)
class _Draw:
    source: WorldPictures[Any]
    n: int
    tokenizer: Tokenizer

    def __call__(self, generator: torch.Generator) -> Example:
        batch = self.source.batch(self.n, generator)
        statements = batch.statements(generator)
        tokens = self.tokenizer(batch.words(statements, generator))
        ends = tokens.argmax(1)
        behind = ends + (torch.rand(self.n, generator=generator) * (tokens.shape[1] - ends)).long()
        return Example(tokens, behind, statements, batch.truth)


class TextStage(Stage):
    """The stage that maps captions to what they describe."""

    def __init__(self, config: TextTraining, pictures: WorldPictures[Any]) -> None:
        self.config, self.pictures, folder = config, pictures, Path(config.model)
        model = configuration(folder)
        self.tokenizer = tokenizer_for(folder, model.text, self._many_captions)
        self.text = replace(model.text, vocab_size=self.tokenizer.vocab_size)
        config.check_vision(model, "the text stage")
        probes = PROBES.get(config.world, Probes)
        torch.manual_seed(config.seed)
        try:
            self.grounded = Grounded(
                config.network(replace(model, text=self.text)),
                partial(probes, self.text.width, pictures.world, self.tokenizer),
            )
        except ValueError as error:
            raise UsageError(f"{folder / VOCAB}: {error}") from None
        self.draw = _Draw(pictures, config.batch, self.tokenizer)
        self.trained = {"text": standard(self.grounded, config, stored=self.grounded.clip)}

    def _many_captions(self) -> list[str]:
        generator = torch.Generator().manual_seed(self.config.seed)
        return self.pictures.batch(20_000, generator).captions(generator)

    def losses(self, step: int, batch: Example) -> Iterator[Loss]:
        """The losses of the world's probes."""
        states = self.grounded.clip.text(batch.tokens.to(self.config.device)).float()
        summary = states[torch.arange(len(states)), batch.behind]
        captions = Encoded(batch.tokens, states, summary, batch.statements)
        losses = self.grounded.probes.losses(captions, batch.truth)
        total = sum(weight * loss for weight, loss in losses.values())
        yield Loss("text", torch.as_tensor(total), {name: loss for name, (_, loss) in losses.items()})

    def finish(self) -> dict[str, float]:
        """Measure the probes on unseen captions. Write the weights.

        Raises:
            UsageError: `config.json` is invalid.
            RunError: a file cannot be written.
        """
        generator = measuring_generator(self.config.seed)
        measured = self.grounded.probes.measure(self._ends, self.pictures, generator)
        folder = Path(self.config.model)
        update(folder, text=self.text)
        save_part(folder / self.config.writes(), self.grounded.clip, torch.bfloat16)
        return measured

    def _ends(self, captions: list[str]) -> Tensor:
        """The states of the end tokens, (B, W)."""
        tokens = self.tokenizer(captions)
        states = self.grounded.clip.text(tokens.to(self.config.device))
        return states[torch.arange(len(tokens)), tokens.argmax(1)]


def text_stage(config: TextTraining) -> Stage:
    """The stage on what captions describe, or with a teacher on its states.

    Raises:
        UsageError: the model has no vision encoder, its vocabulary does not fit, or the teacher is not one of its size.
        RunError: the teacher's file is damaged.
    """
    pictures, teacher = config.pictures("train"), config.weights_at(config.teacher)
    return TextStage(config, pictures) if teacher is None else TextDistillation(config, pictures, teacher)
