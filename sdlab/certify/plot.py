"""Plots of certificates: error against network passes, and sampling paths."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from functools import cache
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

import samplers
from samplers.denoiser import Counted
from samplers.exact import GaussianMixture
from sdlab.certify.accuracy import PASSES
from sdlab.certify.certificate import Certificate
from sdlab.certify.problems import MIXTURE, use_grid
from sdlab.certify.subjects import FAMILIES, OTHER
from sdlab.report.figures import log_axis, tidy
from sdlab.system.files import replacing

_MARKERS = "osD^vPX*<>"
_STROKES = ("-", (0, (4, 2)), (0, (1, 1.5)))  # so that coinciding lines stay visible
_PATH_STEPS, _PATHS = 8, 4


def plot_errors(certificates: Sequence[Certificate], path: Path) -> None:
    """One panel per family: W₂ to the Gaussian against network passes, or W₁ on the mixture without an exact law.

    Raises:
        RunError: the file cannot be written.
    """
    lines = [one for one in certificates if one.accuracy]
    families = [title for title in (*FAMILIES, OTHER) if any(one.family == title for one in lines)]
    columns = min(4, max(len(families), 1))
    rows = math.ceil(len(families) / columns) or 1
    figure = Figure(figsize=(3.6 * columns, 3.1 * rows + 0.4), layout="constrained")
    panels = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
    for panel, title in zip(panels.flat, families, strict=False):
        _panel(panel, title, [one for one in lines if one.family == title], lines)
    for panel in list(panels.flat)[len(families) :]:
        panel.set_visible(False)
    for panel in panels[:, 0]:
        panel.set_ylabel("distance to the data / its spread")
    for k, panel in enumerate(panels.flat):
        if len(families) - columns <= k < len(families):
            panel.set_xlabel("network passes")
            panel.tick_params(labelbottom=True)
    _save(figure, path, dpi=110)


def _panel(axes: Axes, title: str, ours: Sequence[Certificate], all_: Sequence[Certificate]) -> None:
    for one in all_:
        axes.plot(*_line(one), color="0.88", linewidth=0.8, zorder=0)
    for k, one in enumerate(ours):
        axes.plot(
            *_line(one), color=colormaps["tab10"](k % 10), marker=_MARKERS[k % len(_MARKERS)],
            linestyle=_STROKES[k % len(_STROKES)], markersize=4, linewidth=1.6, label=one.name,
        )  # fmt: skip
    axes.set(yscale="log", ylim=(5e-4, 20))
    log_axis(axes.xaxis, PASSES)
    axes.minorticks_off()
    axes.set_title(title, loc="left", fontsize=10)
    tidy(axes)
    axes.legend(fontsize=7, frameon=False, loc="upper right", handlelength=2.6, labelspacing=0.25)


def _line(one: Certificate) -> tuple[list[int], list[float]]:
    points = {a.passes: a.mixture if math.isnan(a.gaussian) else a.gaussian for a in one.accuracy}
    return list(points), list(points.values())


def plot_paths(names: Sequence[str], path: Path) -> None:
    """One small panel per sampler: its paths on the mixture in eight steps, over the exact flow in grey.

    Raises:
        RunError: the file cannot be written.
    """
    columns = min(4, len(names))
    rows = math.ceil(len(names) / columns)
    figure = Figure(figsize=(2.6 * columns, 2.95 * rows), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False)
    for panel, name in zip(panels.flat, names, strict=False):
        _draw_paths(panel, name)
    for panel in list(panels.flat)[len(names) :]:
        panel.set_visible(False)
    _save(figure, path, dpi=90)


def _draw_paths(axes: Axes, name: str) -> None:
    """In x/√(1 + σ²), where noise and data have the same scale."""
    sigmas, exact, levels = use_grid(_PATH_STEPS), *_exact_paths()
    states, noise = [exact[0]], samplers.brownian_path(range(_PATHS))
    samplers.run(samplers.make(name), Counted(MIXTURE.denoise), exact[0], sigmas, noise, lambda _, x: states.append(x))
    _density(axes, MIXTURE)
    for i in range(_PATHS):
        colour = colormaps["tab10"](i)
        axes.plot(*_scaled(exact, levels, i), color="0.5", linewidth=1.0)
        axes.plot(*_scaled(states, sigmas, i), color=colour, linewidth=1.0, marker="o", markersize=2)
        axes.plot(*states[-1][i].tolist(), "o", color=colour, markersize=4.5, markeredgecolor="k", markeredgewidth=0.7)
    axes.set(xlim=(-2.1, 2.1), ylim=(-2.1, 2.1), xticks=[], yticks=[], aspect="equal")
    axes.set_title(name, fontsize=9)


@cache
def _exact_paths() -> tuple[list[Tensor], tuple[float, ...]]:
    """The exact flow from starts on a circle, and its levels."""
    levels = samplers.continuous_levels(1e-3, use_grid(1)[0])
    fine = samplers.grid("karras", steps=40, levels=levels, ending="stop_at_sigma_min")
    angle = torch.arange(_PATHS, dtype=torch.float64) * (math.tau / _PATHS) + 0.4
    path = [1.3 * fine[0] * torch.stack([angle.cos(), angle.sin()], 1)]
    for sigma, sigma_next in pairwise(fine):
        path.append(MIXTURE.flow(path[-1], sigma, sigma_next, rtol=1e-6))
    return path, fine


def _scaled(states: Sequence[Tensor], sigmas: Sequence[float], image: int) -> list[list[float]]:
    """The two coordinates of an image over √(1 + σ²), at every level."""
    points = [(x[image] / math.hypot(1, sigma)).tolist() for x, sigma in zip(states, sigmas, strict=True)]
    return [list(values) for values in zip(*points, strict=True)]


def _density(axes: Axes, problem: GaussianMixture) -> None:
    side = np.linspace(-2.1, 2.1, 81)
    points = torch.from_numpy(np.stack(np.meshgrid(side, side), -1).reshape(-1, 2))
    weights, stds = torch.as_tensor(problem.weights), torch.as_tensor(problem.stds)
    gaps = (points[:, None] - problem.means).square().sum(2)
    density = (weights / stds**2 * torch.exp(-gaps / (2 * stds**2))).sum(1).sqrt().reshape(81, 81).numpy()
    axes.contourf(side, side, density, levels=6, cmap="Greys", alpha=0.35)


def _save(figure: Figure, path: Path, dpi: int) -> None:
    """Save as a PNG with 256 colours, a quarter of the size."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi)
    with replacing(path) as draft:
        Image.open(buffer).convert("RGB").quantize(256).save(draft, format="PNG", optimize=True)
