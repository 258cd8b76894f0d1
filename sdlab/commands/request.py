"""What `sdlab generate` is asked for, as the text that a PNG carries and as the command line that asks for it again."""

from __future__ import annotations

import json
import shlex
from dataclasses import asdict, dataclass, fields
from typing import Any, ClassVar

from pydantic import ConfigDict, TypeAdapter, ValidationError

import sdlab
from sdlab.picture import Size
from sdlab.system.errors import UsageError
from sdlab.weights.locate import ModelSource

FIELD = "sdlab"  # the text field of the PNG


@dataclass(frozen=True)
class Request:
    """What to draw and how. None leaves the choice to the model or the machine, or belongs to another way of drawing.

    The text in a PNG holds what was chosen, of the one picture it is in.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid", strict=True)
    prompt: str
    negative: str = ""
    model: str = "scenes"
    weights: str | None = None  # files of the model, where they are not in their usual places
    vocab: str | None = None
    merges: str | None = None
    init_image: str | None = None
    strength: float | None = None  # of init_image
    fit: str | None = None  # of init_image
    size: Size | None = None
    sampler: str = "dpmpp_2m"
    grid: str = "trailing"
    steps: int = 20
    cfg: float | None = None
    seed: int = 0
    n: int = 1
    device: str = "auto"
    dtype: str = "float32"
    offload: bool = False
    compile: bool = False
    tiles: str = "auto"

    @property
    def source(self) -> ModelSource:
        """The model with the places of its files."""
        return ModelSource(self.model, self.weights, self.vocab, self.merges)

    def to_text(self) -> str:
        """As JSON, with the version that draws."""
        return json.dumps({"version": sdlab.__version__, **asdict(self)}, ensure_ascii=False)

    @classmethod
    def from_text(cls, text: str) -> tuple[Request, str]:
        """The inverse of `to_text`: the request, and the version that drew.

        Raises:
            ValueError: not JSON of that form; the message says what is wrong.
        """
        try:
            content: Any = json.loads(text)
            version = content.pop("version")
            return TypeAdapter(cls).validate_json(json.dumps(content)), str(version)
        except ValidationError as error:
            fault = error.errors()[0]
            raise ValueError(f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}") from None
        except (ValueError, AttributeError, KeyError, TypeError, RecursionError):
            raise ValueError("its text is not what sdlab writes") from None

    def command(self) -> str:
        """The line for a shell that asks for the same; every choice is written out, so defaults may change."""
        options = [word for field in fields(self)[1:] for word in _option(field.name, getattr(self, field.name))]
        if self.prompt.startswith("-"):
            return shlex.join(["sdlab", "generate", *options, "--", self.prompt])
        return shlex.join(["sdlab", "generate", self.prompt, *options])


def parse_size(text: str) -> Size:
    """`"512x384"`, width first, as (512, 384).

    Raises:
        UsageError: it is anything else.
    """
    width, cross, height = text.lower().partition("x")
    if not (cross and width.isascii() and width.isdigit() and height.isascii() and height.isdigit()):
        raise UsageError(f"--size must be width x height in pixels, like 512x512, got {text!r}")
    return int(width), int(height)


def _option(field: str, value: object) -> list[str]:
    """`["--steps", "20"]`; nothing for what is empty, or not chosen."""
    name = "-n" if field == "n" else "--" + field.replace("_", "-")
    match value:
        case None | "" | False:
            return []
        case True:
            return [name]
        case (width, height):
            return [name, f"{width}x{height}"]
    return [name, str(value)]
