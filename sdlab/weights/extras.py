"""Tensors that a weight file may hold beside the weights of its networks.

They are ignored, and a note names them. Any other unknown tensor is an error, because it could belong to a layer that
sdlab does not compute.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

# Matched against a whole name, with or without the prefix of a part.
_EXTRAS = tuple(
    re.compile(rf"(.+\.)?({pattern})")
    for pattern in (
        r"position_ids",  # the values 0, 1, 2, …
        r"(text|visual)_projection(\.weight|\.bias)?|logit_(scale|bias)|(vision_model|visual)\..+",  # the rest of CLIP
        r"model_ema\..+",  # moving averages kept during training; in the 'emaonly' files they are the weights
        r"decay|num_updates|n_averaged|global_step|num_batches_tracked",  # bookkeeping of averages and training
        r"loss\..+|logvar|lvlb_weights",  # weights of a training loss, and the networks it was measured with
        r"betas|(sqrt_|log_)?(one_minus_|recip_|recipm1_)?alphas_cumprod(_prev)?",  # the noise schedule
        r"posterior_(variance|log_variance_clipped|mean_coef[12])",
        r"scale_factor",  # of the latents; the configuration has it
    )
)
_NAMED = 6  # in a note


def is_extra(name: str) -> bool:
    """Whether a tensor of this name is of no use to the networks."""
    return any(pattern.fullmatch(name) for pattern in _EXTRAS)


def note(path: Path, names: Iterable[str]) -> list[str]:
    """A note on the ignored tensors of a file, or none."""
    if not (found := sorted(names)):
        return []
    more = f" and {len(found) - _NAMED} more" if len(found) > _NAMED else ""
    listed = ", ".join(map(repr, found[:_NAMED]))
    return [f"{path.name}: ignored {len(found)} tensor{'s' * (len(found) > 1)} that no network uses: {listed}{more}"]
