"""Certification of several samplers or guidance strategies by name."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import active_children, get_context
from typing import TypeVar

import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

from samplers.checks import unknown
from sdlab import plugins
from sdlab.plugins import Kind
from sdlab.system.errors import RunError, UsageError
from sdlab.system.interrupts import Interrupts, ctrl_c_blocked

T = TypeVar("T")


def registered(kind: Kind, names: Sequence[str]) -> list[str]:
    """The names in the registry of a kind, each once; all of them by default. Those from files are registered first.

    Raises:
        UsageError: a name is unknown, or a file has no entry of the kind.
    """
    plugins.discover()
    known = plugins.REGISTRIES[kind]
    return [_name(kind, name) for name in dict.fromkeys(names)] or list(known)


def _name(kind: Kind, name: str) -> str:
    if plugins.is_path(name):
        plugins.add(kind, name)
    known = plugins.REGISTRIES[kind]
    if name not in known:
        raise UsageError(unknown(kind, name, known))
    return name


def measured(kind: Kind, names: Sequence[str], certify: Callable[[str], T], few: int, console: Console) -> list[T]:
    """What `certify` returns for each name, in order, with a progress bar.

    More than `few` built-in ones are measured two at a time in other processes, which take long to start.

    Raises:
        RunError: one of those processes was ended from outside.
    """
    found: list[T] = []
    columns = TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeElapsedColumn()
    with Progress(*columns, console=console, transient=True) as progress:
        bar = progress.add_task("certifying", total=len(names))
        for one in _in_order(kind, names, certify, few):
            found.append(one)
            progress.advance(bar)
    return found


def _in_order(kind: Kind, names: Sequence[str], certify: Callable[[str], T], few: int) -> Iterator[T]:
    ours = [name for name in names if not plugins.is_custom(kind, name)]
    if len(ours) <= few:
        yield from map(certify, names)
        return
    pool = ProcessPoolExecutor(min(2, os.cpu_count() or 1), get_context("spawn"), torch.set_num_threads, (1,))
    with Interrupts().listening(), pool:
        with ctrl_c_blocked():
            found = {name: pool.submit(certify, name) for name in ours}
        try:
            for name in names:
                yield found[name].result() if name in found else certify(name)
        except BrokenProcessPool:
            raise RunError("a process that certifies was ended from outside, for example as memory ran out") from None
        except BaseException:  # the pool would wait for what its processes are measuring
            for process in active_children():
                process.terminate()
            raise


def verdict(faults: int) -> str:
    """`"every claim holds"`, `"1 claim fails"` or `"2 claims fail"`."""
    return "every claim holds" if not faults else "1 claim fails" if faults == 1 else f"{faults} claims fail"
