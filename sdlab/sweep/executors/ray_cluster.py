"""The executor of a Ray cluster: each worker is an actor, which loads the model once."""

from __future__ import annotations

import logging
import os
import signal
import socket
from collections.abc import Collection, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import Field

from sdlab.sweep.executors.base import Job, Outcome, Ready, Task
from sdlab.sweep.executors.pool import Pool
from sdlab.sweep.executors.worker import Message, Worker
from sdlab.system.errors import SdlabError, UsageError

_WAIT = 0.5  # seconds
_PATIENCE = 10  # seconds, for a cluster to answer


@dataclass(frozen=True)
class RayCluster:
    """Workers on a Ray cluster, each with one GPU, or with its share of the processor cores.

    `address` is that of a cluster, like "auto" or "10.0.0.1:6379". Without it Ray takes that of RAY_ADDRESS, or starts
    on this machine. `workers` is their number: by default that of the GPUs, or of the machines for sweeps on the CPU.
    """

    address: str | None = None
    workers: Annotated[int, Field(ge=1, le=10_000)] | None = None

    def check(self) -> None:
        """Whether Ray is installed."""
        try:
            import ray  # noqa: F401
        except ImportError:
            text = "--executor: ray needs a package that is not installed; run: pip install 'sdlab[ray]'"
            raise UsageError(text) from None

    def start(self, job: Job, device: str) -> Pool[_Actor]:
        """Connect to the cluster.

        Raises:
            UsageError: it is not there, or has no GPUs for a sweep on GPUs.
        """
        import ray

        address = self.address or os.environ.get("RAY_ADDRESS")
        if address is not None and (fault := _unreachable(address)):
            raise _no_cluster(f"at {address}", fault)
        before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            ray.init(
                address=self.address,
                include_dashboard=None if self.address else False,
                log_to_driver=False,
                logging_level=logging.ERROR,
            )
        except (ConnectionError, ValueError, RuntimeError, TimeoutError) as error:
            raise _no_cluster(f"at {address}" if address else "here", str(error)) from None
        finally:
            for number, handler in before.items():  # Ray sets its own
                with suppress(ValueError):  # outside the main thread
                    signal.signal(number, handler)
        return Pool(_Engine(job, device, self.workers))


def _unreachable(address: str) -> str:
    """Why nothing answers at an address like "10.0.0.1:6379", for which Ray itself would wait without end."""
    host, _, port = address.rpartition("://")[2].rpartition(":")
    if not port.isdecimal():
        return ""  # like "auto", or an address that Ray refuses itself
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_PATIENCE).close()
    except (OSError, OverflowError, ValueError) as error:
        return getattr(error, "strerror", None) or str(error)
    return ""


def _no_cluster(where: str, fault: str) -> UsageError:
    why = " ".join(fault.split())
    text = f"--executor: there is no Ray cluster {where} ({why[:200].rstrip('. ')})"
    return UsageError(f"{text}; start one with `ray start --head`, or leave out `address` to start one on this machine")


class _Remote:
    """The worker inside its actor, whose second thread answers `share`."""

    def __init__(self, job: Job, device: str) -> None:
        self._job, self._device, self._share = job, device, 0.0

    def ready(self) -> Ready | SdlabError:
        """Load the model."""
        try:
            self._worker = Worker(self._job, self._device)
        except SdlabError as error:
            return error
        return self._worker.ready

    def run(self, task: Task) -> Outcome:
        """Measure a task."""
        self._share = 0.0
        return self._worker.run(task, self._progress)

    def share(self) -> float:
        """The share of the task that is done."""
        return self._share

    def _progress(self, share: float) -> None:
        self._share = share


@dataclass(eq=False)
class _Actor:
    handle: Any
    pending: Any  # the call whose value is waited for, if any


class _Engine:
    """Actors. One that cannot be placed, because the cluster is full, waits until it can."""

    def __init__(self, job: Job, device: str, workers: int | None) -> None:
        import ray

        self._ray, self._job, self._device = ray, ray.put(job), device
        have = ray.cluster_resources()
        gpus, cpus = int(have.get("GPU", 0)), int(have.get("CPU", 1))
        if device == "cuda" and not gpus:
            self.close()
            raise UsageError("--executor: the Ray cluster has no GPUs; add some, or give --device cpu")
        machines = sum(node["Alive"] for node in ray.nodes())
        self.count = workers or (gpus if device == "cuda" else machines)
        needs = {"num_gpus": 1} if device == "cuda" else {"num_cpus": max(1, cpus // self.count)}
        self._kind = ray.remote(**needs, max_concurrency=2, scheduling_strategy="SPREAD")(_Remote)

    def start(self) -> _Actor:
        handle = self._kind.remote(self._job, self._device)
        return _Actor(handle, handle.ready.remote())

    def give(self, worker: _Actor, task: Task) -> None:
        worker.pending = worker.handle.run.remote(task)

    def messages(self, workers: Collection[_Actor]) -> Iterator[tuple[_Actor, Message | None]]:
        ray, waiting = self._ray, {worker.pending: worker for worker in workers if worker.pending is not None}
        done, _ = ray.wait(list(waiting), num_returns=len(waiting), timeout=0)
        if not done:
            done, running = ray.wait(list(waiting), timeout=_WAIT)
            if not done:
                yield from self._shares([waiting[ref] for ref in running])
        for ref in done:
            worker = waiting[ref]
            worker.pending = None
            try:
                yield worker, ray.get(ref)
            except ray.exceptions.RayError:  # it was killed, or its machine is gone
                yield worker, None

    def _shares(self, workers: list[_Actor]) -> Iterator[tuple[_Actor, Message]]:
        """The progress of those that answer at once. One that is not placed or is lost does not."""
        asked = {worker.handle.share.remote(): worker for worker in workers}
        answered, _ = self._ray.wait(list(asked), num_returns=len(asked), timeout=_WAIT)
        for ref in answered:
            with suppress(self._ray.exceptions.RayError):
                yield asked[ref], self._ray.get(ref)

    def stop(self, worker: _Actor) -> None:
        with suppress(Exception):  # of a cluster that is gone
            self._ray.kill(worker.handle)

    def close(self) -> None:
        with suppress(Exception):
            self._ray.shutdown()
