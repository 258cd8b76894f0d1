"""When guidance strategies pay: a sentence each, and the cell of the comparison that it is about.

The sentences say what docs/results/guidance_strategies.md has: the lab model `scenes`, ten steps, 32 prompts.
"""

from __future__ import annotations

import re
from pathlib import Path

PAGE = "results/guidance_strategies.md"
_TABLE = Path(__file__).resolve().parent / PAGE
_LIKE_NONE = "Here it is within errors of no guidance. It needs no unconditional prediction."
SENTENCES = {
    "adaptive": "Its gain is within errors here, at the cost of one pass more than no guidance.",
    "apg": "For more diversity than CFG scale 4, but hardly than scale 2. At scale 8 it breaks pictures (0.889).",
    "autoguidance": "For more diversity than CFG scale 4, but hardly than scale 2, if there is a weaker network.",
    "beta_cfg": "At large scales, where CFG breaks pictures in few steps (0.976 at scale 8).",
    "cads": "For diversity, though its gain over CFG is within errors here, and it is somewhat less accurate.",
    "cfg": "For accuracy, at a scale of 2 to 4. Scale 8 needs more than ten steps.",
    "cfg_interval": "For the accuracy of CFG with fewer passes.",
    "cfg_norm": "Nothing here tells it from CFG.",
    "cfg_zero": (
        "At scale 4 nothing here tells it from CFG, and at 8 it breaks fewer pictures. In the plane it leaves the data "
        "less at equal class probability."
    ),
    "composed": "With further prompts that suit each image, so it is not in the comparison.",
    "dual": "With a model that has a picture as a condition, so it is not in the comparison.",
    "dynamic_thresholding": "On pixels. Its limit of 1 breaks latents.",
    "epsilon_scaling": "Not here: it changes nothing that ten steps can show.",
    "fbg": "At temperature 0.05 its gain is within errors here. At 0.2 and 1 it hardly guides latents.",
    "fdg": "At scale 4 nothing here tells it from CFG. At 8 and 4 (0.979) it breaks fewer pictures than CFG at 8.",
    "icg": "Without an unconditional prediction: about as accurate as CFG here, and no less diverse.",
    "mambo_g": "At large scales, where CFG breaks pictures in few steps.",
    "momentum": "It costs no pass, and gains no accuracy here.",
    "nag": "With models that have no unconditional prediction. With an empty negative prompt it gains nothing here.",
    "none": "For diversity at half the passes.",
    "pag": _LIKE_NONE,
    "perp_neg": "With a negative prompt that resembles the prompt, so it is not in the comparison.",
    "rescale": "At scale 8 saturation is 0.300, that of CFG 0.346 and of real pictures 0.298, near the errors.",
    "sag": _LIKE_NONE,
    "seg": _LIKE_NONE,
    "sg": _LIKE_NONE,
    "slg": "Without an unconditional prediction: at scale 2.8 it is about as accurate as CFG here.",
    "tcfg": (
        "At large scales, where CFG breaks pictures in few steps. In the plane it leaves the data least at equal class "
        "probability."
    ),
    "tpg": _LIKE_NONE,
    "tsg": _LIKE_NONE,
    "universal": "For a property of pictures that a loss can express, so it is not in the comparison.",
}


def when(name: str) -> str:
    """When a strategy pays, with its most accurate cell in the comparison."""
    cells = {cell: values for cell, values in _cells().items() if _of(cell) == name}
    if not cells:
        return SENTENCES.get(name, "not measured.")
    best = max(cells, key=lambda cell: cells[cell][2])
    passes, _, accuracy, diversity, *_ = cells[best]
    options = best.partition(" ")[2]
    where = f"At `{options}`" if options else "There"
    return (
        f"{SENTENCES[name]} {where} [the comparison]({PAGE}) has prompt accuracy {accuracy} and diversity {diversity}, "
        f"at {passes} passes."
    )


def _cells() -> dict[str, list[str]]:
    """The values of the table by guidance, without the marks of statistics."""
    rows = re.findall(r"^\| \w+ \| (\w.*?) \| (\d.*) \|$", _TABLE.read_text(encoding="utf-8"), re.MULTILINE)
    return {cell: [value.strip("*★≈ ") for value in values.split(" | ")] for cell, values in rows}


def _of(cell: str) -> str:
    """The strategy of a cell; CFG with a schedule is none of them."""
    if "schedule=" in cell:
        return ""
    return "cfg_interval" if "interval=" in cell else cell.partition(" ")[0]
