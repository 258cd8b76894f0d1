"""Sentences for the mistakes in the configuration of a stage."""

from __future__ import annotations

from inspect import isclass
from typing import get_args

from pydantic import BaseModel
from pydantic_core import ErrorDetails

from sdlab.system.limits import brief
from sdlab.train.config import Training
from sdlab.train.losses.weighting import WEIGHTINGS
from sdlab.train.stages import STAGES


def sentence(kind: type[Training], error: ErrorDetails) -> str:
    """A mistake that pydantic found in the configuration of a stage, as one sentence."""
    kinds = WEIGHTINGS if error["loc"][:1] == ("weighting",) else {}
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
            return _stray(kind, key) if len(error["loc"]) == 1 else _stray_in_table(kind, key, error["loc"])
        case "value_error":  # raised by our validators, with a complete sentence
            return error["msg"].removeprefix("Value error, ")
        case "path_type":
            return f"`{key}` = {brief(error['input'])} is invalid: must be a path, in quotes"
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


def _stray_in_table(kind: type[Training], key: str, loc: tuple[int | str, ...]) -> str:
    """The message for a misspelt key of a table of the stage. `loc` is its place: the table, its kind, the key."""
    name, *between, last = (str(part) for part in loc)
    annotation = kind.model_fields[name].annotation
    if between:
        table = WEIGHTINGS[between[0]]
    else:
        table = next(one for one in get_args(annotation) if isclass(one) and issubclass(one, BaseModel))
    from samplers.checks import did_you_mean  # imports torch, so only when it is needed

    known = table.model_fields
    return f"unknown key `{key}`{did_you_mean(last, known)}; `{name}` has {', '.join(known)}"
