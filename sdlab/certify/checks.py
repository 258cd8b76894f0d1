"""Checks of every sampler, independent of its order: the shape of x, the number of calls, pure steps."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

import samplers
from samplers.denoiser import Counted
from sdlab.certify.problems import MIXTURE, order_grid, use_grid
from sdlab.plugins import explain

_SIZES = (1, 2, 3, 10)


@dataclass(frozen=True)
class Check:
    """One claim and whether it holds, None if it cannot be measured. `detail` is one line on the measurement."""

    name: str
    ok: bool | None
    detail: str


class Broken(Exception):
    """A claim does not hold; the message says where."""


def checks(sampler: samplers.Sampler) -> list[Check]:
    """Run every check. An exception in the sampler fails the check."""
    return [_run(name, check, sampler) for name, check in _CHECKS.items()]


@contextmanager
def measuring(where: str = "") -> Iterator[None]:
    """A block that runs the code of a sampler or strategy.

    Raises:
        Broken: the code raised any error, `SystemExit` included. The message is one line and begins with `where`.
    """
    try:
        yield
    except (Broken, KeyboardInterrupt):
        raise
    except BaseException as error:
        raise Broken(f"{where}{explain(error)}") from error


def calls_of(sampler: samplers.Sampler, sigmas: tuple[float, ...]) -> int:
    """The number of denoiser calls of a run, counted."""
    denoise = Counted(MIXTURE.denoise)
    samplers.run(sampler, denoise, _start(sigmas), sigmas, noise=samplers.seeded([0, 1]))
    return denoise.calls


def memory_of(sampler: samplers.Sampler, steps: int = 12) -> int:
    """The number of states, each of the size of x, that the sampler keeps once its memory is full."""
    sigmas = order_grid(steps)
    x = _start(sigmas)
    kept = [sum(t.numel() for t in _tensors(memory)) // x.numel() for _, memory in _walk(sampler, x, sigmas)]
    return max(kept)


def _run(name: str, check: Callable[[samplers.Sampler], str], sampler: samplers.Sampler) -> Check:
    try:
        with measuring():
            return Check(name, True, check(sampler))
    except Broken as error:
        return Check(name, False, str(error))


def _start(sigmas: tuple[float, ...], dtype: torch.dtype = torch.float64) -> Tensor:
    return sigmas[0] * torch.randn((2, 2), generator=torch.Generator().manual_seed(3), dtype=dtype)


def _walk(sampler: samplers.Sampler, x: Tensor, sigmas: tuple[float, ...]) -> Iterator[tuple[Tensor, Any]]:
    """x and the memory after every step; `Broken` if a step returns an invalid state or modifies its arguments."""
    noise, denoise = samplers.seeded(list(range(len(x)))), Counted(MIXTURE.denoise)
    memory = sampler.prepare(sigmas)
    for i in range(len(sigmas) - 1):
        where = f"step {i + 1} of {len(sigmas) - 1} (sigma {sigmas[i]:.4g} to {sigmas[i + 1]:.4g})"
        before, kept = x.clone(), [(t, t.clone()) for t in _tensors(memory)]
        with measuring(f"{where}: "):
            out = sampler.step(denoise, x, sigmas[i], sigmas[i + 1], memory, noise)
        if not isinstance(out, tuple) or len(out) != 2:
            raise Broken(f"{where}: step must return (x, memory), got {type(out).__name__}")
        if not torch.equal(x, before) or any(not torch.equal(t, old) for t, old in kept):
            raise Broken(f"{where}: step must not modify x or memory in place")
        new, memory = out
        if not isinstance(new, Tensor) or new.shape != x.shape:
            got = tuple(new.shape) if isinstance(new, Tensor) else type(new).__name__
            raise Broken(f"{where}: x must keep its shape {tuple(x.shape)}, got {got}")
        if new.dtype != x.dtype:
            raise Broken(f"{where}: x must stay {x.dtype}, got {new.dtype}")
        if not new.isfinite().all():
            raise Broken(f"{where}: x is not finite")
        x = new
        yield x, memory


def _tensors(memory: Any) -> Iterator[Tensor]:
    if isinstance(memory, Tensor):
        yield memory
    elif isinstance(memory, dict):
        yield from _tensors(list(memory.values()))
    elif isinstance(memory, list | tuple):
        for part in memory:
            yield from _tensors(part)


def _states(sampler: samplers.Sampler) -> str:
    """States are finite and keep the shape and dtype of x, for few and many steps, ending at 0 or above."""
    for dtype in (torch.float64, torch.float32):
        for steps in _SIZES:
            for sigmas in (use_grid(steps), order_grid(steps)):
                for _ in _walk(sampler, _start(sigmas, dtype), sigmas):
                    pass
    return f"finite and of the right shape at {', '.join(map(str, _SIZES))} steps"


def _counts(sampler: samplers.Sampler) -> str:
    """`nfe` returns the actual number of denoiser calls."""
    for steps in _SIZES:
        for sigmas in (use_grid(steps), order_grid(steps)):
            claimed, counted = sampler.nfe(sigmas), calls_of(sampler, sigmas)
            if claimed is not None and claimed != counted:
                raise Broken(f"nfe is {claimed} for {steps} steps to {sigmas[-1]:.4g}, but it made {counted} calls")
    return "equal to nfe" if claimed is not None else "nfe is None: the sampler is adaptive"


def _alone(sampler: samplers.Sampler) -> str:
    """An image has the same result alone and in a batch."""
    sigmas = use_grid(6)
    x = _start(sigmas)
    denoise = Counted(MIXTURE.denoise)
    together = samplers.run(sampler, denoise, x, sigmas, noise=samplers.seeded([0, 1]))
    for i in range(len(x)):
        alone = samplers.run(sampler, denoise, x[i : i + 1], sigmas, noise=samplers.seeded([i]))
        if not torch.allclose(alone, together[i : i + 1], rtol=1e-9, atol=1e-9):
            raise Broken(f"an image differs by {(alone - together[i]).abs().max():.2g} when sampled alone")
    return "each image is independent of its batch"


def _bounded(sampler: samplers.Sampler) -> str:
    """The memory does not grow with the number of steps."""
    few, many = memory_of(sampler), memory_of(sampler, 24)
    if many > few:
        raise Broken(f"keeps {few} states after 12 steps and {many} after 24")
    return f"keeps {few} state{'s' * (few != 1)}"


_CHECKS: dict[str, Callable[[samplers.Sampler], str]] = {
    "states": _states,
    "calls": _counts,
    "images": _alone,
    "memory": _bounded,
}
