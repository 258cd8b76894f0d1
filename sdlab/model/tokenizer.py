"""CLIP's byte-level byte-pair encoding, and the training of a small vocabulary in its format.

Byte-pair encoding (Sennrich et al. 2015, arXiv:1508.07909) on bytes, in lower case, with the last symbol of a word
marked `</w>` (Radford et al. 2021, arXiv:2103.00020, sec. 2.4). Longer prompts are truncated to the context
length, and shorter ones are padded with the end token.

With CLIP's vocabulary, every prompt gives the same tokens as in transformers 5 (CLIPTokenizer). Unicode is normalised
to NFC, runs of white space become one space, and nothing else is cleaned. OpenAI's tokenizer differs for a few prompts.
It first repairs broken encodings (ftfy) and decodes HTML entities twice, while `&amp;` here becomes the three tokens
`&`, `amp` and `;`. It also lowercases a Greek Σ at the end of a word to ς, while Σ here always becomes σ.
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterable, Sequence

import torch
from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers, trainers
from tokenizers import Tokenizer as BpeTokenizer
from torch import Tensor

START, END = "<|startoftext|>", "<|endoftext|>"
WORD_END = "</w>"

# English contractions, runs of letters, single digits, and runs of anything else except spaces.
_WORDS = r"'s|'t|'re|'ve|'m|'ll|'d|\p{L}+|\p{N}|[^\s\p{L}\p{N}]+"

Vocabulary = dict[str, int]
Merges = list[tuple[str, str]]


def _prepare(bpe: BpeTokenizer) -> BpeTokenizer:
    """Set up CLIP's text normalisation and splitting into words, which come before the merges."""
    bpe.normalizer = normalizers.Sequence(
        [normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()]
    )
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_WORDS), behavior="removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    return bpe


class Tokenizer:
    """Prompts -> token ids (B, L), each row: start, at most L − 2 tokens, end, end, …"""

    def __init__(
        self, vocab: Vocabulary, merges: Merges, context_length: int, added: Sequence[AddedToken] = ()
    ) -> None:
        """`added` are tokens of the vocabulary that no merge makes, as textual inversion adds them (Gal et al. 2022,
        arXiv:2208.01618). Each is found whole in a prompt. `<x>` stands for `<x> <x>_1 <x>_2 …`, as in diffusers.
        """
        if missing := [word for word in (START, END) if word not in vocab]:
            raise ValueError(f"the vocabulary lacks {missing[0]!r}")
        model = models.BPE(vocab=vocab, merges=merges, end_of_word_suffix=WORD_END, unk_token=END)
        self._bpe = _prepare(BpeTokenizer(model))
        self._bpe.decoder = decoders.Sequence([decoders.ByteLevel(), decoders.Replace(WORD_END, " ")])
        self._bpe.add_special_tokens([START, END])
        self._bpe.add_tokens(list(added))
        self._vectors = {vocab[token.content]: _vectors(token.content, vocab) for token in added}
        self._words = max((token.content.count(" ") + 1 for token in added), default=1)  # that one token may have
        self.context_length = context_length
        self.vocab_size = len(vocab)
        self.start, self.end = vocab[START], vocab[END]

    def __call__(self, prompts: Sequence[str]) -> Tensor:
        """Token ids, int64 (B, L)."""
        room = self.context_length - 2
        rows = []
        for tokens in self._encode(_beginning(prompt, room * self._words) for prompt in prompts):
            row = [self.start, *(token for token, _ in tokens[:room]), self.end]
            rows.append(row + [self.end] * (self.context_length - len(row)))
        return torch.tensor(rows, dtype=torch.long).reshape(len(rows), self.context_length)

    def length(self, prompt: str) -> int:
        """The number of tokens of the whole prompt, with start and end."""
        return len(self._encode([prompt])[0]) + 2

    def cut(self, prompt: str) -> str:
        """The end of the prompt that does not fit into the context, empty if the whole prompt fits.

        If a word is cut, the result starts at the first character that is lost, even in part.
        """
        room = self.context_length - 2
        dropped = self._encode([_beginning(prompt, (room + 1) * self._words)])[0][room:]
        return prompt[dropped[0][1] :] if dropped else ""

    def decode(self, tokens: Sequence[int]) -> str:
        """The text of the tokens, in lower case, without start and end."""
        return self._bpe.decode(list(tokens)).strip()

    def _encode(self, prompts: Iterable[str]) -> list[list[tuple[int, int]]]:
        """The tokens of each prompt, each with the index of its first character."""
        return [
            [
                (token, start)
                for i, (start, _) in zip(e.ids, e.offsets, strict=True)
                for token in self._vectors.get(i, (i,))
            ]
            for e in self._bpe.encode_batch(list(prompts), add_special_tokens=False)
        ]


def _beginning(prompt: str, words: int) -> str:
    """The prompt up to the end of this many words: text between spaces, which has at least one token each.

    The rest of a long prompt need not be read to find its first tokens.
    """
    ends = (match.end() for match in re.finditer("[^ ]+", prompt) if not match[0].isspace())
    return prompt[: next(itertools.islice(ends, words - 1, None), None)]


def _vectors(token: str, vocab: Vocabulary) -> tuple[int, ...]:
    """The ids of `<x>`, `<x>_1`, `<x>_2`, … as far as the vocabulary has them."""
    more = itertools.takewhile(vocab.__contains__, (f"{token}_{i}" for i in itertools.count(1)))
    return (vocab[token], *(vocab[name] for name in more))


def train_vocabulary(captions: Iterable[str], size: int) -> tuple[Vocabulary, Merges]:
    """Train a vocabulary of at most `size` tokens: all bytes, all bytes that end a word, merges, start and end.

    It can encode any text, and its end token has the highest id. The same captions always give the same vocabulary.

    Raises:
        ValueError: `size` is too small for the bytes and the two special tokens.
    """
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    endings = [symbol + WORD_END for symbol in alphabet]
    room = size - len(alphabet) - len(endings) - 2
    if room < 0:
        raise ValueError(f"size must be at least {size - room}, got {size!r}")
    bpe = _prepare(BpeTokenizer(models.BPE(end_of_word_suffix=WORD_END)))
    trainer = trainers.BpeTrainer(
        vocab_size=size - 2,  # start and end are added below
        min_frequency=2,
        initial_alphabet=alphabet,
        # Ids break ties between equally frequent pairs. Fixed ids for word endings make every run the same.
        special_tokens=endings,
        end_of_word_suffix=WORD_END,
        show_progress=False,
    )
    bpe.train_from_iterator(captions, trainer)
    merges: Merges = [(left, right) for left, right in json.loads(bpe.to_str())["model"]["merges"]]
    words = dict.fromkeys([*alphabet, *endings, *(left + right for left, right in merges), START, END])
    return {word: i for i, word in enumerate(words)}, merges
