"""Custom samplers, grids, guidance strategies and models, from a Python file or an installed package.

An entry in a file is written `my_sampler.py:MySampler`. The file is searched for beside the sweep file, then in the
current folder. A package declares its entries as entry points in the groups sdlab.samplers, sdlab.grids, sdlab.guidance
and sdlab.models, which are added when a command starts (`discover`). A custom entry is then used like any other, except
that results include a digest of its code.

    sampler    a frozen dataclass with a `step`, a subclass of `samplers.Sampler`; its options have defaults
    grid       a function (steps, levels, **options) -> `steps` levels above 0 in descending order, as a list or
               a tensor
    guidance   a class with `queries(sigma)` and `combine(predictions, x, sigma, state)` (`guidance.Strategy`), or a
               subclass of `guidance.Affine` with `weight(sigma)`
    model      a function (**options) -> (denoise, levels, shape), or a `CustomModel` (sdlab/backends/custom_model.py)

Errors in custom code are reported in one line. Their tracebacks are written to out/plugins.log.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import inspect
import sys
import textwrap
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from types import ModuleType
from typing import Any, Literal, ParamSpec, TypeVar, cast

import torch
from torch import Tensor

import samplers
from samplers.checks import did_you_mean
from samplers.denoiser import Unguided
from sdlab import guidance
from sdlab.guidance.stand_in import stand_in
from sdlab.system.device import out_of_memory
from sdlab.system.errors import RunError, SdlabError, UsageError
from sdlab.system.files import append
from sdlab.system.output import remark
from sdlab.system.paths import user_path
from sdlab.system.reading import read_bytes

P = ParamSpec("P")
T = TypeVar("T")
Kind = Literal["sampler", "grid", "guidance", "model"]
LOG = Path("out") / "plugins.log"
MODELS: dict[str, Callable[..., Any]] = {}  # custom models; those of sdlab are known to their backends
REGISTRIES: Mapping[Kind, dict[str, Any]] = {
    "sampler": cast(dict[str, Any], samplers.SAMPLERS),
    "grid": samplers.GRIDS,
    "guidance": cast(dict[str, Any], guidance.GUIDANCE),
    "model": MODELS,
}
_NOUN: Mapping[Kind, str] = {
    "sampler": "sampler", "grid": "grid", "guidance": "guidance strategy", "model": "model",
}  # fmt: skip
GROUPS: Mapping[Kind, str] = {
    "sampler": "sdlab.samplers", "grid": "sdlab.grids", "guidance": "sdlab.guidance", "model": "sdlab.models",
}  # fmt: skip


@dataclass(frozen=True)
class Plugin:
    """The origin of a custom entry, and the digest of its code."""

    source: str
    digest: str


_LIBRARIES = [Path(str(module.__file__)).resolve().parent for module in (samplers, guidance, torch, importlib)]
_LIBRARIES[1] = _LIBRARIES[1].parent  # all of sdlab
_STANDARD = Path(inspect.__file__).resolve().parent  # which may contain site-packages
_LONGEST = 300  # characters of a message
_PLUGINS: dict[tuple[Kind, str], Plugin] = {}
_folders: list[Path] = []
_discovered = False


def is_path(name: str) -> bool:
    """Whether the name refers to a file, like "my_sampler.py:MySampler", and not to a registry."""
    return name.partition(":")[0].endswith(".py")


def is_custom(kind: Kind, name: str) -> bool:
    """Whether the entry comes from a file or a package."""
    return (kind, name) in _PLUGINS


def digest(kind: Kind, name: str) -> str | None:
    """The digest of a custom entry's code, or None for a built-in entry."""
    found = _PLUGINS.get((kind, name))
    return None if found is None else found.digest


@contextmanager
def beside(folder: Path) -> Iterator[None]:
    """Search for files in `folder` first, inside the block."""
    _folders.insert(0, folder)
    try:
        yield
    finally:
        _folders.remove(folder)


def add(kind: Kind, name: str) -> None:
    """Add the entry that `name` refers to, like "my_sampler.py:MySampler", to its registry under that name.

    A file that has changed since is loaded again.

    Raises:
        UsageError: the file is missing or cannot be imported, it does not define the name, or the entry is invalid.
    """
    file, _, attribute = name.partition(":")
    place = user_path(file)
    path = next((f / place for f in _folders if (f / place).is_file()), place)
    code = read_bytes(path)
    content = hashlib.sha256(code).hexdigest()[:16]
    known = _PLUGINS.get((kind, name))
    if known is not None and known == Plugin(str(path.resolve()), content):
        return
    module = _module(file, path, code, content)
    entry = _defined(file, module, attribute)
    _register(kind, name, entry, Plugin(str(path.resolve()), content))


def discover() -> None:
    """Add the entries of installed packages, once. Invalid entries are reported on stderr and skipped."""
    global _discovered
    if _discovered:
        return
    _discovered = True
    for kind, group in GROUPS.items():
        for point in importlib.metadata.entry_points(group=group):
            try:
                if point.name in REGISTRIES[kind]:
                    raise UsageError(f"{point.value}: the name {point.name!r} is already taken by another {kind}")
                with reported_as(point.value, "cannot be imported"):
                    entry = point.load()
                version = point.dist.version if point.dist else ""
                _register(kind, point.name, entry, Plugin(f"{point.value} {version}", _code_digest(entry, version)))
            except UsageError as error:
                remark(f"warning: {error}")


def _register(kind: Kind, name: str, entry: Any, plugin: Plugin) -> None:
    if not callable(entry):
        raise UsageError(f"{name}: is not a {_NOUN[kind]}: it is a value of type {type(entry).__name__}")
    with reported_as(name, f"is not a {_NOUN[kind]}"):
        _TRIALS[kind](entry)
    REGISTRIES[kind][name] = entry
    _PLUGINS[kind, name] = plugin


def _module(file: str, path: Path, code: bytes, content: str) -> ModuleType:
    """Import the file as a module with a unique name. No bytecode is written beside it."""
    module = ModuleType(f"sdlab_plugin_{content}")
    module.__file__ = str(path)
    sys.modules[module.__name__] = module  # dataclasses need it there
    try:
        with reported_as(file, "cannot be imported"):
            exec(compile(code, str(path), "exec"), vars(module))
    except UsageError:
        del sys.modules[module.__name__]
        raise
    return module


def _defined(file: str, module: ModuleType, attribute: str) -> Any:
    names = [name for name, value in vars(module).items() if getattr(value, "__module__", None) == module.__name__]
    if not attribute:
        raise UsageError(f"{file}: name what it defines, like {file}:{names[0] if names else 'Name'}")
    if not hasattr(module, attribute):
        defined = f"it defines {', '.join(names)}" if names else "it defines nothing"
        raise UsageError(f"{file}: does not define {attribute!r}{did_you_mean(attribute, names)}; {defined}")
    return getattr(module, attribute)


@contextmanager
def reported_as(name: str, what: str) -> Iterator[None]:
    """Report any error in the block in one line, and write its traceback to the log.

    Raises:
        UsageError: `name: what: …`, instead of any other error.
    """
    try:
        yield
    except (SdlabError, KeyboardInterrupt):
        raise
    except BaseException as error:
        raise UsageError(f"{name}: {what}: {explain(error)}{logged(name, traceback.format_exc())}") from None


def explain(error: BaseException) -> str:
    """An error in one line: its type, its message, and the line of custom code that raised it.

    The type is left out where the message is a sentence of sdlab.
    """
    message, place = _message(error), _place(error)
    if message and not place and type(error) in (InvalidEntry, RuntimeError, ValueError):
        return message
    return ": ".join(filter(None, (type(error).__name__, message))) + place


def _message(error: BaseException) -> str:
    try:
        return textwrap.shorten(str(error), _LONGEST, placeholder=" …")
    except Exception:  # custom code may define the message
        return "its message cannot be shown"


class CodeError(RunError):
    """Custom code or the numerics of sampling failed: the reason in one line, and the traceback."""

    def __init__(self, error: BaseException) -> None:
        super().__init__(explain(error))
        self.trace = "".join(traceback.format_exception(error))


class Boundary:
    """The boundary between sdlab and the code it runs: samplers, grids, guidance strategies and models.

        boundary = Boundary()
        with boundary.crossed():
            samplers.run(…, on_step=boundary.back(show_progress))

    Any error inside the block is one of that code. Interrupts, running out of memory, errors that are already explained
    and errors of the functions that the code calls back into sdlab pass unchanged.
    """

    def __init__(self) -> None:
        self._ours: BaseException | None = None

    def back(self, function: Callable[P, T]) -> Callable[P, T]:
        """The function of sdlab, to be called from inside the block."""

        def called(*args: P.args, **options: P.kwargs) -> T:
            try:
                return function(*args, **options)
            except BaseException as error:
                self._ours = error
                raise

        return called

    @contextmanager
    def crossed(self) -> Iterator[None]:
        """A block that runs the code.

        Raises:
            CodeError: the code raised any error, `SystemExit` and `StopIteration` included.
        """
        try:
            yield
        except (SdlabError, KeyboardInterrupt):
            raise
        except BaseException as error:
            if error is self._ours or out_of_memory(error):
                raise
            raise CodeError(error) from None


def _place(error: BaseException) -> str:
    """`" (line 12 of my_sampler.py)"`, the last line outside the libraries."""
    if isinstance(error, SyntaxError):
        return f" (line {error.lineno})"
    if isinstance(error, InvalidEntry):
        return ""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if _is_users(frame.filename)]
    return f" (line {frames[-1].lineno} of {Path(frames[-1].filename).name})" if frames else ""


def _is_users(filename: str) -> bool:
    path = Path(filename)
    standard = path.is_relative_to(_STANDARD) and "site-packages" not in path.parts
    return not (filename.startswith("<") or standard or any(path.is_relative_to(folder) for folder in _LIBRARIES))


def logged(name: str, trace: str) -> str:
    """Append a traceback to the log. Returns a note on where it is, empty if the log cannot be written."""
    try:
        LOG.parent.mkdir(parents=True, exist_ok=True)
        append(LOG, f"{datetime.now():%Y-%m-%d %H:%M:%S} {name}\n{trace}\n")
    except OSError:
        return ""
    return f"; traceback in {LOG}"


def _code_digest(entry: Any, version: str) -> str:
    try:
        source = Path(inspect.getsourcefile(entry) or "").read_bytes()
    except (OSError, TypeError):
        source = b""
    return hashlib.sha256(source + version.encode()).hexdigest()[:16]


class InvalidEntry(Exception):
    """An entry does not meet the requirements of its kind. The message names the requirement."""


def _try_sampler(entry: Callable[..., Any]) -> None:
    sampler, sigmas = entry(), (2.0, 1.0, 0.5, 0.0)
    for member in ("step", "order", "stochastic", "prepare", "nfe", "with_levels"):
        if not hasattr(sampler, member):
            raise InvalidEntry(f"it has no {member!r}; make it a subclass of samplers.Sampler, which has defaults")
    if type(sampler).__hash__ is None:
        raise InvalidEntry("it cannot be hashed; make it a frozen dataclass")
    x, shapes = torch.tensor([[1.0, -2.0], [0.5, 3.0]], dtype=torch.float64), list[torch.Size]()

    def denoise(x: Tensor, sigma: float | Tensor) -> Tensor:
        shapes.append(x.shape)
        return x / (1 + torch.as_tensor(sigma).to(x).reshape(-1, *[1] * (x.ndim - 1)) ** 2)

    samplers.run(sampler, Unguided(denoise), x, sigmas, noise=samplers.seeded([0, 1]))
    if any(shape != x.shape for shape in shapes):
        raise InvalidEntry("it calls the denoiser with x of another shape")
    sampler.nfe(sigmas)


def _try_grid(entry: Callable[..., Any]) -> None:
    given = entry(4, samplers.discrete_levels())
    try:
        sigmas = [float(sigma) for sigma in given]
    except (TypeError, ValueError):
        raise InvalidEntry(f"it must return 4 levels for 4 steps, got {shape_or_type(given)}") from None
    if len(sigmas) != 4:
        raise InvalidEntry(f"it must return 4 levels for 4 steps, got {len(sigmas)}")
    if not sigmas[-1] > 0 or sorted(set(sigmas))[::-1] != sigmas:
        raise InvalidEntry(f"its levels must be above 0 and in descending order, got {sigmas}")


def _try_guidance(entry: Callable[..., Any]) -> None:
    strategy = entry()
    for member in ("queries", "combine"):
        if not hasattr(strategy, member):
            raise InvalidEntry(f"it has no {member!r}")
    x, context = torch.ones(2, 3, 8, 8), torch.zeros(2, 1)
    contexts = dict.fromkeys(("cond", "uncond", "image"), context)
    model = stand_in(lambda x, _: x / 2)
    denoise = guidance.Guided(strategy, model, contexts, [0, 1], lambda texts: context[: len(texts)])
    for sigma in (2.0, 0.5, torch.tensor([2.0, 0.5])):
        queries = strategy.queries(guidance.Level(float(torch.as_tensor(sigma).min())))
        if not queries or not all(isinstance(query, guidance.Query) for query in queries):
            raise InvalidEntry(f"queries(sigma) must return a tuple of sdlab.guidance.Query, got {queries!r}")
        denoise(x, sigma)


def _try_model(entry: Callable[..., Any]) -> None:
    inspect.signature(entry)  # not called yet, because it may load large files


def shape_or_type(value: object) -> str:
    """`"one of shape (2, 3)"` for a tensor, otherwise the type, like `"a list"`."""
    return f"one of shape {tuple(value.shape)}" if isinstance(value, Tensor) else f"a {type(value).__name__}"


_TRIALS: Mapping[Kind, Callable[[Callable[..., Any]], None]] = {
    "sampler": _try_sampler, "grid": _try_grid, "guidance": _try_guidance, "model": _try_model,
}  # fmt: skip
