"""The names of Stable Diffusion v1's checkpoint in terms of ours: one part a prefix, then rules applied in order."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

from torch import Tensor

Rule = tuple[str, str | Callable[[re.Match[str]], str]]

PREFIXES = {
    "clip": "cond_stage_model.transformer.text_model.",
    "vae": "first_stage_model.",
    "unet": "model.diffusion_model.",
}

RENAMES: dict[str, tuple[Rule, ...]] = {
    "clip": (
        (r"^embeddings\.(token|position)_embedding\.", r"\1."),
        (r"^encoder\.layers\.", "layers."),
        (r"^final_layer_norm\.", "norm_out."),
        (r"\.layer_norm([12])\.", r".norm\1."),
        (r"\.self_attn\.", ".attention."),
        (r"\.mlp\.", "."),
    ),
    "vae": (
        (r"\.block\.(\d)\.", r".\1."),
        (r"\.mid\.block_1\.", ".mid.0."),
        (r"\.mid\.attn_1\.", ".mid.1."),
        (r"\.mid\.block_2\.", ".mid.2."),
        (r"\.proj_out\.", ".out."),
        (r"\.nin_shortcut\.", ".skip."),
    ),
    "unet": (
        (r"^input_blocks\.0\.0\.", "conv_in."),
        (r"^input_blocks\.(\d+)\.\d\.", lambda m: f"down.{int(m[1]) - 1}."),  # theirs counts the first convolution
        (r"^middle_block\.(\d)\.", lambda m: f"middle.{int(m[1]) // 2}."),  # ours keeps block and transformer together
        (r"^output_blocks\.(\d+)\.\d\.", r"up.\1."),
        (r"^out\.0\.", "norm_out."),
        (r"^out\.2\.", "conv_out."),
        (r"\.in_layers\.0\.", ".residual.norm1."),
        (r"\.in_layers\.2\.", ".residual.conv1."),
        (r"\.emb_layers\.1\.", ".residual.time."),
        (r"\.out_layers\.0\.", ".residual.norm2."),
        (r"\.out_layers\.3\.", ".residual.conv2."),
        (r"\.skip_connection\.", ".residual.skip."),
        (r"^((?:up|down|middle)\.\d+)\.(norm|proj_in|proj_out)\.", r"\1.transformer.\2."),
        (r"\.transformer_blocks\.0\.", ".transformer.block."),
        (r"\.attn1\.", ".self_attention."),
        (r"\.attn2\.", ".cross_attention."),
        (r"\.ff\.net\.0\.proj\.", ".feed_forward.value_and_gate."),
        (r"\.ff\.net\.2\.", ".feed_forward.out."),
        (r"^((?:up|down)\.\d+)\.(?:op|conv)\.", r"\1.resample.conv."),
    ),
}

# Three spellings of the same four projections, renamed before the rules of a part.
ATTENTION: tuple[Rule, ...] = (
    (r"\.(?:to_)?q(?:_proj)?\.", ".query."),
    (r"\.(?:to_)?k(?:_proj)?\.", ".key."),
    (r"\.(?:to_)?v(?:_proj)?\.", ".value."),
    (r"\.(?:to_out\.0|out_proj)\.", ".out."),
)

IGNORED = {
    r"^cond_stage_model\.transformer\.text_model\.embeddings\.position_ids$": "the numbers 0, 1, 2, …",
    r"^(betas|(sqrt_|log_)?(one_minus_|recip_|recipm1_)?alphas_cumprod(_prev)?)$": "computed from the configuration",
    r"^posterior_(variance|log_variance_clipped|mean_coef[12])$": "computed from the configuration",
    r"^model_ema\.(decay|num_updates)$": "left over from training",
}


def rename(key: str) -> tuple[str, str] | None:
    """(part, our name) of an original key, None for one that is ignored.

    Raises:
        KeyError: the key belongs to no part and is not among the ignored.
    """
    if any(re.search(pattern, key) for pattern in IGNORED):
        return None
    for part, prefix in PREFIXES.items():
        if key.startswith(prefix):
            name = key.removeprefix(prefix)
            for pattern, replacement in ATTENTION + RENAMES[part]:
                name = re.sub(pattern, replacement, name)
            return part, name
    raise KeyError(key)


def split(state_dict: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """Our state dicts, by part: `clip`, `vae`, `unet`.

    Raises:
        KeyError: a key belongs to no part and is not among the ignored.
    """
    parts: dict[str, dict[str, Tensor]] = {part: {} for part in PREFIXES}
    for key, tensor in state_dict.items():
        if target := rename(key):
            parts[target[0]][target[1]] = tensor
    return parts
