"""Weights in several files (shards), with an index that names the file of each tensor.

Diffusers and transformers write them: `model.safetensors.index.json` beside `model-00001-of-00002.safetensors` and so
on. The shards are in the folder of the index.
"""

from __future__ import annotations

from pathlib import Path

from sdlab.system.errors import UsageError
from sdlab.weights.json_file import read_object


def is_index(path: Path) -> bool:
    """Whether a path in the place of weights is the index of their shards."""
    return path.suffix == ".json"


def read_index(path: Path) -> dict[str, Path]:
    """The shard of each tensor: name -> file.

    Raises:
        UsageError: the file is not an index, or names a shard that is missing or outside its folder.
    """
    files = read_object(path).get("weight_map")
    if not isinstance(files, dict) or not files or not all(isinstance(file, str) for file in files.values()):
        raise UsageError(f"{path}: is not an index of shards; its `weight_map` must map tensor names to file names")
    folder = path.parent
    for file in dict.fromkeys(files.values()):
        if file in ("", "..") or Path(file).name != file or is_index(Path(file)):
            raise UsageError(f"{path}: {file!r} is not the name of a weight file in the same folder")
    if missing := [file for file in dict.fromkeys(files.values()) if not _exists(folder / file)]:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise UsageError(f"{path}: the shard {missing[0]!r}{more} not found in {folder}/; download all shards")
    return {name: folder / file for name, file in files.items()}


def _exists(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # the name is too long
        return False
