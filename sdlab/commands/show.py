"""`sdlab show IMAGE`."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import sdlab
from sdlab.commands.paths import path_argument
from sdlab.system.errors import UsageError
from sdlab.system.output import say

if TYPE_CHECKING:
    from sdlab.commands.request import Request

_OTHERS = {"parameters": "AUTOMATIC1111's web UI", "prompt": "ComfyUI"}  # by the text field of their PNGs
EXAMPLE = "sdlab show out/generate/a-red-circle-0.png"


def command(
    image: Annotated[Path, path_argument("a PNG file written by sdlab generate")],
) -> None:
    """Print the parameters of a picture and the command that draws it."""
    for line in show(image).lines():
        say(line)


@dataclass(frozen=True)
class Shown:
    """The request stored in a picture, and the version of sdlab that drew it."""

    request: Request
    version: str

    def lines(self) -> list[str]:
        """One line per parameter, then the command."""
        from sdlab.commands.request import size_text

        values = {field.name: getattr(self.request, field.name) for field in fields(self.request)}
        if self.request.size:
            values["size"] = size_text(self.request.size)
        width = max(map(len, values))
        parameters = [f"{name:<{width}}  {value}" for name, value in values.items() if value not in (None, "")]
        drawn_by = f"{'version':<{width}}  {self.version}"
        if self.version != sdlab.__version__:
            drawn_by += f" (this is version {sdlab.__version__}, which may draw a different picture)"
        return [*parameters, drawn_by, "", self.request.command()]


def texts_of(path: Path) -> dict[str, object]:
    """The text fields of a picture.

    Raises:
        UsageError: the file is missing, or is not a picture.
    """
    from sdlab.picture import opened

    with opened(path) as picture:
        picture.load()  # a text field may come after the pixels
        return dict(getattr(picture, "text", {}))


def show(path: Path) -> Shown:
    """The parameters of a picture written by `sdlab generate`.

    Raises:
        UsageError: the file is missing, is not a picture, or has no parameters of sdlab.
    """
    from sdlab.commands.request import FIELD, Request

    texts = texts_of(path)
    text = texts.get(FIELD)
    if not isinstance(text, str):
        others = [name for field, name in _OTHERS.items() if field in texts]
        has = f"the parameters of {others[0]}, not" if others else "no parameters"
        raise UsageError(f"{path} has {has} of sdlab; choose a PNG file written by sdlab generate")
    try:
        return Shown(*Request.from_text(text))
    except ValueError as error:
        raise UsageError(f"{path} has parameters that this version of sdlab cannot read: {error}") from None
