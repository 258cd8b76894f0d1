"""The survey of a data set: how many pictures there are, how large, and how long their captions are."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import median

from sdlab.model.config import Size
from sdlab.model.tokenizer import Tokenizer, train_vocabulary
from sdlab.system.errors import UsageError
from sdlab.train.captioned_config import HELD_OUT
from sdlab.train.sources.collection import read_collection, split

FEWEST = 16  # pictures left to train on
_LARGEST_VOCABULARY = 4096  # tokens
_ANY_LENGTH = 2**20


@dataclass(frozen=True)
class Survey:
    """What the settings of a recipe depend on."""

    train: int  # pictures to train on
    held: int  # pictures held out for measurements
    smallest: Size  # picture by its shorter side, in pixels
    largest: Size
    side: int  # the median of the shorter sides, in pixels
    vocabulary: int  # tokens
    tokens: int  # of the longest caption, with start and end


def survey(data: str) -> Survey:
    """Read the pictures of a folder or of tar shards.

    Raises:
        UsageError: `data` cannot be used, or has too few pictures.
    """
    entries = read_collection(data)
    train, held = split(entries, HELD_OUT)
    if len(train) < FEWEST:
        raise UsageError(
            f"{data}: has {len(entries)} pictures with captions, of which {len(held)} are held out; "
            f"training needs at least {FEWEST} more than that"
        )
    sizes = sorted((one.size() for one in entries), key=min)
    captions = [caption for one in train for caption in one.captions]
    tokenizer = Tokenizer(*train_vocabulary(captions, _LARGEST_VOCABULARY), context_length=_ANY_LENGTH)
    return Survey(
        train=len(train),
        held=len(held),
        smallest=sizes[0],
        largest=sizes[-1],
        side=int(median(min(size) for size in sizes)),
        vocabulary=tokenizer.vocab_size,
        tokens=max(tokenizer.length(caption) for one in entries for caption in one.captions),
    )
