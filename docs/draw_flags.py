"""Draws the flags of docs/own-pictures.md: 32 × 32 PNG files and their captions, in the folder flags/."""

import json
from itertools import permutations
from pathlib import Path

from PIL import Image, ImageDraw

COLOURS = {
    "red": "#d0202f",
    "green": "#0b8a3e",
    "blue": "#1f3fa8",
    "yellow": "#f6c915",
    "white": "#f7f7f7",
    "black": "#161616",
}
folder = Path("flags")
folder.mkdir()
rows = []
for first, second, third in permutations(COLOURS, 3):
    for way in ("horizontal", "vertical"):
        for disc in (None, first):
            flag = Image.new("RGB", (32, 32))
            draw = ImageDraw.Draw(flag)
            for i, colour in enumerate((first, second, third)):
                low, high = round(i * 32 / 3), round((i + 1) * 32 / 3) - 1
                draw.rectangle((low, 0, high, 31) if way == "vertical" else (0, low, 31, high), fill=COLOURS[colour])
            if disc:
                draw.ellipse((11, 11, 20, 20), fill=COLOURS[disc])
            name = "-".join([first, second, third, way, "disc" if disc else "plain"]) + ".png"
            flag.save(folder / name)
            caption = f"a flag of three {way} stripes in {first}, {second} and {third}"
            rows.append({"file_name": name, "text": caption + (f" with a {disc} disc" if disc else "")})
(folder / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n")
print(len(rows), "flags")
