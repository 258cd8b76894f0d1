"""The request of `sdlab generate`, as the text in a PNG and as the command that draws it again."""

from __future__ import annotations

import json
import shlex
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, ClassVar

from pydantic import ConfigDict, TypeAdapter, ValidationError

import sdlab
from sdlab.commands.inline_choice import absolute_choice
from sdlab.commands.inline_model import absolute, absolute_model
from sdlab.model.config import Size
from sdlab.system.errors import UsageError
from sdlab.system.limits import SIDE, brief
from sdlab.system.text import shown
from sdlab.weights.locate import ModelSource

FIELD = "sdlab"  # the text field of the PNG
_FILES = ("weights", "vocab", "merges", "init_image")
_CHOICES = ("sampler", "grid", "guidance")


@dataclass(frozen=True)
class Request:
    """The options of `sdlab generate`. None means the default of the model, or an option that is not used.

    The text in a PNG contains the values that were used for that one picture.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid", strict=True)
    prompt: str
    negative: str = ""
    model: str = "scenes"
    weights: str | None = None  # files of the model outside their usual places
    vocab: str | None = None
    merges: str | None = None
    init_image: str | None = None
    strength: float | None = None  # of init_image
    fit: str | None = None  # of init_image
    invert: bool = False  # starts from the noise of init_image
    caption: str | None = None  # with which it is inverted
    size: Size | None = None  # height and width
    sampler: str = "dpmpp_2m"  # a name with options for `parse_choice`, as for grid and guidance
    grid: str = "trailing"
    steps: int = 20
    guidance: str | None = None
    seed: int = 0
    n: int = 1
    device: str = "auto"
    dtype: str = "float32"
    offload: bool = False
    compile: bool = False
    tiles: str = "auto"

    @property
    def source(self) -> ModelSource:
        """The model and its files."""
        return ModelSource(self.model, self.weights, self.vocab, self.merges)

    def to_text(self) -> str:
        """The request as JSON, with the version of sdlab. The size is written as "height" and "width"."""
        content = {"version": sdlab.__version__, **asdict(self)}
        content["height"], content["width"] = content.pop("size") or (None, None)
        return json.dumps(content, ensure_ascii=False)

    @classmethod
    def from_text(cls, text: str) -> tuple[Request, str]:
        """The inverse of `to_text`: the request, and the version that wrote it, which may be older.

        Raises:
            ValueError: the text does not have that form. The message names the mistake.
        """
        try:
            content: Any = json.loads(text)
            version = content.pop("version")
            _rename(content)
            return TypeAdapter(cls).validate_json(json.dumps(content)), str(version)
        except ValidationError as error:
            fault = error.errors()[0]
            if not fault["loc"]:  # half of a surrogate pair, which JSON can escape and UTF-8 cannot encode
                raise ValueError("the text is not UTF-8") from None
            raise ValueError(f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}") from None
        except (ValueError, AttributeError, KeyError, TypeError, RecursionError):
            raise ValueError("the text was not written by sdlab") from None

    def command(self) -> str:
        """The shell command for this request, in one line. Every value is written out, so that defaults can change."""
        options = [word for field in fields(self)[1:] for word in _option(field.name, getattr(self, field.name))]
        words = [*options, "--", self.prompt] if self.prompt.startswith("-") else [self.prompt, *options]
        return " ".join(map(_quoted, ["sdlab", "generate", *words]))

    def anchored(self) -> Request:
        """The request with absolute paths, which can be drawn again in any folder."""
        given: dict[str, Any] = {key: getattr(self, key) for key in (*_FILES, *_CHOICES)}
        anchor = dict.fromkeys(_FILES, absolute) | dict.fromkeys(_CHOICES, absolute_choice)
        paths: dict[str, Any] = {key: anchor[key](value) for key, value in given.items() if value is not None}
        return replace(self, **paths, model=absolute_model(self.model))


def parse_size(text: str) -> Size:
    """Parse `--size`, which has the width first. `"512x384"` is (384, 512), height first as everywhere in code.

    Raises:
        UsageError: the text does not have that form.
    """
    width, cross, height = text.lower().partition("x")
    if not (cross and width.isascii() and width.isdigit() and height.isascii() and height.isdigit()):
        raise UsageError(f"--size must be width x height in pixels, like 512x384, got {brief(text)}")
    size = int(height.lstrip("0")[:9] or 0), int(width.lstrip("0")[:9] or 0)  # Python reads no thousands of digits
    for side in size:
        SIDE.check("--size: each side", side)
    return size


def size_text(size: Size) -> str:
    """The inverse of `parse_size`: (384, 512) is `"512x384"`."""
    return f"{size[1]}x{size[0]}"


def _quoted(word: str) -> str:
    """A word for the shell. One with control characters is written with escapes, as Bash and Zsh read them."""
    if shown(word) == word:
        return shlex.quote(word)
    return f"$'{''.join(map(_escaped, word))}'"


def _escaped(character: str) -> str:
    if character in "\\'":
        return f"\\x{ord(character):02x}"
    escape = shown(character)
    return escape if escape == character or character.isascii() else f"\\U{ord(character):08x}"


def _rename(content: dict[str, Any]) -> None:
    """Convert keys to fields, in place. Older versions wrote `size` as width and height, and `cfg` for guidance."""
    if (size := content.pop("size", None)) is not None:
        content["width"], content["height"] = size
    height, width = content.pop("height", None), content.pop("width", None)
    if height is not None or width is not None:
        content["size"] = [height, width]
    if (scale := content.pop("cfg", None)) is not None:
        content["guidance"] = f"cfg scale={scale}"


def _option(field: str, value: object) -> list[str]:
    """Words like `["--steps", "20"]`, or none if the value is empty or not used."""
    name = "-n" if field == "n" else "--" + field.replace("_", "-")
    match value:
        case None | "" | False:
            return []
        case True:
            return [name]
        case (int() as height, int() as width):
            return [name, size_text((height, width))]
    return [name, str(value)]
