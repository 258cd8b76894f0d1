"""Logarithmic axes have plain numbers at ticks that do not overlap."""

import pytest
from matplotlib.figure import Figure

from sdlab.report.figures import log_axis


def labels(places: list[float], low: float, high: float) -> list[str]:
    """The labels of the ticks between `low` and `high`, as they are drawn."""
    axes = Figure().add_subplot()
    log_axis(axes.xaxis, places)
    axes.set_xlim(low, high)
    assert axes.get_xscale() == "log"
    assert axes.get_yscale() == "linear"
    ticks = [tick for tick in axes.get_xticks() if low <= tick <= high]
    return [axes.xaxis.get_major_formatter()(tick) for tick in ticks]


@pytest.mark.parametrize(
    ("places", "wanted"),
    [
        ([5, 10, 20], ["5", "10", "20"]),
        ([5, 19, 20], ["5", "20"]),  # 19 would be printed over 20
        ([5, 18, 20, 158], ["5", "20"]),  # 158 is outside, and 18 is near 20 on so long an axis
        ([], ["5", "10", "20", "50"]),
        (list(range(5, 50)), ["5", "10", "20", "50"]),
    ],
    ids=["given", "too close", "too close on a long axis", "none given", "too many"],
)
def test_ticks(places: list[float], wanted: list[str]):
    assert labels(places, 4, 60) == wanted


def test_the_vertical_axis_can_be_logarithmic_alone():
    axes = Figure().add_subplot()
    log_axis(axes.yaxis)
    assert (axes.get_xscale(), axes.get_yscale()) == ("linear", "log")
