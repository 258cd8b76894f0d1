"""Worker processes that compute values ahead of time.

Each worker has a pipe of its own and no lock is shared, so a worker that is killed at any moment ends its pipe and
nothing waits for it. (PyTorch's DataLoader shares locks among processes: one that is killed while it holds a lock can
leave the training process waiting for good.)
"""

from __future__ import annotations

import io
import multiprocessing
import pickle
from collections import deque
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any

import torch

from sdlab.system.errors import RunError
from sdlab.system.interrupts import ctrl_c_blocked

_AHEAD = 2  # values per worker that are received before they are needed


def computed_ahead(
    function: Callable[[int], Any], arguments: Sequence[int], workers: int
) -> Generator[Any, None, None]:
    """The values of `function` at `arguments`, in order, from `workers` processes that take turns.

    Raises:
        RunError: a worker has ended before its work was done.
    """
    # A forked process can neither use CUDA nor rely on locks that other threads held.
    context = multiprocessing.get_context("spawn")
    pipes: list[Connection] = []
    processes: list[BaseProcess] = []
    try:
        with ctrl_c_blocked():
            for first in range(workers):
                receiver, sender = context.Pipe(duplex=False)
                _widen(sender)
                process = context.Process(target=_work, args=(sender, function, arguments[first::workers]), daemon=True)
                process.start()
                sender.close()  # the worker holds the only other end, so that the pipe ends with it
                pipes.append(receiver)
                processes.append(process)
        # The thread receives in the background while the caller trains.
        with ThreadPoolExecutor(1) as thread:
            received = (thread.submit(_receive, pipes[turn % workers]) for turn in range(len(arguments)))
            ahead = deque(next(received) for _ in range(min(_AHEAD * workers, len(arguments))))
            try:
                for turn in range(len(arguments)):
                    try:
                        value = ahead.popleft().result()
                    except (EOFError, OSError):  # the second in the middle of a value
                        raise _ended(processes[turn % workers]) from None
                    ahead.extend(submitted for submitted in [next(received, None)] if submitted is not None)
                    yield value
            finally:
                for worker in processes:
                    worker.terminate()  # which also ends the thread
    finally:
        for worker in processes:
            worker.kill()
            worker.join()
        for pipe in pipes:
            pipe.close()


def _widen(pipe: Connection) -> None:
    """Let the pipe hold 1 MiB where the system allows it: a batch is handed over in fewer parts."""
    with suppress(ImportError, AttributeError, OSError):
        import fcntl

        fcntl.fcntl(pipe.fileno(), fcntl.F_SETPIPE_SZ, 1 << 20)


def _ended(process: BaseProcess) -> RunError:
    process.join()
    if process.exitcode is not None and process.exitcode > 0:
        return RunError("a process that draws batches failed; its traceback is printed above")
    return RunError("a process that draws batches was ended from outside; the same command continues")


def _receive(pipe: Connection) -> Any:
    return pickle.loads(pipe.recv_bytes())


def _work(pipe: Connection, function: Callable[[int], Any], arguments: Sequence[int]) -> None:
    """Send the values of `function`, until the training process no longer takes them."""
    torch.set_num_threads(1)
    for argument in arguments:
        message = io.BytesIO()
        _Pickler(message, pickle.HIGHEST_PROTOCOL).dump(function(argument))
        try:
            pipe.send_bytes(message.getbuffer())
        except BrokenPipeError:
            return


class _Pickler(pickle.Pickler):
    """Tensors as arrays, which take a tenth of the time."""

    def reducer_override(self, value: Any) -> Any:
        if isinstance(value, torch.Tensor):
            return torch.from_numpy, (value.numpy(),)
        return NotImplemented
