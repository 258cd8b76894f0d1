"""Experiment trackers: TensorBoard, trackio, Weights & Biases and MLflow, one small class for each.

A tracker shows numbers and pictures over steps. Each class imports its package when it is opened.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from samplers.checks import unknown
from sdlab.system.errors import SdlabError, UsageError
from sdlab.system.files import make_folder, reason
from sdlab.system.output import remark

if TYPE_CHECKING:
    from PIL import Image
    from torch import Tensor


class Tracker(Protocol):
    """A run that is open in a tracker."""

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Add numbers at a step."""
        ...

    def picture(self, name: str, picture: Tensor, step: int) -> None:
        """Add a picture (3, H, W) of bytes at a step."""
        ...

    def close(self) -> None:
        """End the run."""
        ...


class _TensorBoard:
    """Event files in the folder. Those of a resumed run hide what it repeats from `start` on."""

    def __init__(self, project: str, run: str, folder: Path, settings: Mapping[str, Any], start: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(folder), purge_step=start)

    def log(self, values: Mapping[str, float], step: int) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def picture(self, name: str, picture: Tensor, step: int) -> None:
        self._writer.add_image(name, picture, step)

    def close(self) -> None:
        self._writer.close()


class _Trackio:
    """A run in trackio's local store, which `trackio show` opens."""

    def __init__(self, project: str, run: str, folder: Path, settings: Mapping[str, Any], start: int) -> None:
        import trackio

        self._trackio = trackio
        trackio.init(project=project, name=run, config=dict(settings), resume="allow")

    def log(self, values: Mapping[str, float], step: int) -> None:
        self._trackio.log(dict(values), step=step)

    def picture(self, name: str, picture: Tensor, step: int) -> None:
        self._trackio.log({name: self._trackio.Image(_image(picture))}, step=step)

    def close(self) -> None:
        self._trackio.finish()


class _Wandb:
    """A run of Weights & Biases, whose local files are in the folder."""

    def __init__(self, project: str, run: str, folder: Path, settings: Mapping[str, Any], start: int) -> None:
        import wandb

        make_folder(folder)
        self._wandb = wandb
        self._run = wandb.init(project=project, name=run, dir=str(folder), config=dict(settings))

    def log(self, values: Mapping[str, float], step: int) -> None:
        self._run.log(dict(values), step=step)

    def picture(self, name: str, picture: Tensor, step: int) -> None:
        self._run.log({name: self._wandb.Image(_image(picture))}, step=step)

    def close(self) -> None:
        self._run.finish()


class _Mlflow:
    """A run of MLflow in the store of MLFLOW_TRACKING_URI, or in a local one."""

    def __init__(self, project: str, run: str, folder: Path, settings: Mapping[str, Any], start: int) -> None:
        import mlflow

        self._mlflow = mlflow
        mlflow.set_experiment(project)
        mlflow.start_run(run_name=run)
        mlflow.log_params(dict(settings))

    def log(self, values: Mapping[str, float], step: int) -> None:
        self._mlflow.log_metrics(dict(values), step=step)

    def picture(self, name: str, picture: Tensor, step: int) -> None:
        self._mlflow.log_image(_image(picture), key=name, step=step)

    def close(self) -> None:
        self._mlflow.end_run()


TRACKERS: Mapping[str, type[Any]] = {
    "mlflow": _Mlflow,
    "tensorboard": _TensorBoard,
    "trackio": _Trackio,
    "wandb": _Wandb,
}
_IMPORTED = {"tensorboard": "torch.utils.tensorboard"}  # what each needs, if it is not its name


def check_tracker(name: str) -> None:
    """Check that there is such a tracker and that its package is installed.

    Raises:
        UsageError: there is none, or it is not.
    """
    from importlib import import_module

    if name not in TRACKERS:
        raise UsageError(f"--log: {unknown('tracker', name, TRACKERS)}")
    try:
        import_module(_IMPORTED.get(name, name))
    except ImportError:
        text = f"`{name}` needs a package that is not installed; run: pip install 'sdlab[{name}]'"
        raise UsageError(text) from None


def open_tracker(
    name: str, project: str, run: str, folder: Path, settings: Mapping[str, Any] | None = None, start: int = 0
) -> Tracker:
    """Open a run in a tracker. `folder` is for its files, if it writes any; a resumed run starts at step `start`.

    After an error of the tracker, such as a lost connection, the run continues without it.

    Raises:
        UsageError: there is no such tracker, its package is not installed, or it does not start.
    """
    check_tracker(name)
    try:
        return _Lenient(name, TRACKERS[name](project, run, folder, settings or {}, start))
    except SdlabError:
        raise
    except Exception as error:  # of a package that may raise anything
        raise UsageError(f"`{name}` does not start: {_brief(error)}; set it up, or leave it out") from None


class _Lenient:
    """A tracker whose first error is a warning, after which it is silent: results do not depend on it."""

    def __init__(self, name: str, tracker: Tracker) -> None:
        self._name, self._tracker, self._failed = name, tracker, False

    def log(self, values: Mapping[str, float], step: int) -> None:
        self._call("log", values, step)

    def picture(self, name: str, picture: Tensor, step: int) -> None:
        self._call("picture", name, picture, step)

    def close(self) -> None:
        self._call("close")

    def _call(self, method: str, *arguments: object) -> None:
        if self._failed:
            return
        try:
            getattr(self._tracker, method)(*arguments)
        except Exception as error:
            self._failed = True
            remark(f"warning: `{self._name}` failed and is left out from here on: {_brief(error)}")


def _brief(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror and error.filename:
        return f"{error.filename}: {reason(error)}"
    return (str(error) or type(error).__name__).partition("\n")[0]


def _image(picture: Tensor) -> Image.Image:
    from PIL import Image

    return Image.fromarray(picture.permute(1, 2, 0).numpy())
