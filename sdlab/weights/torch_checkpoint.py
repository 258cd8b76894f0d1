"""PyTorch checkpoints (.ckpt, .pt, .bin), read without executing the pickle inside.

A checkpoint is a zip archive with a pickle, and a pickle is a program that calls functions by name. Here a few names
map to inert objects (a record of a tensor, a plain dictionary). Any other name maps to `Inert`, which accepts anything
and does nothing. No module is imported and no function of another package is called. The weights stay in the file
(`StoredTensor`).
"""

from __future__ import annotations

import io
import pickle
import re
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, BinaryIO, ClassVar, NamedTuple

import torch

from sdlab.system.errors import RunError, UsageError
from sdlab.system.files import reason
from sdlab.weights.stored_tensor import StoredTensor


class Inert:
    """Placeholder for any object of another package. It stays empty whatever a pickle does to fill it."""

    def __new__(cls, *_: object, **__: object) -> Inert:
        """An empty object, whatever the arguments."""
        return super().__new__(cls)

    def __init__(self, *_: object, **__: object) -> None: ...

    def __call__(self, *_: object, **__: object) -> Inert:
        """Returns itself, because a pickle may call the objects it has made."""
        return self

    def __setstate__(self, _: object) -> None: ...

    def __setitem__(self, _: object, __: object) -> None: ...

    def _ignore(self, *_: object) -> None: ...

    append = extend = add = update = _ignore


class _Dict(dict[str, Any]):
    """Replacement for dict and OrderedDict, which are written empty and then filled. Only names are kept as keys.

    The hash of a tuple visits everything nested in it. A short pickle in which each tuple holds the previous one twice
    would never end, so no other key is hashed.
    """

    def __init__(self, *_: object) -> None: ...

    def __setitem__(self, key: object, value: Any) -> None:
        if isinstance(key, str):
            super().__setitem__(key, value)

    def __setstate__(self, _: object) -> None: ...


class _Storage(NamedTuple):
    dtype: torch.dtype
    key: str
    numel: int


class _Tensor(NamedTuple):
    storage: _Storage
    offset: int  # in elements
    shape: tuple[int, ...]
    stride: tuple[int, ...]


class _RebuildTensor:
    """Replacement for torch._utils._rebuild_tensor_v2. Not a function, whose defaults a pickle could change."""

    def __call__(self, storage: Any, offset: Any, shape: Any, stride: Any, *_: object) -> _Tensor:
        return _Tensor(storage, offset, shape, stride)

    def __setstate__(self, _: object) -> None: ...


class _RebuildParameter:
    """Replacement for torch._utils._rebuild_parameter. Returns the tensor of the parameter."""

    def __call__(self, data: Any, *_: object) -> Any:
        return data

    def __setstate__(self, _: object) -> None: ...


_KNOWN: dict[tuple[str, str], object] = {
    ("collections", "OrderedDict"): _Dict,
    ("torch._utils", "_rebuild_tensor"): _RebuildTensor(),
    ("torch._utils", "_rebuild_tensor_v2"): _RebuildTensor(),
    ("torch._utils", "_rebuild_parameter"): _RebuildParameter(),
    ("torch", "DoubleStorage"): torch.float64,
    ("torch", "FloatStorage"): torch.float32,
    ("torch", "HalfStorage"): torch.float16,
    ("torch", "BFloat16Storage"): torch.bfloat16,
    ("torch", "LongStorage"): torch.int64,
    ("torch", "IntStorage"): torch.int32,
    ("torch", "ShortStorage"): torch.int16,
    ("torch", "CharStorage"): torch.int8,
    ("torch", "ByteStorage"): torch.uint8,
    ("torch", "BoolStorage"): torch.bool,
}


# Entries under which training frameworks save weights, and how deep these may be nested.
_HOLDERS, _DEEPEST = ("state_dict", "model_state_dict", "model", "module"), 8


# In Python, because the memo of the C version is an array as long as the largest index that a pickle names.
class _Unpickler(pickle._Unpickler):
    append: Callable[[object], None]  # to the stack
    pop_mark: Callable[[], list[Any]]  # all on the stack since the last mark

    def make_empty_dict(self) -> None:
        self.append(_Dict())

    def make_dict(self) -> None:
        items, made = self.pop_mark(), _Dict()
        for key, value in zip(items[::2], items[1::2], strict=True):
            made[key] = value
        self.append(made)

    def make_empty_set(self) -> None:
        self.append(Inert())

    def make_frozenset(self) -> None:
        self.pop_mark()
        self.append(Inert())

    dispatch: ClassVar[dict[int, Any]] = {
        **pickle._Unpickler.dispatch,
        pickle.EMPTY_DICT[0]: make_empty_dict,
        pickle.DICT[0]: make_dict,
        pickle.EMPTY_SET[0]: make_empty_set,
        pickle.FROZENSET[0]: make_frozenset,
    }

    def find_class(self, module: str, name: str) -> Any:
        return _KNOWN.get((module, name), Inert)

    def persistent_load(self, pid: Any) -> object:
        match pid:
            case ("storage", torch.dtype() as dtype, str(key), _, int(numel)):
                return _Storage(dtype, key, numel)
        return Inert()


def read(path: Path) -> dict[str, StoredTensor]:
    """The tensors of a checkpoint by name, from its entry `state_dict` or the like (`_HOLDERS`), or from its top level.

    Raises:
        UsageError: the file is another kind of archive, or has no tensors.
        RunError: the file is damaged or truncated.
    """
    try:
        with path.open("rb") as file:
            spans = {info.filename: _span(file, info, path) for info in _entries(file)}
            root = next((name for name in spans if re.fullmatch(r"([^/]+/)?data\.pkl", name)), None)
            if root is None:
                raise UsageError(f"{path}: this is a zip archive that was not written by torch.save")
            offset, length = spans[root]
            file.seek(offset)
            content = _unpickle(file.read(length), path)
    except zipfile.BadZipFile:
        size = path.stat().st_size
        raise RunError(f"{path}: this checkpoint is damaged or truncated ({size:,} bytes); download it again") from None
    except OSError as error:
        raise RunError(f"cannot read {path}: {reason(error)}") from None
    content = _state_dict(content)
    found = content.items() if isinstance(content, dict) else ()
    named = {name: value for name, value in found if isinstance(name, str) and isinstance(value, _Tensor)}
    if not named:
        raise UsageError(f"{path}: has no tensors under 'state_dict' or at its top level")
    folder = root.removesuffix("data.pkl") + "data/"
    return {name: _stored(tensor, name, spans, folder, path) for name, tensor in named.items()}


def _state_dict(content: object) -> object:
    """The dictionary of weights inside what a training framework has saved. It may be inside several others."""
    for _ in range(_DEEPEST):  # a pickle can hold a dictionary that contains itself
        inner = (content.get(key) for key in _HOLDERS) if isinstance(content, dict) else ()
        if (found := next((value for value in inner if isinstance(value, dict)), None)) is None:
            break
        content = found
    return content


def _unpickle(data: bytes, path: Path) -> object:
    try:
        # Strings of Python 2 are bytes. latin1 decodes all of them, and tensor names are ASCII.
        return _Unpickler(io.BytesIO(data), encoding="latin1").load()
    except Exception as error:  # according to its documentation, a damaged pickle may raise anything
        raise RunError(f"{path}: the pickle inside cannot be read ({type(error).__name__}: {error})") from None


def _entries(file: BinaryIO) -> list[zipfile.ZipInfo]:
    try:
        with zipfile.ZipFile(file) as archive:
            return archive.infolist()
    except OSError:
        raise
    except Exception as error:  # a damaged directory also gives ValueError, NotImplementedError and others
        raise zipfile.BadZipFile from error


def _span(file: BinaryIO, info: zipfile.ZipInfo, path: Path) -> tuple[int, int]:
    """Offset and length of an entry's bytes. Its 30-byte header gives the lengths of its name and extra field."""
    if info.compress_type != zipfile.ZIP_STORED:
        raise RunError(f"{path}: {info.filename!r} is compressed; unpack the archive and zip it without compression")
    file.seek(info.header_offset)
    header = file.read(30)
    if header[:4] != b"PK\x03\x04":
        raise zipfile.BadZipFile
    name, extra = (int.from_bytes(header[i : i + 2], "little") for i in (26, 28))
    return info.header_offset + 30 + name + extra, info.file_size


def _stored(tensor: _Tensor, name: str, spans: Mapping[str, tuple[int, int]], folder: str, path: Path) -> StoredTensor:
    """The position of a tensor in the file, checked to be inside its storage and inside the file."""
    match tensor:
        case ((torch.dtype() as dtype, key, numel), int(first), tuple(shape), tuple(stride)) if len(shape) == len(
            stride
        ) and all(type(n) is int and n >= 0 for n in (numel, first, *shape, *stride)):
            pass
        case _:
            raise RunError(f"{path}: the description of tensor {name!r} is not in the format of torch.save")
    if (span := spans.get(folder + key)) is None:
        raise RunError(f"{path}: the storage of tensor {name!r} is missing")
    offset, length = span
    stored = StoredTensor(path, offset + first * dtype.itemsize, shape, stride, dtype)
    available = min(numel * dtype.itemsize, length, path.stat().st_size - offset)
    if first * dtype.itemsize + stored.extent > available:
        raise RunError(f"{path}: tensor {name!r} extends beyond the {max(available, 0):,} bytes of its storage")
    return stored
