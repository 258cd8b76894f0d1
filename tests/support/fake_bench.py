"""A bench that returns fixed, made-up values, and a sweep file for it."""

import hashlib
from collections.abc import Callable
from dataclasses import replace

import numpy as np

import samplers
from sdlab.sweep.cell import Cell
from sdlab.sweep.passes import network_passes
from sdlab.sweep.plan import Plan
from sdlab.sweep.results import CellFailed, CellResult
from sdlab.sweep.times import Times

LEVELS = samplers.discrete_levels()
TOML = """
model = "scenes"
images = 16
device = "cpu"
metrics = ["fid", "clip_score"]
[prompts]
list = ["a red circle", "a blue star", "a green moon"]
[cells]
sampler = ["ddim", "heun"]
guidance = ["none", { name = "cfg", scale = 3.0 }]
steps = [5, 10]
"""


def random(text: str) -> np.random.Generator:
    return np.random.default_rng(int(hashlib.sha256(text.encode()).hexdigest()[:8], 16))


def result(cell: Cell, images: int = 16) -> CellResult:
    passes = network_passes(cell, LEVELS)
    score = 25 - 10 / max(passes, 1) + random("all").normal(size=images) + 0.1 * random(cell.label).normal(size=images)
    noise = -10.0 * (cell.strength or 0.0) + random("psnr").normal(size=images)
    return CellResult(
        metrics={"fid": 10 + 100 / max(passes, 1), "clip_score": float(score.mean()), "psnr": float(noise.mean())},
        stderr={"fid": 1.5},
        per_image={"clip_score": score, "psnr": noise},
        replicates={"fid": np.stack([random("fid").normal(size=images), np.zeros(images)])},
        network_passes=passes,
        times=replace(times(cell, 3), metrics=0.02 * passes / 9),
        thumbnails=random(cell.label).integers(0, 255, (3, 8, 8, 3), dtype=np.uint8),
    )


def times(cell: Cell, repetitions: int = 1) -> Times:
    passes = network_passes(cell, LEVELS)
    zeros = (0.0,) * repetitions
    return Times((0.02 * passes,) * repetitions, zeros, zeros, (passes,) * repetitions)


class FakeBench:
    """Remembers which cells it ran; `before` may do anything in the middle of a cell."""

    def __init__(self, before: Callable[[Cell], object] = lambda cell: None) -> None:
        self.before, self.ran, self.timed = before, list[str](), list[str]()
        self.prompts = ["a red circle", "a blue star", "a green moon"]
        self.inputs: np.ndarray | None = None

    def real(self) -> dict[str, tuple[float, float]]:
        return {"fid": (3.25, 0.5), "clip_score": (31.0, 0.25)}

    def run(self, cell: Cell, on_progress: Callable[[float], None], images: range) -> CellResult:
        on_progress(0.5)
        self.before(cell)
        on_progress(1.0)
        self.ran.append(cell.label)
        return result(cell)

    def time(self, cell: Cell, on_progress: Callable[[float], None]) -> Times:
        on_progress(0.5)
        self.before(cell)
        self.timed.append(cell.label)
        return times(cell)


def no_bench(plan: Plan) -> FakeBench:
    raise AssertionError("the bench was opened")


def fail_on(label: str, reason: str) -> Callable[[Cell], None]:
    def before(cell: Cell) -> None:
        if cell.label == label:
            raise CellFailed(reason)

    return before
