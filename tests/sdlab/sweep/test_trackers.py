"""Experiment trackers: TensorBoard as it is, the others through stand-ins with their documented functions."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from fake_bench import TOML, no_bench
from training import QUIET, Line, Toy, keys

from sdlab.system.errors import UsageError
from sdlab.trackers import TRACKERS, check_tracker, open_tracker
from sdlab.train.loop import train

Calls = list[tuple[Any, ...]]
PICTURE = torch.arange(3 * 4 * 5, dtype=torch.uint8).reshape(3, 4, 5)


def recorder(calls: Calls, name: str, returned: object = None) -> Callable[..., object]:
    def call(*arguments: object, **options: object) -> object:
        calls.append((name, *arguments, options))
        return returned

    return call


def stand_in(name: str, calls: Calls) -> ModuleType:
    """A module with the functions of a tracker's package, which notes its calls."""
    module = ModuleType(name)
    if name == "trackio":
        functions = ["init", "log", "finish"]
        module.Image = lambda image: ("picture", image.size)  # type: ignore[attr-defined]
    elif name == "wandb":
        run = SimpleNamespace(log=recorder(calls, "log"), finish=recorder(calls, "finish"))
        module.init, functions = recorder(calls, "init", run), []  # type: ignore[attr-defined]
        module.Image = lambda image: ("picture", image.size)  # type: ignore[attr-defined]
    else:
        functions = ["set_experiment", "start_run", "log_params", "log_metrics", "end_run"]
        module.log_image = lambda image, **options: calls.append(("log_image", image.size, options))  # type: ignore[attr-defined]
    for one in functions:
        setattr(module, one, recorder(calls, one))
    return module


def scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """The scalars in event files, as TensorBoard reads them."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder))
    events.Reload()
    return {tag: [(one.step, one.value) for one in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def test_tensorboard_reads_what_was_written(tmp_path: Path):
    pytest.importorskip("tensorboard")
    run = open_tracker("tensorboard", "project", "run", tmp_path)
    run.log({"loss": 0.5, "rate": 0.25}, 0)
    run.log({"loss": 0.125}, 10)
    run.picture("preview", PICTURE, 10)
    run.close()
    assert scalars(tmp_path) == {"loss": [(0, 0.5), (10, 0.125)], "rate": [(0, 0.25)]}


def test_a_resumed_run_hides_what_it_repeats(tmp_path: Path):
    pytest.importorskip("tensorboard")
    for start, value in ((0, 1.0), (10, 2.0)):
        run = open_tracker("tensorboard", "project", "run", tmp_path, start=start)
        for step in range(start, 20, 10):
            run.log({"loss": value}, step)
        run.close()
    assert scalars(tmp_path) == {"loss": [(0, 1.0), (10, 2.0)]}


@pytest.mark.parametrize(
    ("name", "calls"),
    [
        (
            "trackio",
            [
                ("init", {"project": "p", "name": "r", "config": {"steps": 5}, "resume": "allow"}),
                ("log", {"fid": 8.5}, {"step": 10}),
                ("log", {"pictures": ("picture", (5, 4))}, {"step": 10}),
                ("finish", {}),
            ],
        ),
        (
            "wandb",
            [
                ("init", {"project": "p", "name": "r", "dir": "FOLDER", "config": {"steps": 5}}),
                ("log", {"fid": 8.5}, {"step": 10}),
                ("log", {"pictures": ("picture", (5, 4))}, {"step": 10}),
                ("finish", {}),
            ],
        ),
        (
            "mlflow",
            [
                ("set_experiment", "p", {}),
                ("start_run", {"run_name": "r"}),
                ("log_params", {"steps": 5}, {}),
                ("log_metrics", {"fid": 8.5}, {"step": 10}),
                ("log_image", (5, 4), {"key": "pictures", "step": 10}),
                ("end_run", {}),
            ],
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_tracker_is_called_as_its_documentation_says(
    name: str, calls: Calls, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    found: Calls = []
    monkeypatch.setitem(sys.modules, name, stand_in(name, found))
    run = open_tracker(name, "p", "r", tmp_path / "files", {"steps": 5})
    run.log({"fid": 8.5}, 10)
    run.picture("pictures", PICTURE, 10)
    run.close()
    text = repr(calls).replace("FOLDER", str(tmp_path / "files"))
    assert repr(found) == text


@pytest.mark.parametrize("name", sorted(TRACKERS))
def test_a_missing_package_is_one_line_that_says_how_to_install_it(name: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, {"tensorboard": "torch.utils.tensorboard"}.get(name, name), None)
    with pytest.raises(UsageError, match=rf"^`{name}` needs a package .*; run: pip install 'sdlab\[{name}\]'$"):
        check_tracker(name)


def test_a_tracker_that_does_not_start_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    module = stand_in("wandb", [])

    def fail(**options: object) -> None:
        raise RuntimeError("no API key\nlog in")

    module.init = fail  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "wandb", module)
    with pytest.raises(UsageError, match=r"^`wandb` does not start: no API key; set it up, or leave it out$"):
        open_tracker("wandb", "p", "r", tmp_path)


def test_a_tracker_that_fails_later_is_a_warning_and_silent_from_there_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    calls: Calls = []
    module = stand_in("mlflow", calls)

    def fail(*arguments: object, **options: object) -> None:
        calls.append(("failed",))
        raise ConnectionError("connection lost")

    module.log_metrics = fail  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "mlflow", module)
    run = open_tracker("mlflow", "p", "r", tmp_path)
    for step in range(3):
        run.log({"loss": 1.0}, step)
    assert calls[-1] == ("failed",)
    assert capsys.readouterr().err == "warning: `mlflow` failed and is left out from here on: connection lost\n"


# Sweeps


def test_each_cell_of_a_sweep_is_a_run_whose_step_is_its_passes(run, tmp_path: Path):
    pytest.importorskip("tensorboard")
    status, _, ran = run(log="tensorboard")
    assert status == 0
    folders = sorted((tmp_path / "runs/quick/tensorboard").iterdir())
    assert len(folders) == len(ran) == 8
    [heun] = [folder for folder in folders if folder.name == "heun-trailing-cfg-scale=3-5-steps"]
    found = scalars(heun)
    assert set(found) == {"fid", "fid_stderr", "clip_score", "psnr", "network_passes", "seconds_per_image"}
    assert found["network_passes"] == [(18, 18.0)]  # two calls a step but the last, two passes each
    _, _, again = run(log="tensorboard", open_bench=no_bench)
    assert again == []


def test_settings_of_a_cell_are_flat(run, monkeypatch: pytest.MonkeyPatch):
    calls: Calls = []
    monkeypatch.setitem(sys.modules, "trackio", stand_in("trackio", calls))
    run(log="trackio", toml=TOML.replace('["ddim", "heun"]', '"ddim"').replace("[5, 10]", "5"))
    settings = [call[-1]["config"] for call in calls if call[0] == "init"]
    assert [one["guidance.name"] for one in settings] == ["none", "cfg"]
    assert (settings[1]["guidance.scale"], settings[1]["sampler.eta"], settings[1]["steps"]) == (3.0, 0.0, 5)


def test_a_tracker_that_does_not_start_leaves_a_sweep_complete(
    run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    module = stand_in("wandb", [])
    module.init = lambda **options: 1 / 0  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "wandb", module)
    status, _, ran = run(log="wandb")
    assert (status, len(ran)) == (0, 8)
    assert capsys.readouterr().err.count("warning: `wandb` does not start: division by zero") == 1


def test_an_unknown_tracker_is_one_line(run, capsys: pytest.CaptureFixture[str]):
    assert run(log="wandbb", open_bench=no_bench)[0] == 2
    assert capsys.readouterr().err.startswith("error: --log: unknown tracker 'wandbb' (did you mean 'wandb'?)")


# Training


def test_a_training_run_is_shown_in_its_tracker_and_goes_on_in_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    calls: Calls = []
    for name in ("trackio", "mlflow"):
        monkeypatch.setitem(sys.modules, name, stand_in(name, calls))
    config = Toy(**keys(tmp_path, steps=12, log="trackio"))
    train(Line(config), config, QUIET)
    assert (calls[0][0], calls[0][1]["name"]) == ("init", config.out.name)
    logged = [(sorted(values), options["step"]) for name, values, options in calls[1:-1] if name == "log"]
    assert logged == [(["loss", "lr"], 0), (["loss", "lr"], 10), (["loss", "lr"], 11)]
    calls.clear()
    longer = Toy(**keys(tmp_path, steps=13, log="mlflow"))
    train(Line(longer), longer, QUIET)
    assert [(name, *rest[1:]) for name, *rest in calls if name == "log_metrics"] == [("log_metrics", {"step": 12})]


def test_event_files_are_not_written_twice(tmp_path: Path):
    pytest.importorskip("tensorboard")
    config = Toy(**keys(tmp_path, steps=2, tensorboard=True, log="tensorboard"))
    train(Line(config), config, QUIET)
    assert [step for step, _ in scalars(config.out / "tensorboard")["loss"]] == [0, 1]


def test_a_tracker_without_its_folder_is_a_warning_in_plain_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object) -> None:
        (tmp_path / "nowhere" / "events").touch()

    monkeypatch.setitem(TRACKERS, "tensorboard", refused)
    monkeypatch.setattr("sdlab.trackers.check_tracker", lambda name: None)
    with pytest.raises(UsageError) as caught:
        open_tracker("tensorboard", "p", "r", tmp_path)
    where = f"{tmp_path}/nowhere/events: no such file or directory"
    assert str(caught.value) == f"`tensorboard` does not start: {where}; set it up, or leave it out"
