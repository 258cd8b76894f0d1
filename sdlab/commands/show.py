"""`sdlab show`: what a picture was made with, read from the picture, and the command that makes it again."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path

import sdlab
from sdlab.commands.request import FIELD, Request
from sdlab.picture import opened
from sdlab.system.errors import UsageError


@dataclass(frozen=True)
class Shown:
    """The request of a picture, and the version of sdlab that drew it."""

    request: Request
    version: str

    def lines(self) -> list[str]:
        """A line for each parameter, and at the end the command."""
        values = {field.name: getattr(self.request, field.name) for field in fields(self.request)}
        if self.request.size:
            values["size"] = "{}x{}".format(*self.request.size)
        width = max(map(len, values))
        told = [f"{name:<{width}}  {value}" for name, value in values.items() if value not in (None, "")]
        drawn_by = f"{'version':<{width}}  {self.version}"
        if self.version != sdlab.__version__:
            drawn_by += f" (this is {sdlab.__version__}, which may draw another picture)"
        return [*told, drawn_by, "", self.request.command()]


def show(path: Path) -> Shown:
    """The parameters of a picture that `sdlab generate` has written.

    Raises:
        UsageError: there is no such file, it is no picture, or it does not carry parameters of sdlab.
    """
    with opened(path) as picture:
        picture.load()  # texts may stand behind the pixels
        text = getattr(picture, "text", {}).get(FIELD)
    if not isinstance(text, str):
        raise UsageError(f"{path}: carries no parameters of sdlab; the PNG files that sdlab generate writes do")
    try:
        return Shown(*Request.from_text(text))
    except ValueError as error:
        raise UsageError(f"{path}: carries parameters that this sdlab cannot read: {error}") from None
