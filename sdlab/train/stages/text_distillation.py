"""The text stage with a teacher: a text encoder learns the states of another one.

A U-Net that was trained on the teacher's states can keep its weights. This is knowledge distillation on hidden states
(Hinton et al. 2015, arXiv:1503.02531; Sanh et al. 2019, arXiv:1910.01108, sec. 3).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from sdlab.model.clip import Clip, ClipText
from sdlab.model.tokenizer import Tokenizer
from sdlab.train.optimizer import standard
from sdlab.train.randomness import measuring_generator
from sdlab.train.stage import Loss, Stage
from sdlab.train.stages.text_config import TextTraining
from sdlab.train.world_pictures import WorldPictures
from sdlab.weights.model_folder import load_part, read_config, save_part
from sdlab.weights.vocabulary import tokenizer_in

_UNSEEN = 1024  # captions that are measured


@dataclass(frozen=True)
class _Draw:
    source: WorldPictures[Any]
    n: int
    tokenizer: Tokenizer

    def __call__(self, generator: torch.Generator) -> Tensor:
        """The tokens of n captions, (n, L)."""
        return self.tokenizer(self.source.batch(self.n, generator).captions(generator))


class TextDistillation(Stage):
    """The stage that maps captions to the states of the teacher. The teacher's vision encoder is kept."""

    def __init__(self, config: TextTraining, pictures: WorldPictures[Any], teacher: Path) -> None:
        self.config, self.pictures, folder = config, pictures, Path(config.model)
        model = read_config(folder)
        config.check_vision(model, "the text stage")
        assert model.vision is not None
        self.clip = load_part(teacher, partial(Clip, model.text, model.vision), config.device)
        self.teacher = self.clip.text
        torch.manual_seed(config.seed)
        self.student = self.clip.text = ClipText(model.text)
        self.draw = _Draw(pictures, config.batch, tokenizer_in(folder, model.text))
        self.trained = {"text": standard(self.student, config, stored=self.clip)}

    def losses(self, step: int, batch: Tensor) -> Iterator[Loss]:
        """The mean squared difference to the teacher's states, over all tokens."""
        tokens = batch.to(self.config.device)
        with torch.no_grad():
            taught = self.teacher(tokens)
        yield Loss("text", F.mse_loss(self.student(tokens).float(), taught.float()))

    def finish(self) -> dict[str, float]:
        """Measure the difference on unseen captions, relative to the variance of the teacher's states. Write weights.

        Raises:
            RunError: the file cannot be written.
        """
        generator = measuring_generator(self.config.seed)
        draw = _Draw(self.pictures, _UNSEEN, self.draw.tokenizer)
        with torch.no_grad():
            tokens = draw(generator).to(self.config.device)
            taught, learnt = self.teacher(tokens), self.student(tokens)
        error = (learnt - taught).square().mean() / taught.var(0).mean()
        save_part(Path(self.config.model) / self.config.writes(), self.clip, torch.bfloat16)
        return {"error": float(error)}
