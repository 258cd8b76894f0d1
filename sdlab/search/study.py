"""The study: the proposals of optuna and what became of them, in an SQLite file of its own.

Each proposal follows from the seed and from the finished ones before it. A search that was interrupted therefore goes
on as if it had not been.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from sdlab.search.space import Span, Suggest
from sdlab.system.errors import RunError, UsageError

if TYPE_CHECKING:
    import optuna

_KEY = "key"  # the attribute of a finished trial with the key of its cell
_LOST = "lost"  # the attribute of a trial that the process was killed in, which is proposed again


def check_installed() -> None:
    """Check that optuna is there.

    Raises:
        UsageError: it is not.
    """
    try:
        import optuna  # noqa: F401
    except ImportError:
        raise UsageError(
            "sdlab search needs optuna, which is not installed; run: pip install 'sdlab[search]'"
        ) from None


class Proposed(Suggest):
    """A proposal that has not been measured yet."""

    def __init__(self, trial: optuna.Trial, path: Path) -> None:
        """`path` is the file of the study, for messages."""
        self.trial, self._path = trial, path

    def one_of(self, name: str, texts: Sequence[str]) -> int:
        """The index of one of several texts."""
        with _reporting(self._path):
            return texts.index(self.trial.suggest_categorical(name, list(texts)))

    def number(self, name: str, span: Span) -> float:
        """A number of a range."""
        with _reporting(self._path):
            if span.whole:
                return self.trial.suggest_int(name, int(span.low), int(span.high), log=span.log)
            return self.trial.suggest_float(name, span.low, span.high, log=span.log)


class Study:
    """A study with two objectives: few network passes, and a high or low metric."""

    def __init__(self, path: Path, name: str, seed: int, higher: bool) -> None:
        """Open the study of this name in a file, or create both.

        Raises:
            RunError: the file is a link, is damaged or cannot be written.
        """
        import optuna
        from sqlalchemy import URL

        if path.is_symlink():
            raise RunError(f"{path} is a link, and results are not written through links; move the file itself there")
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self.path, self.seed = path, seed
        with _reporting(self.path):
            url = URL.create("sqlite", database=str(path)).render_as_string()
            self._storage = optuna.storages.RDBStorage(url)
            self._study = optuna.create_study(
                storage=self._storage,
                study_name=name,
                directions=["minimize", "maximize" if higher else "minimize"],
                load_if_exists=True,
            )
            for trial in self._study.get_trials(deepcopy=False):
                if not trial.state.is_finished():
                    self._storage.set_trial_user_attr(trial._trial_id, _LOST, True)
                    self._study.tell(trial.number, state=optuna.trial.TrialState.FAIL)
            notes = [trial.user_attrs for trial in self._study.get_trials(deepcopy=False)]
            self._done: list[str] = [found[_KEY] for found in notes if _KEY in found and _LOST not in found]

    @property
    def keys(self) -> list[str]:
        """The keys of the cells of all finished trials, each once."""
        return list(dict.fromkeys(self._done))

    def ask(self) -> Proposed:
        """The next proposal: by the tree-structured Parzen estimator, or at random if the last one repeated another.

        (Ozaki et al. 2022, "Multiobjective tree-structured Parzen estimator", doi:10.1613/jair.1.13188)
        """
        import optuna

        number = len(self._done)
        seed = (self.seed + number * 1_000_003) % 2**32  # a sampler's own state would start again after an interruption
        if self._done[-1:] and self._done[-1] in self._done[:-1]:
            self._study.sampler = optuna.samplers.RandomSampler(seed=seed)
        else:
            self._study.sampler = optuna.samplers.TPESampler(seed=seed)
        with _reporting(self.path):
            return Proposed(self._study.ask(), self.path)

    def tell(self, proposed: Proposed, key: str, values: tuple[float, float] | None) -> None:
        """What became of a proposal: the network passes and the metric of its cell, or None if that failed."""
        import optuna

        state = optuna.trial.TrialState
        with _reporting(self.path):
            proposed.trial.set_user_attr(_KEY, key)
            self._study.tell(proposed.trial, values, state=state.FAIL if values is None else state.COMPLETE)
        self._done.append(key)

    def close(self) -> None:
        """Close the file."""
        self._storage.remove_session()
        self._storage.engine.dispose()

    def __enter__(self) -> Study:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


@contextmanager
def _reporting(path: Path) -> Iterator[None]:
    """Turn errors of the storage, and of what it holds, into one line.

    Raises:
        RunError: the file is damaged or cannot be written.
    """
    import optuna
    from sqlalchemy.exc import SQLAlchemyError

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except (SQLAlchemyError, optuna.exceptions.StorageInternalError) as error:
        raise RunError(f"cannot use {path}: {_root(error)}; move it away to search again") from None
    except Exception:  # optuna trusts what the file holds, and a damaged value fails anywhere in it
        raise RunError(f"cannot use {path}: it is damaged; move it away to search again") from None


def _root(error: BaseException) -> str:
    """The message of the error that is behind others, in one line."""
    while (cause := error.__cause__ or error.__context__) is not None:
        error = cause
    return str(error).partition("\n")[0]
