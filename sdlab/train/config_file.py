"""Configuration files: TOML read into a stage's configuration, with all mistakes reported together."""

from __future__ import annotations

from pathlib import Path

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from sdlab.system.errors import UsageError
from sdlab.system.limits import brief
from sdlab.system.reading import read_toml
from sdlab.system.resources import find
from sdlab.train.config import Training
from sdlab.train.losses.weighting import WEIGHTINGS
from sdlab.train.stages import STAGES


def load_config(stage: str, path: Path) -> Training:
    """The configuration of a run of `stage`.

    Raises:
        UsageError: the stage is unknown, the file cannot be read, or keys or values are invalid. The message has
            one line per mistake.
    """
    if (kind := STAGES.get(stage)) is None:
        from samplers.checks import unknown  # imports torch, so only when it is needed

        raise UsageError(unknown("stage", stage, STAGES))
    path = find(path)
    table = read_toml(path)
    try:
        return kind(**table)
    except ValidationError as error:
        raise UsageError(*(f"{path}: {_sentence(kind, e)}" for e in error.errors())) from None


def _sentence(kind: type[Training], error: ErrorDetails) -> str:
    kinds = WEIGHTINGS if error["loc"][:1] == ("weighting",) else ()
    key = ".".join(str(part) for part in error["loc"] if part not in kinds)
    match error["type"]:
        case "union_tag_invalid":
            from samplers.checks import unknown  # imports torch, so only when it is needed

            return f"`{key}`: {unknown(key, error['ctx']['tag'], kinds)}"
        case "union_tag_not_found":
            return f"`{key}.name` is missing; add it"
        case "missing":
            return f"`{key}` is missing; add it"
        case "extra_forbidden":
            return _stray(kind, key)
        case "value_error":  # raised by our validators, with a complete sentence
            return error["msg"].removeprefix("Value error, ")
        case _:
            return f"`{key}` = {brief(error['input'])} is invalid: {error['msg'][0].lower()}{error['msg'][1:]}"


def _stray(kind: type[Training], key: str) -> str:
    """The message for a key of another stage, or a misspelt key."""
    if owners := [name for name, other in STAGES.items() if key in other.model_fields]:
        *others, last = owners
        names = f"{', '.join(others)} and {last} stages" if others else f"{last} stage"
        return f"`{key}` belongs to the {names}; remove it here"
    from samplers.checks import did_you_mean  # imports torch, so only when it is needed

    known = kind.model_fields
    return f"unknown key `{key}`{did_you_mean(key, known)}; the {kind.stage} stage has {', '.join(known)}"
