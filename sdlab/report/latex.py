r"""Tables for papers: LaTeX with booktabs. The text is ASCII and compiles with any engine."""

from __future__ import annotations

from sdlab.report.columns import BEST, Field, Table
from sdlab.system.text import shown

# Characters that LaTeX reads as commands, that fonts lack, or that join with their neighbours. Brackets and stars are
# in braces, since they are arguments of \\ at the beginning of a row.
_SPECIAL = {
    "\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}",
    ">": r"\textgreater{}", "|": r"\textbar{}", "`": r"\textasciigrave{}", "'": r"{'}", '"': r"{''}", "-": r"{-}",
    "?": r"{?}", "!": r"{!}", "[": r"{[}", "]": r"{]}", "*": r"{*}",
    **{letter: f"\\{letter}" for letter in "&%$#_{}"},
    "±": r"$\pm$", "×": r"$\times$", "÷": r"$\div$", "·": r"$\cdot$", "−": r"$-$", "–": "--", "—": "---",
    "…": r"\ldots{}", "★": r"$\star$", "≈": r"$\approx$", "≤": r"$\le$", "≥": r"$\ge$", "∞": r"$\infty$",
    "↑": r"$\uparrow$", "↓": r"$\downarrow$", "√": r"$\surd$", "′": r"$'$", "✓": r"$\surd$", "✗": r"$\times$",
    "²": r"$^2$", "³": r"$^3$", "₂": r"$_2$", "“": "``", "”": "''", "‘": "`", "’": "'", "§": r"\S{}",
    "α": r"$\alpha$", "β": r"$\beta$", "η": r"$\eta$", "λ": r"$\lambda$", "ρ": r"$\rho$", "σ": r"$\sigma$",
    "Δ": r"$\Delta$", "μ": r"$\mu$", "τ": r"$\tau$",
}  # fmt: skip
_FRAME = r"""%% \usepackage{booktabs}
\begin{table}
\centering
\caption{%s}
\begin{tabular}{%s}
\toprule
%s \\
\midrule
%s
\bottomrule
\end{tabular}
\par\smallskip
\begin{minipage}{\linewidth}\footnotesize
%s
\end{minipage}
\end{table}
"""


def latex(table: Table) -> str:
    """The table as a float, with the caption as notes below it."""
    columns = table.for_people
    form = "".join("l" if column.left else "r" for column in columns)
    head = " & ".join(escaped(column.heading) for column in columns)
    rows = zip(*(column.fields for column in columns), strict=True)
    body = "\n".join(f"{' & '.join(map(_field, row))} \\\\" for row in rows)
    return _FRAME % (escaped(table.title), form, head, body, "\n\n".join(map(escaped, table.legend())))


def _field(one: Field) -> str:
    text = escaped(str(one))
    return f"\\textbf{{{text}}}" if one.mark == BEST else text


def escaped(text: str) -> str:
    r"""Text that LaTeX prints as it is. Letters that it may lack are written as escapes like `\u4e2d`."""
    return "".join(map(_letter, shown(text)))


def _letter(letter: str) -> str:
    if (known := _SPECIAL.get(letter)) is not None:
        return known
    if letter.isascii():
        return letter
    return _SPECIAL["\\"] + letter.encode("unicode_escape").decode("ascii")[1:]
