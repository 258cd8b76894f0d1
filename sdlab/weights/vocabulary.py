"""Vocabulary files: `vocab.json` and `merges.txt` in CLIP's format, or both in one `tokenizer.json`."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from tokenizers import AddedToken

from sdlab.model.config import ClipTextConfig
from sdlab.model.tokenizer import END, START, WORD_END, Merges, Tokenizer, Vocabulary
from sdlab.system.errors import UsageError
from sdlab.system.files import replacing
from sdlab.system.reading import read_text
from sdlab.weights.json_file import read_object

VOCAB, MERGES = "vocab.json", "merges.txt"
COMBINED = "tokenizer.json"  # written by transformers 5 instead of the two
ADDED = "added_tokens.json"  # of textual inversion: token -> id
_FLAGS = ("single_word", "lstrip", "rstrip", "normalized", "special")  # of an added token in a tokenizer.json


def read_tokenizer(vocab: Path, merges: Path, context_length: int) -> Tokenizer:
    """The tokenizer of a vocabulary. If either path is a `tokenizer.json`, only that file is read.

    Tokens that no merge makes may be in `vocab.json` after the end token, in an `added_tokens.json` beside it, or in
    the `added_tokens` of a `tokenizer.json`.

    Raises:
        UsageError: a file is missing or not in its format.
    """
    words, pairs, added = _read(vocab, merges)
    try:
        return Tokenizer(words, pairs, context_length, list(added.values()))
    except Exception as error:  # tokenizers raises nothing narrower
        if path := _combined(vocab, merges):
            raise UsageError(f"{path}: is not a CLIP vocabulary: {error}") from None
        raise UsageError(f"{vocab} and {merges} do not match: {error}") from None


def added_file(vocab: Path) -> Path | None:
    """The file with the added tokens of a `vocab.json`, if there is one beside it."""
    beside = () if vocab.name == COMBINED else (vocab.with_name(ADDED), vocab.with_name(COMBINED))
    return next((path for path in beside if path.exists()), None)


def tokenizer_in(folder: Path, text: ClipTextConfig) -> Tokenizer:
    """The tokenizer of the `vocab.json` and `merges.txt` in a folder, for a text encoder with this configuration.

    Raises:
        UsageError: a file is missing or not in its format, or the text encoder has another number of tokens.
    """
    tokenizer = read_tokenizer(folder / VOCAB, folder / MERGES, text.context_length)
    check_size(tokenizer, text, folder / VOCAB, folder)
    return tokenizer


def check_size(tokenizer: Tokenizer, text: ClipTextConfig, vocab: Path, model: Path) -> None:
    """Check that a text encoder has an embedding for each token, and no other. The paths are for the message.

    Raises:
        UsageError: the numbers differ.
    """
    if (found := tokenizer.vocab_size) != (wanted := text.vocab_size):
        raise UsageError(f"{vocab}: has {found} tokens, but text.vocab_size of {model} is {wanted}")


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
    """Copy a vocabulary into an existing folder: `vocab.json`, `merges.txt`, and `added_tokens.json` if it has any.

    Raises:
        UsageError: a file is not in its format.
        RunError: a file cannot be written.
    """
    words, pairs, added = _read(vocab, merges)
    if _combined(vocab, merges):
        write_vocabulary(folder, {word: i for word, i in words.items() if word not in added}, pairs)
    else:
        for source, name in ((vocab, VOCAB), (merges, MERGES)):
            with replacing(folder / name) as draft:
                shutil.copyfile(source, draft)
    if added:
        with replacing(folder / ADDED) as draft:
            draft.write_text(json.dumps({word: words[word] for word in added}, ensure_ascii=False), encoding="utf-8")


def _combined(vocab: Path, merges: Path) -> Path | None:
    return next((path for path in (vocab, merges) if path.name == COMBINED), None)


def _read(vocab: Path, merges: Path) -> tuple[Vocabulary, Merges, dict[str, AddedToken]]:
    """All tokens with their ids, the merges, and the added tokens."""
    if path := _combined(vocab, merges):
        words, pairs = _read_combined(path)
    else:
        words, pairs, path = _ids(read_object(vocab), vocab, 0), _read_merges(merges), added_file(vocab)
        _check_merges(words, pairs, vocab, merges)
    added = {word: AddedToken(word) for word, i in words.items() if i > words.get(END, i)}
    if path is not None:
        tokens = _read_added(path)
        if clash := next((word for word, (i, _) in tokens.items() if word in words and words[word] != i), None):
            raise UsageError(f"{path}: token {clash!r} has id {tokens[clash][0]!r}, but {words[clash]} in {vocab.name}")
        new = {word: i for word, (i, _) in tokens.items() if word not in words}
        words = words | _ids(new, path, len(words))
        added |= {word: tokens[word][1] for word in new}
    return words, pairs, added


def _ids(words: dict[str, Any], path: Path, first: int) -> Vocabulary:
    """The words, after a check of their ids."""
    ids = list(words.values())
    if not all(type(i) is int for i in ids) or sorted(ids) != list(range(first, first + len(ids))):
        last = first + len(ids) - 1
        raise UsageError(f"{path}: must map each token to its id, {first} to {last} once each")
    return words


def _check_merges(words: Vocabulary, pairs: Merges, vocab: Path, merges: Path) -> None:
    """Check that each token is a byte, is made by a merge, or comes after the end token, as added ones do."""
    made, end = {START, END, *(left + right for left, right in pairs)}, words.get(END, len(words))
    orphans = (word for word, i in words.items() if i <= end and len(word.removesuffix(WORD_END)) > 1)
    if orphan := next((word for word in orphans if word not in made), None):
        raise UsageError(f"{merges}: no merge makes {orphan!r}, which is in {vocab}; the file is incomplete")


def _read_combined(path: Path) -> tuple[Vocabulary, Merges]:
    """The contents of a `tokenizer.json`. Merges are pairs, or in older files strings of two symbols with a space."""
    try:
        model = read_object(path)["model"]
        merges = [tuple(pair.split(" ")) if isinstance(pair, str) else tuple(pair) for pair in model["merges"]]
        return _ids(dict(model["vocab"]), path, 0), [(left, right) for left, right in merges]
    except (ValueError, KeyError, TypeError):
        raise UsageError(f"{path}: is not a CLIP vocabulary in the format of transformers") from None


def _read_added(path: Path) -> dict[str, tuple[Any, AddedToken]]:
    """The tokens with their ids in an `added_tokens.json`, or in the `added_tokens` of a `tokenizer.json`."""
    content = read_object(path)
    try:
        if path.name != COMBINED:
            return {word: (i, AddedToken(word)) for word, i in content.items()}
        return {
            entry["content"]: (
                entry["id"],
                AddedToken(entry["content"], **{key: entry.get(key, False) for key in _FLAGS}),
            )
            for entry in content.get("added_tokens") or []
        }
    except (KeyError, TypeError, AttributeError):
        raise UsageError(f"{path}: the added tokens are not in the format of transformers") from None


def _read_merges(path: Path) -> Merges:
    pairs: Merges = []
    for number, line in enumerate(read_text(path).split("\n"), start=1):
        if (number == 1 and line.startswith("#version")) or not line:
            continue
        left, _, right = line.partition(" ")
        if not right or " " in right:
            raise UsageError(f"{path}: line {number} must be two symbols separated by a space, got {line!r}")
        pairs.append((left, right))
    return pairs
