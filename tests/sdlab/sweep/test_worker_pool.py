"""The pool: every task is run to its end, whatever happens to the workers."""

import io
import sys
from collections import deque
from collections.abc import Callable, Collection, Iterator

import pytest
from fake_bench import TOML, FakeBench
from rich.console import Console
from same_values import assert_same_values

from sdlab.commands.sweep import sweep
from sdlab.sweep.cell import Cell, Choice
from sdlab.sweep.executors.base import Outcome, Ready, Task
from sdlab.sweep.executors.pool import Pool
from sdlab.sweep.executors.registry import EXECUTORS, executor
from sdlab.sweep.executors.worker import Message, measure
from sdlab.sweep.plan import load_plan
from sdlab.sweep.run import run_sweep
from sdlab.system.errors import RunError, UsageError

READY = Ready({"fid": (3.25, 0.5), "clip_score": (31.0, 0.25)}, None, ("note: once",))


def tasks(count: int) -> list[Task]:
    cell = Cell(sampler=Choice(name="euler"), grid=Choice(name="trailing"), guidance=Choice(name="none"), steps=5)
    return [Task(f"key{i}", cell.model_copy(update={"steps": i + 1}), range(4)) for i in range(count)]


class Workers:
    """An engine whose workers are numbers. `answer` says what a worker makes of a task; None is its end."""

    def __init__(
        self, count: int, answer: Callable[[int, Task], Message | None], ready: Message | None = READY
    ) -> None:
        self.count, self._answer, self._ready = count, answer, ready
        self.started, self.stopped, self.closed = 0, list[int](), False
        self._waiting = deque[tuple[int, Message | None]]()

    def start(self) -> int:
        self.started += 1
        self._waiting.append((self.started, self._ready))
        return self.started

    def give(self, worker: int, task: Task) -> None:
        self._waiting.append((worker, 0.5))
        self._waiting.append((worker, self._answer(worker, task)))

    def messages(self, workers: Collection[int]) -> Iterator[tuple[int, Message | None]]:
        worker, message = self._waiting.popleft()
        if worker in workers:
            yield worker, message

    def stop(self, worker: int) -> None:
        self.stopped.append(worker)

    def close(self) -> None:
        self.closed = True


class Seen:
    """Remembers what the runner is told."""

    def __init__(self) -> None:
        self.begun, self.ended, self.ready = list[str](), dict[str, Outcome](), 0
        self.interrupted = False

    def opened(self, ready: Ready) -> None:
        self.ready += 1

    def began(self, task: Task) -> None:
        self.begun.append(task.key)

    def progress(self, task: Task, share: float) -> None:
        assert task.key not in self.ended

    def finished(self, task: Task, outcome: Outcome) -> None:
        assert task.key not in self.ended
        self.ended[task.key] = outcome

    def check(self) -> None:
        if self.interrupted:
            raise KeyboardInterrupt


def done(worker: int, task: Task) -> Outcome:
    return Outcome(None, 1.0, reason=f"{task.key} by {worker}")


def test_workers_share_the_tasks_and_keep_their_model():
    engine, seen = Workers(3, done), Seen()
    pool = Pool(engine)
    pool.run(tasks(8), seen)
    pool.run(tasks(12)[8:], seen)
    assert set(seen.ended) == {task.key for task in tasks(12)}
    assert {outcome.reason.split()[-1] for outcome in seen.ended.values()} == {"1", "2", "3"}
    assert engine.started == seen.ready == 3


def test_there_are_no_more_workers_than_tasks():
    engine = Workers(5, done)
    Pool(engine).run(tasks(2), Seen())
    assert engine.started == 2


def test_the_task_of_a_lost_worker_is_run_again(capsys):
    engine, seen = Workers(2, lambda worker, task: None if worker == 1 else done(worker, task)), Seen()
    Pool(engine).run(tasks(5), seen)
    assert set(seen.ended) == {task.key for task in tasks(5)}
    assert seen.begun.count("key0") == 2
    assert engine.stopped == [1]
    assert engine.started == 3
    assert "the worker of euler · trailing · none · 1 step has ended; the cell is run again" in capsys.readouterr().err


def test_a_task_that_ends_every_worker_fails_alone():
    engine, seen = Workers(2, lambda worker, task: None if task.key == "key1" else done(worker, task)), Seen()
    Pool(engine).run(tasks(5), seen)
    assert seen.ended["key1"].reason == "its worker ended 3 times; is there enough memory?"
    assert seen.begun.count("key1") == 3
    assert all(seen.ended[key].reason.startswith(key) for key in ("key0", "key2", "key3", "key4"))


def test_workers_that_end_while_they_start_end_the_sweep():
    engine = Workers(2, done, ready=None)
    with pytest.raises(RunError, match="3 times while they started"):
        Pool(engine).run(tasks(2), Seen())


def test_an_error_in_loading_the_model_ends_the_sweep():
    with pytest.raises(UsageError, match="no such file"):
        Pool(Workers(2, done, ready=UsageError("no such file"))).run(tasks(2), Seen())


def test_all_workers_are_stopped_at_the_end_and_after_an_interrupt():
    engine, seen = Workers(2, done), Seen()
    pool = Pool(engine)
    seen.interrupted = True
    with pytest.raises(KeyboardInterrupt):
        pool.run(tasks(4), seen)
    pool.close()
    assert sorted(engine.stopped) == [1, 2]
    assert engine.closed


@pytest.mark.parametrize("early", [False, True], ids=["one round", "until"])
def test_a_sweep_in_workers_stores_the_rows_of_a_sweep_in_this_process(tmp_path, early, capsys):
    text = TOML.replace('metrics = ["fid", "clip_score"]', 'metrics = ["clip_score"]') if early else TOML
    if early:
        table = '{ until = 0.001, metric = "clip_score", least = 16, most = 32 }'
        text = text.replace("images = 16", f"images = {table}")
    (tmp_path / "quick.toml").write_text(text, encoding="utf-8")
    plan, bench, console = load_plan(tmp_path / "quick.toml"), FakeBench(), Console(file=io.StringIO(), width=120)
    all_of = lambda plan, rows, images: range(len(rows))  # noqa: E731
    lose = iter([True])

    def answer(worker: int, task: Task) -> Message | None:
        return None if next(lose, False) else measure(plan, bench, {}, task, lambda share: None)

    engine = Workers(3, answer)
    here = run_sweep(plan, "weights", lambda: bench, tmp_path / "here", console, unsettled=all_of)
    there = run_sweep(
        plan, "weights", no_bench, tmp_path / "there", console, unsettled=all_of, start=lambda: Pool(engine)
    )
    assert (here.ran, there.ran) == (8, 8)
    assert_same_values(tmp_path / "here", tmp_path / "there")
    assert engine.closed
    assert "8/8" in console.file.getvalue()  # type: ignore[attr-defined]
    assert capsys.readouterr().err.count("note: once") == 1


def no_bench() -> FakeBench:
    raise AssertionError("the model was loaded in this process")


# Mistakes.


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("rya", "unknown executor 'rya'"),
        ("ray worker=2", "worker: unknown option of ray (did you mean 'workers'?); it takes: address, workers"),
        ("ray workers=0", "workers: should be at least 1, got 0"),
        ("submitit cluster=pbs", "cluster: should be one of slurm, local, got 'pbs'"),
        ("ray workers", "options are written key=value"),
    ],
)
def test_a_mistake_in_the_executor_is_one_line(run, text, line, capsys):
    status, _, _ = run(executor=text)
    [error] = capsys.readouterr().err.splitlines()
    assert status == 2
    assert error.startswith("error: --executor: ")
    assert line in error


@pytest.mark.parametrize("name", sorted(EXECUTORS))
def test_a_missing_package_is_named_with_the_command_that_installs_it(monkeypatch, name):
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(UsageError) as error:
        executor(name, {})
    assert error.value.lines == [
        f"--executor: {name} needs a package that is not installed; run: pip install 'sdlab[{name}]'"
    ]


def test_slurm_that_is_not_there_is_one_line(monkeypatch):
    pytest.importorskip("submitit")
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(UsageError, match="there is no Slurm on this machine"):
        executor("submitit", {"cluster": "slurm"})


@pytest.mark.parametrize(
    ("changed", "line"),
    [
        ('device = ["cpu", "cuda:99"]', "device: 'cuda:99' is not on this machine"),
        ("device = []", 'device: should be a name like "cuda:0" or a list of them, got []'),
        ("device = 3", 'device: should be a name like "cuda:0" or a list of them, got 3'),
        ('device = ["cpu", "cpu"]\ntiming_rounds = 2', "cells are timed in turn on one device; give one device"),
    ],
)
def test_a_mistake_in_the_devices_is_one_line(run, changed, line, capsys):
    status, _, _ = run(toml=TOML.replace('device = "cpu"', changed))
    [error] = capsys.readouterr().err.splitlines()
    assert status == 2
    assert line in error


def test_a_device_of_other_machines_need_not_be_here(tmp_path):
    path = tmp_path / "quick.toml"
    path.write_text(TOML.replace('"cpu"', '"cuda"'), encoding="utf-8")
    assert load_plan(path, elsewhere=True).device == "cuda"


def test_several_devices_share_the_time(tmp_path, monkeypatch):
    path, spent = tmp_path / "quick.toml", []
    path.write_text(TOML, encoding="utf-8")
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    for devices in (["cuda:0"], ["cuda:0", "cuda:1"]):
        console = Console(file=io.StringIO(), width=200)
        options = {"dry_run": True, "overrides": {"device": devices, "images": 1000}, "console": console}
        assert sweep(path, lambda plan: "weights", no_bench, **options) == 0  # type: ignore[arg-type]
        spent.append(console.file.getvalue().splitlines()[-1])  # type: ignore[attr-defined]
    assert spent[0].startswith("about 1 min 04 s on cuda:0 in float32")
    assert spent[1].startswith("about 32 s on 2 devices in float32")
