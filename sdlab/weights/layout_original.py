"""The original layout: the tensor names of Stable Diffusion v1 checkpoints, with one prefix per part."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from typing import TypeVar

from sdlab.model.config import SD15, ModelConfig, UnetConfig
from sdlab.model.stable_diffusion import shapes
from sdlab.weights import rename_rules
from sdlab.weights.extras import is_extra
from sdlab.weights.rename_rules import CLIP_TEXT, TRANSFORMER, Rules, table

T = TypeVar("T")

PREFIXES = {
    "clip": "cond_stage_model.transformer.text_model.",
    "vae": "first_stage_model.",
    "unet": "model.diffusion_model.",
}

VAE: Rules = (
    (r"\.(down|up)\.(\d)\.(\d)\.", r".\1.\2.block.\3."),
    (r"\.mid\.0\.", ".mid.block_1."),
    (r"\.mid\.1\.(query|key|value)\.", lambda m: f".mid.attn_1.{m[1][0]}."),
    (r"\.mid\.1\.out\.", ".mid.attn_1.proj_out."),
    (r"\.mid\.1\.", ".mid.attn_1."),
    (r"\.mid\.2\.", ".mid.block_2."),
    (r"\.skip\.", ".nin_shortcut."),
)

RESIDUAL: Rules = (
    (r"\.residual\.norm1\.", ".residual.in_layers.0."),
    (r"\.residual\.conv1\.", ".residual.in_layers.2."),
    (r"\.residual\.time\.", ".residual.emb_layers.1."),
    (r"\.residual\.norm2\.", ".residual.out_layers.0."),
    (r"\.residual\.conv2\.", ".residual.out_layers.3."),
    (r"\.residual\.skip\.", ".residual.skip_connection."),
)

# Names of the VAE's attention in files that were converted back from diffusers.
OTHER_ATTENTION: Rules = (
    (r"\.mid\.attn_1\.(?:to_(q|k|v)|(q)uery|(k)ey|(v)alue)\.", lambda m: f".mid.attn_1.{m[m.lastindex or 0]}."),
    (r"\.mid\.attn_1\.(to_out\.0|proj_attn)\.", ".mid.attn_1.proj_out."),
    (r"\.mid\.attn_1\.group_norm\.", ".mid.attn_1.norm."),
)

# The tensors of the networks are under these prefixes.
_NETWORKS = ("model.diffusion_model.", "first_stage_model.", "cond_stage_model.")


def unet_rules(config: UnetConfig) -> Rules:
    """Rename rules of the U-Net. `input_blocks` begins with the first convolution, and blocks number their parts."""

    def upsample(match: re.Match[str]) -> str:
        block = int(match[1])
        level = len(config.widths) - 1 - block // (config.residual_blocks + 1)
        return f"output_blocks.{block}.{2 if 2**level in config.attention_rates else 1}."

    return (
        *TRANSFORMER,
        *RESIDUAL,
        (r"^conv_in\.", "input_blocks.0.0."),
        (r"^down\.(\d+)\.(?:residual|resample)\.", lambda m: f"input_blocks.{int(m[1]) + 1}.0."),
        (r"^down\.(\d+)\.transformer\.", lambda m: f"input_blocks.{int(m[1]) + 1}.1."),
        (r"^(input_blocks\.\d+\.0)\.conv\.", r"\1.op."),
        (r"^middle\.(\d)\.residual\.", lambda m: f"middle_block.{2 * int(m[1])}."),
        (r"^middle\.0\.transformer\.", "middle_block.1."),
        (r"^up\.(\d+)\.residual\.", r"output_blocks.\1.0."),
        (r"^up\.(\d+)\.transformer\.", r"output_blocks.\1.1."),
        (r"^up\.(\d+)\.resample\.", upsample),
        (r"^norm_out\.", "out.0."),
        (r"^conv_out\.", "out.2."),
    )


@cache
def names(config: ModelConfig = SD15) -> dict[str, tuple[str, str]]:
    """Their name -> (part, our name) of each tensor. The layout cannot hold a vision tower."""
    rules = {"clip": CLIP_TEXT, "vae": VAE, "unet": unet_rules(config.unet)}
    return {
        theirs: (part, ours)
        for part, tensors in shapes(replace(config, vision=None)).items()
        for theirs, ours in table(tensors, rules[part], PREFIXES[part]).items()
    }


def rename(key: str, config: ModelConfig = SD15) -> tuple[str, str] | None:
    """(part, our name) of an original key, or None if no network uses the tensor.

    Raises:
        KeyError: the key is unknown and within a network.
    """
    # Some tools omit the last part of the text encoder's prefix.
    whole = re.sub(r"^(cond_stage_model\.transformer)\.(?!text_model\.)", r"\1.text_model.", key)
    whole = rename_rules.rename(whole, OTHER_ATTENTION) if ".attn_1." in whole else whole
    if (found := names(config).get(whole)) is None and key.startswith(_NETWORKS) and not is_extra(key):
        raise KeyError(key)
    return found


def split(state_dict: Mapping[str, T], config: ModelConfig = SD15) -> tuple[dict[str, dict[str, T]], list[str]]:
    """Our state dicts by part (`clip`, `vae`, `unet`), and the names of the tensors that no network uses.

    Raises:
        KeyError: a key is unknown and within a network.
    """
    parts: dict[str, dict[str, T]] = {part: {} for part in PREFIXES}
    extra = []
    for key, tensor in state_dict.items():
        if target := rename(key, config):
            parts[target[0]][target[1]] = tensor
        else:
            extra.append(key)
    return parts, extra


def join(parts: Mapping[str, Mapping[str, T]], config: ModelConfig = SD15) -> dict[str, T]:
    """The inverse of `split`: tensors under the names of the checkpoint."""
    return {theirs: parts[part][ours] for theirs, (part, ours) in names(config).items()}
