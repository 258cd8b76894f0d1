"""Token embeddings padded at the end, as training tools do for speed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from sdlab.weights.layouts import Content
from sdlab.weights.stored_tensor import StoredTensor

_MOST = 256  # rows; a larger difference means that the vocabulary belongs to another model


def without_padding(content: Content, tokens: int, path: Path) -> Content:
    """The content with the embeddings of the `tokens` of the vocabulary alone, and a note if some were dropped.

    `path` is the file of the text encoder, for the note.
    """
    config, clip = content.config, content.parts["clip"]
    name = "text.token.weight" if config.vision else "token.weight"
    if (found := unpadded(clip.get(name), config.text.vocab_size, tokens, path)) is None:
        return content
    table, note = found
    return Content(
        replace(config, text=replace(config.text, vocab_size=tokens)),
        {**content.parts, "clip": {**clip, name: table}},
        (*content.notes, note),
    )


def unpadded(table: StoredTensor | None, stated: int, tokens: int, path: Path) -> tuple[StoredTensor, str] | None:
    """The embeddings of the `tokens` of the vocabulary, which come first in a table of more, and a note for the user.

    None if there are fewer embeddings than tokens, or too many for padding. `stated` is the size of the vocabulary
    in the configuration, and `path` the file of the text encoder, for the note.
    """
    rows = table.shape[0] if table is not None and len(table.shape) == 2 else 0
    # The configuration may give either number: some tools pad the tensor alone.
    if table is None or stated not in (tokens, rows) or not 0 < rows - tokens <= _MOST:
        return None
    note = (
        f"{path.name}: ignored the last {rows - tokens} of {rows} token embeddings; the vocabulary has {tokens} tokens"
    )
    return replace(table, shape=(tokens, *table.shape[1:])), note
