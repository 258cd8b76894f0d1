"""Token embeddings padded at the end, as training tools do for speed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from sdlab.weights.layouts import Content

_MOST = 256  # rows; a larger difference means that the vocabulary belongs to another model


def without_padding(content: Content, tokens: int, path: Path) -> Content:
    """The content with the embeddings of the `tokens` of the vocabulary alone, which come first, and a note if some
    were dropped.

    Nothing changes if there are fewer embeddings than tokens, or too many for padding. `path` is the file of the text
    encoder, for the note.
    """
    config, clip = content.config, content.parts["clip"]
    name = "text.token.weight" if config.vision else "token.weight"
    rows = clip[name].shape[0] if name in clip and len(clip[name].shape) == 2 else 0
    # The configuration may give either number: some tools pad the tensor alone.
    if config.text.vocab_size not in (tokens, rows) or not 0 < rows - tokens <= _MOST:
        return content
    kept = replace(clip[name], shape=(tokens, *clip[name].shape[1:]))
    note = (
        f"{path.name}: ignored the last {rows - tokens} of {rows} token embeddings; the vocabulary has {tokens} tokens"
    )
    return Content(
        replace(config, text=replace(config.text, vocab_size=tokens)),
        {**content.parts, "clip": {**clip, name: kept}},
        (*content.notes, note),
    )
