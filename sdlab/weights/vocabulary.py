"""Vocabulary files: `vocab.json` and `merges.txt` in CLIP's format, or both in one `tokenizer.json`."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from sdlab.model.tokenizer import END, START, WORD_END, Merges, Tokenizer, Vocabulary
from sdlab.system.errors import UsageError
from sdlab.system.files import reason, replacing

VOCAB, MERGES = "vocab.json", "merges.txt"
COMBINED = "tokenizer.json"  # written by transformers 5 instead of the two


def read_tokenizer(vocab: Path, merges: Path, context_length: int) -> Tokenizer:
    """The tokenizer of a vocabulary. If either path is a `tokenizer.json`, only that file is read.

    Raises:
        UsageError: a file is missing or not in its format.
    """
    if (path := _combined(vocab, merges)) is not None:
        words, pairs = _read_combined(path)
        try:
            return Tokenizer(words, pairs, context_length)
        except Exception as error:  # tokenizers raises nothing narrower
            raise UsageError(f"{path}: is not a CLIP vocabulary: {error}") from None
    words, pairs = _read_vocab(vocab), _read_merges(merges)
    made = {START, END, *(left + right for left, right in pairs)}
    if orphan := next((w for w in words if len(w.removesuffix(WORD_END)) > 1 and w not in made), None):
        raise UsageError(f"{merges}: no merge makes {orphan!r}, which is in {vocab}; the file is incomplete")
    try:
        return Tokenizer(words, pairs, context_length)
    except Exception as error:  # tokenizers raises nothing narrower for a merge that the vocabulary lacks
        raise UsageError(f"{vocab} and {merges} do not match: {error}") from None


def tokenizer_in(folder: Path, context_length: int) -> Tokenizer:
    """The tokenizer of the `vocab.json` and `merges.txt` in a folder.

    Raises:
        UsageError: a file is missing or not in its format.
    """
    return read_tokenizer(folder / VOCAB, folder / MERGES, context_length)


def write_vocabulary(folder: Path, vocab: Vocabulary, merges: Merges) -> None:
    """Write `vocab.json` and `merges.txt` into an existing folder.

    Raises:
        RunError: a file cannot be written.
    """
    lines = ["#version: 0.2", *(f"{left} {right}" for left, right in merges)]
    for name, text in ((VOCAB, json.dumps(vocab, ensure_ascii=False)), (MERGES, "\n".join(lines) + "\n")):
        with replacing(folder / name) as draft:
            draft.write_text(text, encoding="utf-8")


def copy_vocabulary(vocab: Path, merges: Path, folder: Path) -> None:
    """Copy a vocabulary into an existing folder as `vocab.json` and `merges.txt`, from either format.

    Raises:
        UsageError: a `tokenizer.json` is not in its format.
        RunError: a file cannot be written.
    """
    if path := _combined(vocab, merges):
        write_vocabulary(folder, *_read_combined(path))
        return
    for source, name in ((vocab, VOCAB), (merges, MERGES)):
        with replacing(folder / name) as draft:
            shutil.copyfile(source, draft)


def _combined(vocab: Path, merges: Path) -> Path | None:
    return next((path for path in (vocab, merges) if path.name == COMBINED), None)


def _read_combined(path: Path) -> tuple[Vocabulary, Merges]:
    """The contents of a `tokenizer.json`. Merges are pairs, or in older files strings of two symbols with a space."""
    try:
        model = json.loads(path.read_text(encoding="utf-8"))["model"]
        merges = [tuple(pair.split(" ")) if isinstance(pair, str) else tuple(pair) for pair in model["merges"]]
        return dict(model["vocab"]), [(left, right) for left, right in merges]
    except OSError as error:
        raise UsageError(f"{path}: {reason(error)}") from None
    except (ValueError, KeyError, TypeError):
        raise UsageError(f"{path}: is not a CLIP vocabulary in the format of transformers") from None


def _read_vocab(path: Path) -> Vocabulary:
    try:
        words = json.loads(_text(path))
    except json.JSONDecodeError as error:
        raise UsageError(f"{path}: not JSON: {error}") from None
    if not isinstance(words, dict) or sorted(map(str, words.values())) != sorted(map(str, range(len(words)))):
        raise UsageError(f"{path}: must map each token to its id, 0 to {len(words) - 1} once each")
    return words


def _read_merges(path: Path) -> Merges:
    pairs: Merges = []
    for number, line in enumerate(_text(path).splitlines(), start=1):
        if (number == 1 and line.startswith("#version")) or not line:
            continue
        left, _, right = line.partition(" ")
        if not right or " " in right:
            raise UsageError(f"{path}: line {number} must be two symbols separated by a space, got {line!r}")
        pairs.append((left, right))
    return pairs


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise UsageError(f"{path}: not UTF-8 text") from None
    except OSError as error:
        raise UsageError(f"{path}: {reason(error)}") from None
