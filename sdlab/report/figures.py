"""Figure style: logarithmic axes with plain numbers, few lines, PNG and PDF files."""

from __future__ import annotations

import warnings
from collections.abc import Collection
from pathlib import Path

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.axis import Axis, XAxis
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullFormatter, NullLocator

from sdlab.system.files import replacing
from sdlab.system.text import shown

# For functions that draw: names may contain $, which would start a formula, or be LaTeX in the user's settings.
literal_text = rc_context({"text.parse_math": False, "text.usetex": False, "axes.formatter.use_mathtext": False})
_MOST_TICKS = 12
_LONGEST = 120  # characters of a line of text
_CLOSEST = 0.035  # distance of neighbouring ticks, as a share of all; the labels of closer ones would overlap


def log_axis(axis: Axis, ticks: Collection[float] = ()) -> None:
    """Make an axis logarithmic, with numbers like 20 instead of powers of ten.

    Ticks are at the given values, except those too close to a larger one. Without values, or with too many, they are at
    1, 2 and 5 times the powers of ten.
    """
    (axis.axes.set_xscale if isinstance(axis, XAxis) else axis.axes.set_yscale)("log")
    kept: list[float] = []
    closest = max(1.1, (max(ticks) / min(ticks)) ** _CLOSEST) if ticks else 1.0
    for tick in sorted(ticks, reverse=True):
        if not kept or tick * closest < kept[-1]:
            kept.append(tick)
    few = 0 < len(kept) <= _MOST_TICKS
    axis.set_major_locator(FixedLocator(kept[::-1]) if few else LogLocator(base=10, subs=(1, 2, 5)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_locator(NullLocator())
    axis.set_minor_formatter(NullFormatter())


def tidy(axes: Axes, hidden: Collection[str] = ("top", "right")) -> None:
    """A faint grid, and no frame on the `hidden` sides."""
    axes.grid(alpha=0.25)
    axes.spines[list(hidden)].set_visible(False)


def save(figure: Figure, path: Path, dpi: int) -> None:
    """Write the figure as PNG, or as PDF if the name of the file ends so, with control characters in its texts escaped.

    Lines of text that are far too long for a figure are cut.

    A PDF contains its fonts as outlines that journals accept (TrueType), and no date, so that equal plots are equal.

    Raises:
        RunError: the file cannot be written.
    """
    for text in figure.findobj(Text):
        text.set_text("\n".join(_short(shown(line)) for line in text.get_text().split("\n")))
    with replacing(path) as draft, warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="constrained_layout not applied")  # wide texts are cut at the edge
        warnings.filterwarnings("ignore", message="Glyph")  # a name in a script that the font lacks
        if path.suffix == ".pdf":
            with rc_context({"pdf.fonttype": 42}):
                figure.savefig(draft, format="pdf", metadata={"CreationDate": None})
        else:
            figure.savefig(draft, format="png", dpi=dpi)


def _short(line: str) -> str:
    return line if len(line) <= _LONGEST else f"{line[: _LONGEST - 1]}…"
