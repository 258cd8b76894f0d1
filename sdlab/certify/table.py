"""Certificates as a table and as JSON."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path

from rich.table import Table
from rich.text import Text

import sdlab
from sdlab.certify.accuracy import PASSES, Accuracy, floor
from sdlab.certify.certificate import Certificate
from sdlab.certify.fit import Fit
from sdlab.certify.orders import Orders
from sdlab.system.files import replacing
from sdlab.system.text import shown


def table(certificates: Sequence[Certificate]) -> Table:
    """One row per sampler with its default options. Its other option sets are counted, with the failures among them."""
    found = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    found.add_column("sampler", no_wrap=True)
    for header in ("claims", "order", "paths", "states", *map(str, PASSES)):
        found.add_column(header, justify="right")
    found.add_column("options")
    found.add_column("")
    for name in dict.fromkeys(certificate.name for certificate in certificates):
        plain, *others = [certificate for certificate in certificates if certificate.name == name]
        bad = [other for other in others if not other.ok]
        sets = f"{len(others)} more" if others and not bad else f"{len(bad)} of {len(others)} fail" if bad else ""
        errors = {one.budget: percent(one) for one in plain.accuracy}
        found.add_row(
            Text(shown(name)),
            str(plain.claimed) if plain.claimed > 0 else "none",
            order_text(plain.orders),
            short(plain.orders.strong) if plain.orders.strong else "",
            "" if plain.memory is None else str(plain.memory),
            *(errors.get(passes, "") for passes in PASSES),
            sets,
            "[green]holds[/]" if plain.ok and not bad else "[red]fails[/]",
        )
    return found


def legend() -> str:
    """The legend below the table."""
    passes = ", ".join(map(str, PASSES))
    return (
        "order: on a Gaussian / a mixture / a steep mixture, * with full memory. For a stochastic sampler, the order "
        "of the variance of its law. paths: order on Brownian paths.\n"
        f"{passes}: distance to the law of the data at that number of network passes, in % of its spread. Exact on a "
        f"Gaussian / from samples on a mixture, where {100 * floor():.2g} % is the sampling error."
    )


def order_text(orders: Orders) -> str:
    """`"2.00 / 2.01 / 2.02"`, `"3.02 / 3.01 / 2.84*"`, `"1.98"`."""
    if orders.weak:
        return short(orders.weak["variance"])
    return " / ".join(map(short, orders.judged.values())) + ("*" if orders.full else "")


def short(one: Fit) -> str:
    """`"2.01"`, without its standard error."""
    return one.text.partition(" ")[0]


def percent(one: Accuracy) -> str:
    """`"2.9 / 2.0"`: the Gaussian, the mixture."""
    return " / ".join(map(_percent, (one.gaussian, one.mixture)))


def _percent(share: float) -> str:
    if math.isnan(share):
        return "–"
    return f"{100 * share:.0f}" if share >= 0.1 else f"{100 * share:.2g}"


def faults(certificates: Sequence[Certificate]) -> list[str]:
    """One line per failed claim."""
    return [f"{one.label}: {check.name}: {check.detail}" for one in certificates for check in one.faults]


def write_json(certificates: Sequence[Certificate], path: Path) -> None:
    """Write all measurements as JSON.

    Raises:
        RunError: the file cannot be written.
    """
    content = {
        "sdlab": sdlab.__version__,
        "mixture_floor": floor(),
        "certificates": [certificate.as_dict() for certificate in certificates],
    }
    with replacing(path) as draft:
        draft.write_text(json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")
