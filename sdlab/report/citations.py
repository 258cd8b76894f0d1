"""The sources that a docstring cites, as BibTeX.

A docstring is the one place of a citation: `(Ho et al. 2020, arXiv:2006.11239, eq. 11)`.
"""

from __future__ import annotations

import inspect
import re
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass

from sdlab.report.papers import PROGRAMS, TITLES

_NAME = r"[A-ZÀ-Þ][\w'’-]+"
_SOURCE = r"arXiv:\d{4}\.\d{4,5}|doi:[^\s,;)]+|[a-z][\w-]+"
_CITED = re.compile(rf"({_NAME}(?:(?:, | and | & ){_NAME})*(?: et al\.)?) (\d{{4}}), ({_SOURCE})")


@dataclass(frozen=True)
class Citation:
    """A paper or a program: its authors as cited, its year, and its source, like `"arXiv:2006.11239"`."""

    authors: str
    year: str
    source: str

    @property
    def key(self) -> str:
        """`"ho2020-2006.11239"`."""
        first = re.split(r"[ ,]", self.authors)[0]
        plain = unicodedata.normalize("NFKD", first).encode("ascii", "ignore").decode("ascii").lower()
        number = self.source.rpartition(":")[2].rpartition("/")[2]
        return f"{plain}{self.year}-{number}"

    def bibtex(self) -> str:
        """The entry. It has no title if the source is that of custom code."""
        authors = " and ".join(re.split(r", | and | & ", self.authors.replace(" et al.", " and others")))
        kind, _, number = self.source.partition(":")
        if kind == "arXiv":
            place = {"eprint": number, "archivePrefix": "arXiv", "url": f"https://arxiv.org/abs/{number}"}
        elif kind == "doi":
            place = {"doi": number, "url": f"https://doi.org/{number}"}
        else:
            place = {"url": PROGRAMS[self.source]} if self.source in PROGRAMS else {"note": self.source}
        title = {"title": f"{{{TITLES[self.source]}}}"} if self.source in TITLES else {}
        fields = {**title, "author": authors, "year": self.year, **place}
        return "\n".join([f"@misc{{{self.key},", *(f"  {name} = {{{text}}}," for name, text in fields.items()), "}"])


def citations(entry: Callable[..., object]) -> list[Citation]:
    """The sources in the docstring of a registered class or function, in order, each once."""
    text = " ".join((inspect.getdoc(entry) or "").split())
    return list(dict.fromkeys(Citation(*found) for found in _CITED.findall(text)))
