"""Features of real pictures, kept on the disk from one run to the next."""

from __future__ import annotations

import hashlib
import json
import os
import platform
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch
from torch import Tensor

from sdlab.system.errors import SdlabError
from sdlab.system.files import file_digest, make_folder
from sdlab.weights import safetensors_file

FOLDER = "SDLAB_CACHE"  # the environment variable with the folder; if it is empty, nothing is kept
_PACKAGE = Path(__file__).resolve().parents[1]
_CODE = ("metrics", "model", "worlds", "picture.py")  # what the features depend on, beside the packages
_PACKAGES = ("torch", "torchvision", "numpy", "pillow", "torch-fidelity", "torchmetrics", "transformers")
_MOST = 32  # files


def kept(what: str, files: Iterable[Path], device: torch.device, compute: Callable[[], Tensor]) -> Tensor:
    """`compute()`, or what it found in an earlier run: features (N, d) on the CPU.

    They are those of the same pictures, named by `what`, with the same content of all `files` (networks and pictures),
    the same code, packages and kind of processor. A file that is damaged or belongs to something else is not used, and
    runs beside each other can share the folder. Without a folder that can be written, nothing is kept.
    """
    place = folder()
    if place is None:
        return compute()
    key = _key(what, files, device)
    path = place / f"{key}.safetensors"
    found = _read(path, key)
    if found is None:
        found = compute()
        with suppress(SdlabError, OSError):
            make_folder(place)
            safetensors_file.write(path, {"features": found}, metadata={"key": key, "content": _digest(found)})
            _forget(place)
    return found


def folder() -> Path | None:
    """The folder of kept features: that of the environment variable, or the user's folder for such files."""
    given = os.environ.get(FOLDER)
    if given is not None:
        return Path(given) if given.strip() else None
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    with suppress(RuntimeError):  # there is no home folder
        return Path(base).expanduser() / "sdlab"
    return None


def _key(what: str, files: Iterable[Path], device: torch.device) -> str:
    machine = (device.type, platform.machine(), torch.backends.cpu.get_cpu_capability(), torch.get_num_threads())
    content = [file_digest(path).hex() for path in files]
    return hashlib.sha256(json.dumps([what, content, _code(), *machine]).encode()).hexdigest()


@cache
def _code() -> list[str]:
    """The versions of packages, and a digest of the code that renders, reads and judges pictures."""
    paths = sorted(path for name in _CODE for path in (_PACKAGE / name, *(_PACKAGE / name).rglob("*.py")))
    content = hashlib.sha256()
    for path in paths:
        if path.is_file():
            content.update(file_digest(path))
    found = [content.hexdigest()]
    for name in _PACKAGES:
        with suppress(PackageNotFoundError):
            found.append(f"{name} {version(name)}")
    return found


def _read(path: Path, key: str) -> Tensor | None:
    """The features in a file, or None unless it is whole and has this key."""
    try:
        tensors, metadata = safetensors_file.read(path)
        found = tensors["features"].read()
        os.utime(path)  # it is in use
    except (SdlabError, OSError, LookupError, ValueError, RuntimeError):
        return None
    return found if metadata == {"key": key, "content": _digest(found)} else None


def _digest(features: Tensor) -> str:
    content = features.contiguous().view(torch.uint8).numpy().tobytes()
    return hashlib.sha256(f"{features.dtype} {tuple(features.shape)}".encode() + content).hexdigest()


def _forget(place: Path) -> None:
    """Delete the files that were not used for longest, if there are very many."""
    by_age = sorted(place.glob("*.safetensors"), key=lambda path: path.stat().st_mtime)
    for path in by_age[:-_MOST]:
        path.unlink(missing_ok=True)
