"""Rename rules: regular expressions that turn our tensor names into the names of other layouts.

Each rule is applied to the result of the rules before it. `table` applies them to all names of a network, and loading
looks names up in that table, so one set of rules serves both directions.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping

from sdlab.weights.stored_tensor import StoredTensor

Rule = tuple[str, str | Callable[[re.Match[str]], str]]
Rules = tuple[Rule, ...]


def rename(name: str, rules: Rules) -> str:
    """The name after all rules have been applied."""
    for pattern, replacement in rules:
        name = re.sub(pattern, replacement, name)
    return name


def table(names: Iterable[str], rules: Rules, prefix: str = "") -> dict[str, str]:
    """Their name -> our name for all names of a network."""
    return {prefix + rename(name, rules): name for name in names}


# Our names of 1 × 1 convolutions that other tools may store as matrices.
_AS_MATRIX = re.compile(r".+(\.mid\.1\.(query|key|value|out)|\.transformer\.proj_(in|out))\.weight")


def as_kernels(tensors: Mapping[str, StoredTensor]) -> dict[str, StoredTensor]:
    """The tensors of a network under our names, with each 1 × 1 convolution of shape (C, C, 1, 1)."""
    return {
        name: tensor.with_axes(4) if len(tensor.shape) in (2, 3) and _AS_MATRIX.fullmatch(name) else tensor
        for name, tensor in tensors.items()
    }


# Parts with the same names in all other layouts.
CLIP_TEXT: Rules = (
    (r"^(token|position)\.", r"embeddings.\1_embedding."),
    (r"^layers\.", "encoder.layers."),
    (r"^norm_out\.", "final_layer_norm."),
    (r"\.norm([12])\.", r".layer_norm\1."),
    (r"\.attention\.(query|key|value)\.", lambda m: f".self_attn.{m[1][0]}_proj."),
    (r"\.attention\.out\.", ".self_attn.out_proj."),
    (r"\.(fc[12])\.", r".mlp.\1."),
)
TRANSFORMER: Rules = (
    (r"\.block\.feed_forward\.value_and_gate\.", ".block.ff.net.0.proj."),
    (r"\.block\.feed_forward\.out\.", ".block.ff.net.2."),
    (r"\.block\.self_attention\.", ".block.attn1."),
    (r"\.block\.cross_attention\.", ".block.attn2."),
    (r"\.(attn[12])\.(query|key|value)\.", lambda m: f".{m[1]}.to_{m[2][0]}."),
    (r"\.(attn[12])\.out\.", r".\1.to_out.0."),
    (r"\.transformer\.block\.", ".transformer.transformer_blocks.0."),
)
