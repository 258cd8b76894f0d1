"""The graph that ComfyUI writes into a PNG, as a request."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from sdlab.commands.foreign import Foreign, Unreadable, known, number, of_prompt
from sdlab.commands.request import Request

FIELD, TOOL = "prompt", "ComfyUI"
SAMPLERS = {
    **{name: name for name in (
        "ddim", "ddpm", "deis", "dpm_adaptive", "dpm_fast", "dpmpp_2m", "dpmpp_2m_sde", "dpmpp_2s_ancestral",
        "dpmpp_3m_sde", "dpmpp_sde", "er_sde", "euler", "euler_ancestral", "gradient_estimation", "heun", "heunpp2",
        "ipndm", "ipndm_v", "lcm", "lms", "res_multistep", "sa_solver", "seeds_2", "seeds_3",
    )},
    **{f"{name}_gpu": name for name in ("dpmpp_2m_sde", "dpmpp_3m_sde", "dpmpp_sde")},
    "res_2m_ode": "res_multistep form=res4lyf", "res_2s_ode": "res_2s", "res_3s_ode": "res_3s",
    "res_3m_ode": "res_multistep max_order=3 form=res4lyf",
    "dpm_2": "dpm2", "dpm_2_ancestral": "dpm2_ancestral", "uni_pc": "unipc kind=bh1", "uni_pc_bh2": "unipc kind=bh2",
}  # fmt: skip
GRIDS = {
    "normal": "linspace",
    **{name: name for name in (
        "beta", "beta57", "ddim_uniform", "exponential", "karras", "kl_optimal", "linear_quadratic",
        "sgm_uniform", "simple",
    )},
}  # fmt: skip
_LONGEST = 50  # nodes between a sampler and a text

Node = Mapping[str, Any]


def read(text: str) -> Foreign:
    """The request of the text: a graph with one KSampler that starts from noise.

    Raises:
        Unreadable: it is not of this form, or has no counterpart in sdlab.
    """
    try:
        graph = json.loads(text)
        nodes: dict[str, Node] = {
            str(key): {"class_type": node["class_type"], "inputs": dict(node["inputs"])} for key, node in graph.items()
        }
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        raise Unreadable("the graph is not one of ComfyUI") from None
    samplers = [node["inputs"] for node in nodes.values() if node["class_type"] in ("KSampler", "KSamplerAdvanced")]
    if len(samplers) != 1:
        raise Unreadable(f"the graph has {len(samplers)} KSamplers; only pictures of exactly one can be compared")
    [one] = samplers
    _check_whole(one)
    prompt, negative = (_text(nodes, one.get(name), name) for name in ("positive", "negative"))
    latent = _followed(nodes, one.get("latent_image"))
    if not str(latent["class_type"]).startswith("Empty"):
        raise Unreadable("the picture was made from another picture, which the file does not contain")
    sides = [latent["inputs"].get(name) for name in ("height", "width")]
    loaders = [node for node in nodes.values() if "ckpt_name" in node["inputs"]]
    request = Request(
        prompt=prompt,
        negative=negative,
        model="",
        size=(int(number(int, "height", sides[0])), int(number(int, "width", sides[1]))),
        sampler=known("sampler", str(one.get("sampler_name")), SAMPLERS),
        grid=f"{known('scheduler', str(one.get('scheduler')), GRIDS)} dialect=comfyui",
        steps=int(number(int, "steps", one.get("steps"))),
        guidance=f"cfg scale={number(float, 'cfg', one.get('cfg')):g}",
        seed=int(number(int, "seed", one.get("seed", one.get("noise_seed")))),
    )
    notes = [*of_prompt(prompt)]
    if any("lora_name" in node["inputs"] for node in nodes.values()):
        notes.append("LoRA networks of the graph are not loaded")
    return Foreign(TOOL, str(loaders[0]["inputs"]["ckpt_name"]) if loaders else "", request, tuple(notes))


def _check_whole(one: Node) -> None:
    """Check that the sampler runs all steps from pure noise.

    Raises:
        Unreadable: it does not.
    """
    if number(float, "denoise", one.get("denoise", 1.0)) != 1:
        raise Unreadable("the picture was made from another picture, which the file does not contain")
    first, last = one.get("start_at_step", 0), one.get("end_at_step", 10_000)
    if number(int, "start_at_step", first) > 0 or number(int, "end_at_step", last) < number(
        int, "steps", one.get("steps")
    ):
        raise Unreadable("the KSampler runs a part of its steps; only whole runs can be compared")


def _followed(nodes: Mapping[str, Node], link: object) -> Node:
    """The node that an input is linked to.

    Raises:
        Unreadable: there is none.
    """
    if not (isinstance(link, list) and link and str(link[0]) in nodes):
        raise Unreadable("the graph has an input of the KSampler that leads nowhere")
    return nodes[str(link[0])]


def _text(nodes: Mapping[str, Node], link: object, what: str) -> str:
    """The text of a conditioning, directly or through nodes that pass one on.

    Raises:
        Unreadable: there is none.
    """
    for _ in range(_LONGEST):
        node = _followed(nodes, link)
        for name in ("text", "value", "string"):
            value = node["inputs"].get(name)
            if isinstance(value, str):
                return value
            if isinstance(value, list):
                link = value
                break
        else:
            link = node["inputs"].get("conditioning")
    raise Unreadable(f"the {what} prompt of the graph has no text")
