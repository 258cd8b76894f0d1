"""The parameters that AUTOMATIC1111's web UI and Forge write into a PNG, as a request."""

from __future__ import annotations

import json
import re

from sdlab.commands.foreign import Foreign, Unreadable, known, number, of_prompt
from sdlab.commands.request import Request

FIELD, TOOL = "parameters", "AUTOMATIC1111's web UI"
_ENTRY = re.compile(r'\s*([\w +\-/]+):\s*("(?:[^"\\]|\\.)*"|[^,]*)(?:,|$)')
_NEGATIVE = "Negative prompt:"
SAMPLERS = {
    "DDIM": "ddim", "DPM adaptive": "dpm_adaptive", "DPM fast": "dpm_fast", "DPM++ 2M": "dpmpp_2m",
    "DPM++ 2M SDE": "dpmpp_2m_sde", "DPM++ 2M SDE Heun": "dpmpp_2m_sde solver=heun",
    "DPM++ 2S a": "dpmpp_2s_ancestral", "DPM++ 3M SDE": "dpmpp_3m_sde", "DPM++ SDE": "dpmpp_sde", "DPM2": "dpm2",
    "DPM2 a": "dpm2_ancestral", "Euler": "euler", "Euler a": "euler_ancestral", "Heun": "heun", "LCM": "lcm",
    "LMS": "lms", "PLMS": "plms", "Restart": "restart", "UniPC": "unipc",
}  # fmt: skip
GRIDS = {
    "Align Your Steps": "ays", "Beta": "beta", "DDIM": "ddim_uniform", "Exponential": "exponential", "Karras": "karras",
    "KL Optimal": "kl_optimal", "Normal": "linspace", "Polyexponential": "polyexponential",
    "SGM Uniform": "sgm_uniform", "Simple": "simple", "Turbo": "turbo", "Uniform": "linspace",
}  # fmt: skip
# What "Automatic" stands for; "Uniform" for all others.
_AUTOMATIC = {
    **dict.fromkeys(("DPM++ 2M", "DPM++ SDE", "DPM++ 2S a", "DPM2", "DPM2 a", "Restart"), "Karras"),
    **dict.fromkeys(("DPM++ 2M SDE", "DPM++ 2M SDE Heun", "DPM++ 3M SDE"), "Exponential"),
}
_TIMESTEPS = ("DDIM", "PLMS", "UniPC")  # samplers with timesteps of their own, which no schedule type changes
_READ = {"Steps", "Sampler", "Schedule type", "CFG scale", "Seed", "Size"}
_HARMLESS = {"Model", "Model hash", "Version", "VAE", "VAE hash", "Lora hashes", "TI hashes", "Hashes", "RNG"}


def read(text: str) -> Foreign:
    """The request of the text.

    Raises:
        Unreadable: it is not of the tool's form, or has no counterpart in sdlab.
    """
    *lines, last = text.strip().split("\n")
    values = {key.strip(): _plain(value) for key, value in _ENTRY.findall(last)}
    if not {"Steps", "Sampler", "Seed"} <= values.keys():
        raise Unreadable("the parameters have no steps, sampler and seed")
    if "Denoising strength" in values:
        raise Unreadable("the picture was made from another picture, which the file does not contain")
    at = next((i for i, line in enumerate(lines) if line.startswith(_NEGATIVE)), len(lines))
    prompt, negative = "\n".join(lines[:at]).strip(), "\n".join(lines[at:]).removeprefix(_NEGATIVE).strip()
    sampler, schedule = _schedule(values["Sampler"], values.get("Schedule type"))
    notes = [*of_prompt(prompt)]
    grid = f"{known('schedule type', schedule, GRIDS)} dialect=a1111"
    if sampler in _TIMESTEPS:
        grid = "leading"
        notes.append(f"{sampler} of the web UI has timesteps of its own, for which the grid leading stands")
    if others := sorted(values.keys() - _READ - _HARMLESS):
        notes.append(f"these settings are ignored: {', '.join(others)}")
    size = re.fullmatch(r"(\d{1,5})x(\d{1,5})", values.get("Size", ""))
    request = Request(
        prompt=prompt,
        negative=negative,
        model="",
        size=(int(size[2]), int(size[1])) if size else None,
        sampler=known("sampler", sampler, SAMPLERS),
        grid=grid,
        steps=int(number(int, "Steps", values["Steps"])),
        guidance=f"cfg scale={number(float, 'CFG scale', values.get('CFG scale', 7)):g}",
        seed=int(number(int, "Seed", values["Seed"])),
    )
    return Foreign(TOOL, values.get("Model", ""), request, tuple(notes))


def _schedule(sampler: str, schedule: str | None) -> tuple[str, str]:
    """The names of the sampler and of the schedule type. Before version 1.9 the latter ended the former."""
    if schedule is None:
        stem, _, last = sampler.rpartition(" ")
        return (stem, last) if stem and last in GRIDS else (sampler, "Uniform")
    return sampler, _AUTOMATIC.get(sampler, "Uniform") if schedule == "Automatic" else schedule


def _plain(value: str) -> str:
    try:
        return str(json.loads(value)) if value.startswith('"') else value.strip()
    except ValueError:
        return value
