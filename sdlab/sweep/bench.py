"""The bench: a loaded model and its metrics. What all cells share is computed once, when the bench is opened."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from math import ceil
from pathlib import Path
from time import perf_counter

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

import samplers
from sdlab import guidance
from sdlab.backends.inversion import round_trip
from sdlab.guidance.guided import Seen
from sdlab.metrics import Batch, Measurement, Meters, Result, Run, Tools
from sdlab.metrics.base import given
from sdlab.metrics.reference_error import distance
from sdlab.picture import read_picture, to_bytes
from sdlab.pipeline import NotFinite, tail
from sdlab.plugins import Boundary, CodeError
from sdlab.sweep import plane
from sdlab.sweep.cell import Cell
from sdlab.sweep.first_calls import FirstCalls
from sdlab.sweep.flow_ends import FOLLOWED, FlowEnds
from sdlab.sweep.needs import needs
from sdlab.sweep.pass_clock import PassClock, wait
from sdlab.sweep.passes import REFERENCE, grids_of
from sdlab.sweep.plan import Pictures, Plan
from sdlab.sweep.previews import SIDE, Estimates, Previews
from sdlab.sweep.prompts import picture_set
from sdlab.sweep.results import CellFailed, CellResult
from sdlab.sweep.times import Times, of_batches
from sdlab.system.device import enough_memory
from sdlab.system.errors import SdlabError
from sdlab.system.limits import GALLERY
from sdlab.system.memory import PeakMemory
from sdlab.system.output import remark

_THUMBNAILS = 8  # pictures of a cell on the contact sheet
_SIDE = 256  # pixels per side of a thumbnail, at most
_MEASURED = 64  # images per batch of the metrics, whatever the batch size of sampling; values depend on neither


class ModelBench:
    """Measures the cells of one plan."""

    def __init__(self, plan: Plan) -> None:
        """Load the model and the metrics, encode prompts and input pictures, and warm up.

        Raises:
            UsageError: the model or a metric cannot be loaded.
            RunError: a file is damaged.
        """
        self.plan, self.opened = plan, plan.opened
        dtype = getattr(torch, plan.dtype)
        self._first = FirstCalls() if plan.opened.repeatable else None
        needed = needs(plan)
        self._networks = needed.networks
        self.backend = plan.opened.load(plan.device, dtype, plan.compile, needed.networks, needed.gradients)
        for prompt in dict.fromkeys((*plan.prompts, plan.negative, *needed.prompts)):
            if cut := self.backend.cut(prompt):
                remark(f"note: the prompt {prompt!r} is too long for the text encoder; its end is ignored: {cut!r}")
        self.context, self.uncond = self.backend.contexts(plan.prompts, plan.negative)
        self.pictures: Tensor | None = None  # (U, 3, H, W), each input picture once, and white for prompts without one
        side = self.opened.image_size
        if plan.pictures is not None:
            assert side is not None
            self.pictures, self.input_of = _read(plan.pictures, len(plan.prompts), side)
            self.init = self.backend.encode_image(self.pictures)
        self.captions = plan.captions
        size = None if side is None else (side, side)
        tools = Tools(size, self.backend.clip, plan.metric_files, plan.device)
        self.meters = Meters(plan.measures, tools)
        whole = list(range(plan.images))
        batches = [whole[k : k + plan.batch] for k in range(0, plan.images, plan.batch)]
        self.flow_ends = FlowEnds(
            self.backend, self._contexts, batches, plan.seed, plan.reference_steps, grids_of(plan)
        )
        self._warm_up()

    @property
    def prompts(self) -> Sequence[str]:
        """The prompts of the thumbnails, or their seeds if the model ignores prompts, or what each of them shows."""
        if self._in_plane:
            return plane.HEADINGS
        if not self.plan.prompts:
            return [f"seed {self.plan.seed + i}" for i in range(self._shown)]
        return [self._prompt(i) for i in range(self._shown)]

    @property
    def inputs(self) -> NDArray[np.uint8] | None:
        """The input pictures of the thumbnails, (K, H, W, 3), white for images without one."""
        return None if self.pictures is None else self._small(self._of_prompts(list(range(self._shown)))).numpy()

    def real(self) -> dict[str, tuple[float, float]]:
        """The values of the metrics on real pictures, as far as there are any: renders, or those of the reference."""
        found = self.meters.real(self.plan.images)
        return {name: (result.value, result.stderr or 0.0) for name, result in found.items()}

    def run(self, cell: Cell, on_progress: Callable[[float], None], images: range) -> CellResult:
        """Sample these images of a cell, batch by batch, and measure them.

        Raises:
            CellFailed: a sampler, custom code or a metric failed, a model returned NaN, or memory ran out.
        """
        with _failing():
            return self._run(cell, on_progress, images)

    def time(self, cell: Cell, on_progress: Callable[[float], None]) -> Times:
        """Draw the first batch of a cell once more, and measure only the time. One repetition, without the metrics.

        Raises:
            CellFailed: as for `run`.
        """
        with _failing():
            boundary = Boundary()
            report, method = boundary.back(on_progress), self._method(cell, boundary)
            strength, indices = self._batches(cell, range(self.plan.images_of(cell)))[0]
            return self._sample(
                method, strength, indices, boundary, lambda i, _: report(i / len(method.sigmas)), share=False
            )[2]

    def _method(self, cell: Cell, boundary: Boundary) -> _Method:
        with boundary.crossed():
            return _Method(
                samplers.make(cell.sampler.name, **cell.sampler.options),
                guidance.make(cell.guidance.name, **cell.guidance.options),
                samplers.grid(cell.grid.name, steps=cell.steps, levels=self.backend.levels, **cell.grid.options),
                self.plan.seed_of(cell),
            )

    def _run(self, cell: Cell, on_progress: Callable[[float], None], images: range) -> CellResult:
        plan, boundary, memory = self.plan, Boundary(), PeakMemory(self.plan.device)
        report, method = boundary.back(on_progress), self._method(cell, boundary)
        sigmas = method.sigmas
        with boundary.crossed():
            fitted = method.sampler.with_levels(self.backend.levels)

        def flow_ends() -> Tensor:
            with boundary.crossed():
                return self.flow_ends.of(cell.guidance, sigmas, on_step=lambda: report(0.0))

        def there_and_back(indices: Sequence[int], samples: Tensor, keeps_memory: bool) -> Tensor:
            return self._round_trip(method, indices, samples, keeps_memory, boundary)

        units = plan.units[: images.stop]
        run = Run(len(images), fitted, sigmas, self.opened.law, self.opened.classes, flow_ends, there_and_back, units)
        feed = _Feed(self.meters.start(run), self._batch)
        thumbnails: dict[int, Tensor] = {}
        batches = self._batches(cell, images)
        states: list[list[Tensor]] = [[] for _ in sigmas[1:]]  # after each step, of the batches, in the plane
        followed: list[list[Tensor]] = [[] for _ in sigmas[1:]]  # the same of the first images, if their flow is known
        times, measuring, previews = list[tuple[int, Times]](), 0.0, Previews()
        for k, (strength, indices) in enumerate(batches):
            first = sum(i < FOLLOWED for i in indices) if REFERENCE in plan.metrics and not images.start else 0

            def on_step(i: int, x: Tensor, k: int = k, first: int = first) -> None:
                report((k + (i + 1) / len(sigmas)) / len(batches))
                if self._in_plane:
                    states[i].append(x.cpu())
                if first:
                    followed[i].append(x[:first].cpu())

            previewed = (
                k == 0 and images.start == 0 and self.opened.draws_pictures
            )  # the first image is in the first batch
            estimates = Estimates(tail(sigmas, strength)) if previewed else None
            watched = None if estimates is None else estimates.add
            samples, pictures, spent = self._sample(method, strength, indices, boundary, on_step, watched)
            if estimates is not None and pictures is not None:
                previews = self._previews(estimates, sigmas[-1], pictures[:1], boundary)
            times.append((len(indices), spent))
            start = perf_counter()
            feed.add(indices, samples, pictures)
            measuring += perf_counter() - start
            if pictures is not None:
                shown = [row for row, i in enumerate(indices) if i < self._shown]
                thumbnails |= zip((indices[row] for row in shown), self._small(pictures[shown]), strict=True)
        start = perf_counter()
        results = feed.results()
        measuring += perf_counter() - start
        if self._in_plane and not images.start:
            drawn = plane.draw(torch.stack([torch.cat(x) for x in states]), sigmas, given(self.opened.classes))
            thumbnails = dict(enumerate(map(torch.from_numpy, drawn)))
        on_progress(1.0)
        return CellResult(
            metrics={name: result.value for name, result in results.items()},
            stderr={name: result.stderr for name, result in results.items() if result.stderr is not None},
            per_image={
                name: result.per_image.numpy() for name, result in results.items() if result.per_image is not None
            },
            replicates={
                name: result.replicates.numpy() for name, result in results.items() if result.replicates is not None
            },
            network_passes=sum(size * spent.passes[0] for size, spent in times) / len(images),
            times=of_batches(times, measuring / len(images)),
            thumbnails=_stacked([thumbnails[i] for i in sorted(thumbnails)]),
            peak_memory=memory.size,
            error_path=self._error_path(cell, sigmas, followed, boundary),
            previews=previews,
        )

    def _previews(self, estimates: Estimates, last: float, picture: Tensor, boundary: Boundary) -> Previews:
        """The pictures of the estimates, and the image itself. None if an estimate cannot be decoded."""
        try:
            with boundary.crossed():
                some = [x0 for _, x0 in estimates.found]  # none at strength 0
                found = self.backend.decode(torch.cat(some)) if some else None
        except NotFinite:
            return Previews()
        pictures = torch.cat([*([] if found is None else [found]), picture])
        levels = (*(level for level, _ in estimates.found), last)
        return Previews(levels, _bytes(pictures, SIDE).numpy())

    def _error_path(
        self, cell: Cell, sigmas: Sequence[float], followed: Sequence[Sequence[Tensor]], boundary: Boundary
    ) -> NDArray[np.float64]:
        """The levels after the steps of a cell, and the mean distance of its first images to the flow at each, (2, S).

        Empty unless the flow is known, and for images after the first ones.
        """
        if not all(followed):
            return np.empty((2, 0))
        with boundary.crossed():
            flow = self.flow_ends.along(cell.guidance, sigmas)
        found = [
            (level, float(distance(states, flow[level][: len(states)].cpu()).mean()))
            for level, states in zip(sigmas[1:], (torch.cat([*one]) for one in followed), strict=True)
            if level in flow
        ]
        return np.array(found, dtype=np.float64).T.reshape(2, -1)

    def _sample(
        self,
        method: _Method,
        strength: float,
        indices: list[int],
        boundary: Boundary,
        on_step: Callable[[int, Tensor], object],
        on_denoised: Seen | None = None,
        share: bool = True,
    ) -> tuple[Tensor, Tensor | None, Times]:
        """The samples and the pictures of a batch, and what each part of the work took.

        With `share` the first network call is taken from another cell, if it was made there, and counted all the same.
        """
        clock, start = PassClock(self._first if share else None), perf_counter()
        with self._finite(indices, method.seed), boundary.crossed():
            samples = self.backend.sample(
                *self._contexts(indices),
                method.sampler,
                method.sigmas,
                method.strategy,
                [method.seed + i for i in indices],
                on_step=on_step,
                init=None if strength == 1 else self.init[self._inputs(indices)],
                strength=strength,
                watch=clock.watch,
                on_denoised=on_denoised,
            )
            wait(samples)
            sampled = perf_counter()
            pictures = self.backend.decode(samples)
            if pictures is not None:
                wait(pictures)
        decoded, n = perf_counter(), len(indices)
        times = Times(
            network=(clock.seconds / n,),
            sampler=(max(0.0, sampled - start + clock.saved - clock.seconds) / n,),
            decode=((decoded - sampled) / n,),
            passes=(clock.passes / n,),
        )
        return samples, pictures, times

    def _round_trip(
        self, method: _Method, indices: Sequence[int], samples: Tensor, keeps_memory: bool, boundary: Boundary
    ) -> Tensor:
        """The samples of these images, inverted and drawn again.

        Raises:
            CellFailed: the inversion overflows.
        """
        ends, found = (method.sigmas[0], method.sigmas[-1]), list[Tensor]()
        with boundary.crossed():
            sampler = method.sampler.with_levels(self.backend.levels)
        for k in range(0, len(indices), self.plan.batch):
            some = list(indices[k : k + self.plan.batch])
            back = round_trip(sampler, samples[k : k + self.plan.batch], method.sigmas, keeps_memory)
            seeds = [method.seed + i for i in some]
            try:
                with boundary.crossed():
                    found.append(self.backend.sample(*self._contexts(some), back, ends, method.strategy, seeds))
            except NotFinite:
                raise CellFailed(
                    "the inversion overflows; use fewer steps, or a sampler that is stable both ways"
                ) from None
        return torch.cat(found)

    def _batch(self, indices: list[int], samples: Tensor, pictures: Tensor | None) -> Batch:
        """The batch that the metrics receive."""
        inputs = None if self.pictures is None or pictures is None else self._of_prompts(indices).to(pictures)
        prompts = [self._prompt(i) for i in indices] if self.plan.prompts else None
        captions = [self.captions[i % len(self.captions)] for i in indices] if self.captions else None
        return Batch(indices, pictures, prompts, inputs, samples, captions)

    def _contexts(self, indices: list[int]) -> tuple[Tensor, Tensor]:
        """The conditional and the unconditional contexts, each with one row per image."""
        return self.context[self._rows(indices)], self.uncond.expand(len(indices), *self.uncond.shape[1:])

    def _rows(self, indices: list[int]) -> list[int]:
        return [i % len(self.context) for i in indices]

    def _batches(self, cell: Cell, images: range) -> list[tuple[float, list[int]]]:
        """Batches of images, each with its strength, which is 1 for images without an input picture."""
        alike: dict[float, list[int]] = {}
        for i in images:
            strength = cell.strength if self.plan.starts_from_a_picture(i) else None
            alike.setdefault(1.0 if strength is None else strength, []).append(i)
        size = self.plan.batch
        return [(s, group[k : k + size]) for s, group in alike.items() for k in range(0, len(group), size)]

    def _of_prompts(self, indices: list[int]) -> Tensor:
        """The input pictures of these images."""
        assert self.pictures is not None
        return self.pictures[self._inputs(indices)]

    def _inputs(self, indices: list[int]) -> list[int]:
        """The index of the input picture of each of these images."""
        return [self.input_of[i % len(self.input_of)] for i in indices]

    def _prompt(self, i: int) -> str:
        return self.plan.prompts[i % len(self.plan.prompts)]

    @property
    def _in_plane(self) -> bool:
        """Whether samples are points of the plane from known classes."""
        classes = self.opened.classes
        return classes is not None and classes.mixture.means.shape[1:] == (2,)

    @property
    def _shown(self) -> int:
        """How many pictures of a cell are kept. A sweep without metrics is run for its pictures and keeps more."""
        if not self.opened.draws_pictures:
            return 0
        return min(_THUMBNAILS if self.plan.metrics else GALLERY, self.plan.images)

    def _small(self, pictures: Tensor) -> Tensor:
        """The pictures as bytes (B, H, W, 3). Large ones are scaled down, except in a sweep without metrics."""
        return _bytes(pictures, _SIDE) if self.plan.metrics else to_bytes(pictures)

    @contextmanager
    def _finite(self, indices: list[int], first: int) -> Iterator[None]:
        """Add the seed of the first image with NaN or infinity to the error, and a data type that may help.

        Raises:
            CellFailed: an image has NaN or infinity.
        """
        try:
            yield
        except NotFinite as error:
            seed = first + indices[error.rows[0]]
            which = f"of {len(error.rows)} of {len(indices)} images, the first with seed {seed}"
            raise CellFailed(f"{error} {which}{error.advice(self.plan.dtype)}") from None

    def _warm_up(self) -> None:
        """Run every network once at the size it will be used at, because the first call of a kernel is slow.

        Errors are ignored here. They occur again in the cells, which report them.
        """
        n = min(self.plan.batch, self.plan.images)
        sigmas = (self.backend.levels.sigma_max, self.backend.levels.sigma_min, 0.0)
        contexts, seeds = self._contexts(list(range(n))), list(range(n))
        with suppress(SdlabError), enough_memory(""), Boundary().crossed():
            further = [guidance.make("autoguidance", network=name) for name in self._networks]
            for strategy in (guidance.make("none"), guidance.make("cfg", scale=2.0), *further):
                samples = self.backend.sample(*contexts, samplers.make("euler"), sigmas, strategy, seeds)
            self.backend.decode(samples)


@dataclass(frozen=True)
class _Method:
    """What a cell samples with."""

    sampler: samplers.Sampler
    strategy: guidance.Strategy
    sigmas: tuple[float, ...]
    seed: int  # of image 0


@contextmanager
def _failing() -> Iterator[None]:
    """Turn errors of code and of sdlab into a failure of the cell.

    Raises:
        CellFailed: in place of any of them.
    """
    try:
        with enough_memory("use a smaller batch"):
            yield
    except CodeError as error:
        raise CellFailed(str(error), error.trace) from None
    except SdlabError as error:
        raise CellFailed(str(error)) from None


@dataclass
class _Feed:
    """Passes the images of a cell to its metrics, `_MEASURED` at a time."""

    measurement: Measurement
    batch: Callable[[list[int], Tensor, Tensor | None], Batch]
    indices: list[int] = field(default_factory=list)
    samples: list[Tensor] = field(default_factory=list)
    pictures: list[Tensor] = field(default_factory=list)

    def add(self, indices: list[int], samples: Tensor, pictures: Tensor | None) -> None:
        """Add images."""
        self.indices, self.samples = self.indices + indices, [*self.samples, samples]
        self.pictures += [] if pictures is None else [pictures]
        while len(self.indices) >= _MEASURED:
            self._measure(_MEASURED)

    def results(self) -> dict[str, Result]:
        """The metrics of all images."""
        if self.indices:
            self._measure(len(self.indices))
        return self.measurement.results()

    def _measure(self, count: int) -> None:
        samples, pictures = torch.cat(self.samples), torch.cat(self.pictures) if self.pictures else None
        shown = None if pictures is None else pictures[:count]
        self.measurement.update(self.batch(self.indices[:count], samples[:count], shown))
        # Copies of the rest, because a view, even an empty one, would keep all rows in memory.
        self.indices, self.samples = self.indices[count:], [samples[count:].clone()]
        self.pictures = [] if pictures is None else [pictures[count:].clone()]


def _bytes(pictures: Tensor, side: int) -> Tensor:
    """The pictures as bytes (B, H, W, 3), scaled down to at most `side` pixels per side."""
    return to_bytes(F.avg_pool2d(pictures, ceil(max(pictures.shape[-2:]) / side)))


def _stacked(thumbnails: list[Tensor]) -> NDArray[np.uint8]:
    """(K, H, W, 3)."""
    return torch.stack(thumbnails).numpy() if thumbnails else np.empty((0, 1, 1, 3), np.uint8)


def _read(pictures: Pictures, prompts: int, side: int) -> tuple[Tensor, list[int]]:
    """Each input picture once, (U, 3, side, side), and the index of each prompt's picture among them."""
    if pictures.set is not None:
        return picture_set(pictures.set, prompts), list(range(prompts))
    files = list(dict.fromkeys(pictures.files))
    blank = torch.ones(3, side, side)  # for prompts without a picture
    found = [blank if file is None else read_picture(Path(file), (side, side), pictures.fit) for file in files]
    return torch.stack(found), [files.index(file) for file in pictures.files]
