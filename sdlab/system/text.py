"""Text from outside, made harmless to show: control and invisible characters become escapes."""

from __future__ import annotations

import codecs
import re

# Control characters, line and paragraph separators, halves of surrogate pairs, and marks without a glyph, which among
# others change the direction of the text. Joiners are kept, since scripts and emoji need them.
_UNSEEN = re.compile(
    "[\x00-\x1f\x7f-\x9f\xad\u061c\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ud800-\udfff\ufeff\ufff9-\ufffb"
    "\U000e0000-\U000e0fff]"
)
_PLAIN = str.maketrans(
    {"±": "+-", "×": "x", "·": "-", "–": "-", "−": "-", "…": "...", "★": "*", "≈": "~", "≤": "<=", "≥": ">=",
     "∞": "inf", "↑": "(up)", "↓": "(down)", "✓": "+", "✗": "x", "σ": "sigma", "Δ": "delta", "“": '"', "”": '"',
     "’": "'"}
)  # fmt: skip


def shown(text: object) -> str:
    r"""The text in one line, with no effect on a terminal: `"a\nb\x1b[2J"` has a backslash and letters for each.

    Characters that move the cursor, end a line, change the direction of the text or cannot be seen are written as in
    Python's string literals. All other text is unchanged.
    """
    return _UNSEEN.sub(lambda found: found[0].encode("unicode_escape").decode("ascii"), str(text))


def encodable(text: str) -> str:
    """The text, with bytes of the command line that Python could not decode read as UTF-8.

    Raises:
        ValueError: the bytes are not UTF-8, or the text contains half of a surrogate pair.
    """
    try:
        return text.encode("utf-8", "surrogateescape").decode("utf-8")
    except UnicodeError:
        raise ValueError(f"{text!r} is not UTF-8 text; write it in UTF-8") from None


def _plainly(error: UnicodeError) -> tuple[str | bytes, int]:
    """Replace what a stream cannot encode by similar letters, or else by an escape."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    part = error.object[error.start : error.end].translate(_PLAIN)
    return part.encode("ascii", "backslashreplace").decode("ascii"), error.end


PLAINLY = "sdlab.plainly"  # an error handler for streams
codecs.register_error(PLAINLY, _plainly)
