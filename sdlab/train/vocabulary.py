"""The vocabulary of a model folder, trained on captions if the folder has none."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from sdlab.model.config import ClipTextConfig
from sdlab.model.tokenizer import Tokenizer, train_vocabulary
from sdlab.system.errors import UsageError
from sdlab.system.files import make_folder
from sdlab.train import processes
from sdlab.weights.vocabulary import MERGES, VOCAB, read_tokenizer, write_vocabulary


def tokenizer_for(folder: Path, text: ClipTextConfig, captions: Callable[[], Sequence[str]]) -> Tokenizer:
    """The tokenizer of the folder. Without a `vocab.json`, one of at most `text.vocab_size` tokens is trained first.

    Raises:
        UsageError: the vocabulary is invalid, or `vocab_size` is too small for one.
        RunError: a file cannot be written.
    """
    make_folder(folder)
    with processes.first_alone():
        if not (folder / VOCAB).exists():
            try:
                vocabulary = train_vocabulary(captions(), text.vocab_size)
            except ValueError as error:
                raise UsageError(f"{folder / 'config.json'}: text.vocab_size: {error}") from None
            write_vocabulary(folder, *vocabulary)
    return read_tokenizer(folder / VOCAB, folder / MERGES, text.context_length)
