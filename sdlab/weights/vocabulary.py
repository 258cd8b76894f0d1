"""The vocabulary of a model as its files hold it: vocab.json and merges.txt, or tokenizer.json with both in it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from sdlab.model.tokenizer import Merges, Tokenizer, Vocabulary, write_vocabulary
from sdlab.system.errors import UsageError
from sdlab.system.files import reason
from sdlab.weights.locate import BOTH, Located


def tokenizer(located: Located, context_length: int) -> Tokenizer:
    """The tokenizer of a model.

    Raises:
        UsageError: a file is not of its format.
    """
    if (path := _both(located)) is None:
        return Tokenizer.from_files(located.vocab, located.merges, context_length)
    vocab, merges = _read(path)
    try:
        return Tokenizer(vocab, merges, context_length)
    except Exception as error:  # tokenizers raises nothing narrower
        raise UsageError(f"{path}: not a vocabulary like CLIP's: {error}") from None


def copy(located: Located, folder: Path) -> None:
    """Write the vocabulary into a folder as vocab.json and merges.txt.

    Raises:
        OSError: it cannot be written.
    """
    if path := _both(located):
        write_vocabulary(folder, *_read(path))
    else:
        shutil.copyfile(located.vocab, folder / "vocab.json")
        shutil.copyfile(located.merges, folder / "merges.txt")


def _both(located: Located) -> Path | None:
    return next((path for path in (located.vocab, located.merges) if path.name == BOTH), None)


def _read(path: Path) -> tuple[Vocabulary, Merges]:
    """Its merges are pairs, in older files two symbols with a space between."""
    try:
        model = json.loads(path.read_text(encoding="utf-8"))["model"]
        merges = [tuple(pair.split(" ")) if isinstance(pair, str) else tuple(pair) for pair in model["merges"]]
        return dict(model["vocab"]), [(left, right) for left, right in merges]
    except OSError as error:
        raise UsageError(f"{path}: {reason(error)}") from None
    except (ValueError, KeyError, TypeError):
        raise UsageError(f"{path}: not a vocabulary like CLIP's, as transformers writes it") from None
