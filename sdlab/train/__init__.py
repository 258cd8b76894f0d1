"""Training: `sdlab train RECIPE.toml` and `sdlab train STAGE RECIPE.toml`.

The stages are `text`, `clip`, `vae`, `unet` and `evaluator` (`sdlab.train.stages.STAGES`). `clip` builds on the text
encoder, `unet` on the text encoder and the VAE.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path

from rich.console import Console

from sdlab.system.console import line
from sdlab.system.errors import UsageError
from sdlab.system.lock import locked
from sdlab.train.config import Training
from sdlab.train.config_file import load_part, load_recipe


def run_all(path: Path, console: Console, log: str | None = None) -> Iterator[tuple[str, dict[str, float]]]:
    """Train the stages of a recipe in order. Yields the name and the measurements of each.

    All stages are checked before the first one starts. A stage that was finished with the same configuration is
    skipped. `log` is an experiment tracker, in place of that of the file.

    Raises:
        UsageError: the recipe is invalid, or a stage needs what neither exists nor is made by an earlier stage.
        RunError: as for `run`.
    """
    parts = load_recipe(path)
    configs = [_resolved(part.config, path, log) for part in parts]
    # Imported here, so that a mistake in the file is reported before the slow imports.
    from sdlab.train import finished, processes
    from sdlab.train.preflight import prepare

    with processes.joined():
        console = _of_first(console)
        _check_shard(path, configs)
        with processes.first_alone():
            prepare(path, parts)
        for part, config in zip(parts, configs, strict=True):
            if not finished.exists(config):
                line(console, f"{part.name}: {config.steps} steps, in {config.out}")
                yield part.name, _train(config, console)
                continue
            line(console, f"{part.name}: finished before, see {config.out}; skipped")
            if others := " and ".join(finished.outdated(config)):
                fault = f"{config.model}: {others} changed after {part.name} was trained"
                line(console, f"warning: {fault}; delete {config.out} to train {part.name} again")


def run(stage: str, path: Path, console: Console, log: str | None = None) -> dict[str, float]:
    """Train one stage from a training file, resuming an interrupted run. Returns the stage's measurements.

    In processes other than the first, which torchrun may start, there are none. `log` is an experiment tracker, in
    place of that of the file.

    Raises:
        UsageError: the configuration is invalid, or a part of the model that the stage needs is missing.
        RunError: training diverged or ran out of memory, another process trains in the same folder, or a file could not
            be read or written.
    """
    part = load_part(stage, path)
    config = _resolved(part.config, path, log)
    from sdlab.train import processes

    with processes.joined():
        _check_shard(path, [config])
        if part.network is not None:
            from sdlab.train.preflight import prepare

            with processes.first_alone():
                prepare(path, [part])
        return _train(config, _of_first(console))


def _check_shard(path: Path, configs: Sequence[Training]) -> None:
    """Check that there are several processes, if a network is to be sharded over them.

    Raises:
        UsageError: there is one.
    """
    from sdlab.train import processes

    if processes.count() == 1 and any(config.sharded() for config in configs):
        start = f"torchrun --nproc-per-node 2 -m sdlab train {path}"
        raise UsageError(f"{path}: `shard` needs several processes; start them with `{start}`, or remove the key")


def _of_first(console: Console) -> Console:
    """The console of the first process. That of the others prints nothing."""
    from sdlab.train import processes

    return console if processes.rank() == 0 else Console(quiet=True)


def _resolved(config: Training, path: Path, log: str | None) -> Training:
    """The configuration with its device resolved, with this tracker if it is given, and with folders that can be made.

    Raises:
        UsageError: a file is in the place of a folder, or there is no such device.
    """
    for key, folder in (("model", Path(config.model)), ("out", config.out)):
        if in_the_way := next((place for place in (folder, *folder.parents) if place.is_file()), None):
            raise UsageError(f"{path}: `{key}` must be a folder, but {in_the_way} is a file")
    from sdlab.system.device import resolve

    try:
        return config.model_copy(update={"device": resolve(config.device), "log": log or config.log})
    except ValueError as error:
        raise UsageError(f"{path}: device: {error}") from None


def _train(config: Training, console: Console) -> dict[str, float]:
    from sdlab.system.device import enough_memory
    from sdlab.system.files import check_writable, make_folder
    from sdlab.train import finished, processes
    from sdlab.train.loop import train

    config = config.model_copy(update={"device": processes.own_device(config.device)})
    first = processes.rank() == 0
    with locked(config.out) if first else nullcontext():
        with enough_memory("use a smaller `batch` and a larger `accumulate`, or a smaller network"):
            stage = config.build()
            if first:
                make_folder(Path(config.model))
                check_writable(Path(config.model, config.writes()))
            measured = train(stage, config, console)
        if first:
            finished.record(config, measured)
        processes.wait()  # for what the first one writes
    return measured
