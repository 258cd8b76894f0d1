"""Tokenizer parity: each prompt has the same tokens as in transformers, and what is cut off is reported exactly."""

import json
import unicodedata
from copy import copy
from itertools import pairwise, takewhile

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prompts import ACCENTS, CONTRACTIONS, EMOJI, LONG, PROMPTS, WHAT_USERS_WRITE
from transformers import CLIPTokenizer
from typer.testing import CliRunner

from sdlab.commands.app import app
from sdlab.model.config import SD15
from sdlab.weights.vocabulary import tokenizer_in

LENGTH, START, END = 77, 49406, 49407
ROOM = LENGTH - 2

# For hypothesis: words and characters whose marks are in NFC order, so that a cut is unambiguous.
WORDS = [
    f"{word} "
    for text in WHAT_USERS_WRITE + CONTRACTIONS + ACCENTS + EMOJI
    for word in text.split()
    if unicodedata.is_normalized("NFC", word) or unicodedata.is_normalized("NFD", word)
]
CHARACTERS = st.characters(exclude_categories=["Cs", "Cn", "M"])
PIECES = st.sampled_from(WORDS) | st.text(CHARACTERS, max_size=8)
TEXTS = st.lists(PIECES, max_size=60).map("".join)
LONG_TEXTS = st.lists(PIECES, min_size=35, max_size=60).map("".join)


@pytest.fixture(scope="module")
def ours(clip_bpe):
    return tokenizer_in(clip_bpe, SD15.text)


@pytest.fixture(scope="module")
def theirs(clip_bpe):
    tokenizer = CLIPTokenizer.from_pretrained(clip_bpe)

    def encode(prompts, length=LENGTH):
        return tokenizer(prompts, padding="max_length", max_length=length, truncation=True).input_ids

    return encode


# Equal to transformers


def test_prompts_of_every_kind(ours, theirs):
    assert len(set(PROMPTS)) >= 300
    for prompt, row, wanted in zip(PROMPTS, ours(PROMPTS).tolist(), theirs(PROMPTS), strict=True):
        assert row == wanted, prompt


@settings(max_examples=200, deadline=None)
@given(TEXTS)
def test_any_text(ours, theirs, text):
    assert ours([text]).tolist() == theirs([text])


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=100))
def test_any_unicode(ours, theirs, text):
    assert ours([text]).tolist() == theirs([text])


# Equal to the definition, as transformers' tokenizer and ours use the same library


class Definition:
    """Byte-pair encoding as published, without optimisation."""

    contractions = ("'s", "'t", "'re", "'ve", "'m", "'ll", "'d")

    def __init__(self, folder):
        self.ids = json.loads((folder / "vocab.json").read_text("utf-8"))
        merges = (folder / "merges.txt").read_text("utf-8").splitlines()[1:]
        self.rank = {tuple(line.split(" ")): rank for rank, line in enumerate(merges)}
        printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
        others = [byte for byte in range(0x100) if byte not in printable]
        self.symbol = {b: chr(b) for b in printable} | {b: chr(0x100 + i) for i, b in enumerate(others)}
        self.byte = {symbol: byte for byte, symbol in self.symbol.items()}
        self.symbols = {token: symbol for symbol, token in self.ids.items()}

    @staticmethod
    def normal(text):
        """Composed, and each character in lower case."""
        return "".join(c.lower() for c in unicodedata.normalize("NFC", text))

    @staticmethod
    def kind(character):
        """Letter, number, space or other; only Python counts the separators U+001C to U+001F as space."""
        if character.isspace() and character not in "\x1c\x1d\x1e\x1f":
            return " "
        return {"L": "letter", "N": "number"}.get(unicodedata.category(character)[0], "other")

    def words(self, text):
        """Contractions, runs of letters, single numbers, runs of anything else except spaces."""
        while text:
            kind = self.kind(text[0])
            run = text[0] if kind == "number" else "".join(takewhile(lambda c, k=kind: self.kind(c) == k, text))
            run = next((c for c in self.contractions if text.startswith(c)), run)
            if kind != " ":
                yield run
            text = text[len(run) :]

    def tokens(self, word):
        """Merge the neighbours whose merge was learned first, until no merge applies."""
        symbols = [self.symbol[byte] for byte in word.encode()]
        symbols[-1] += "</w>"
        while known := [(self.rank[pair], i) for i, pair in enumerate(pairwise(symbols)) if pair in self.rank]:
            _, i = min(known)
            symbols[i : i + 2] = ["".join(symbols[i : i + 2])]
        return [self.ids[symbol] for symbol in symbols]

    def __call__(self, prompt):
        ids = [token for word in self.words(self.normal(prompt)) for token in self.tokens(word)]
        row = [START, *ids[:ROOM], END]
        return row + [END] * (LENGTH - len(row))

    def spell(self, ids):
        """The bytes of the tokens, without the spaces."""
        return bytes(self.byte[c] for i in ids for c in self.symbols[i].removesuffix("</w>"))


@pytest.fixture(scope="module")
def definition(clip_bpe):
    return Definition(clip_bpe)


def test_the_definition_of_the_encoding(ours, definition):
    prompts = [prompt for prompt in PROMPTS if "<|" not in prompt]  # the special tokens' names are no text
    for prompt, row in zip(prompts, ours(prompts).tolist(), strict=True):
        assert row == definition(prompt), prompt


def test_special_tokens_in_a_prompt_are_those_tokens(ours):
    assert ours(["<|endoftext|><|startoftext|>"])[0, :4].tolist() == [START, END, START, END]


# The start of a long prompt, which is all that is read


@settings(max_examples=200, deadline=None)
@given(TEXTS | st.text(max_size=100), st.integers(1, 20))
def test_a_prompt_has_the_first_tokens_of_its_whole_text(ours, text, room):
    short, whole = copy(ours), [token for token, _ in ours._encode([text])[0]]
    short.context_length = room + 2
    assert [token for token in short([text])[0].tolist()[1 : room + 1] if token != END] == [
        token for token in whole[:room] if token != END
    ]


def test_the_rest_of_a_long_prompt_is_not_read(ours, monkeypatch):
    read = []
    encode_batch = ours._bpe.encode_batch

    class Recorded:
        def encode_batch(self, prompts, **options):
            read.extend(prompts)
            return encode_batch(prompts, **options)

    monkeypatch.setattr(ours, "_bpe", Recorded())
    prompt = "a  red\tcar " * 100_000  # of three tokens each
    assert ours([prompt]).tolist() == ours([prompt[:1000]]).tolist()
    assert ours.cut(prompt) == "a  red\tcar " * (100_000 - ROOM // 3)
    assert max(map(len, read)) <= 1000


# What is cut off


def check_cut(ours, theirs, definition, prompt):
    """The cut text has the bytes of the dropped tokens, except for the kept part of its first character."""
    cut = ours.cut(prompt)
    dropped = [token for token in theirs([prompt], length=10_000)[0][1 + ROOM :] if token != END]
    assert prompt.endswith(cut)
    assert bool(cut) == bool(dropped)
    if cut:
        lost, first = ("".join(c for c in definition.normal(s) if definition.kind(c) != " ") for s in (cut, cut[0]))
        spelled = definition.spell(dropped)
        assert lost.encode().endswith(spelled)
        assert len(lost.encode()) - len(spelled) < len(first.encode())


@pytest.mark.parametrize("prompt", [p for p in LONG if "<|" not in p])
def test_the_cut_of_a_long_prompt(ours, theirs, definition, prompt):
    check_cut(ours, theirs, definition, prompt)


@settings(max_examples=200, deadline=None)
@given(LONG_TEXTS)
def test_the_cut_of_any_text(ours, theirs, definition, text):
    check_cut(ours, theirs, definition, text)


@pytest.mark.parametrize(
    ("end", "cut"),
    [
        ("", ""),
        ("sun", ""),
        ("sun  ", ""),
        ("sun Red  CAR, ", "Red  CAR, "),
        ("Cafe\u0301 cafe\u0301 NOIR", "cafe\u0301 NOIR"),
        ("it's", "'s"),
        ("sunpneumono", "pneumono"),  # one word, of which the first token fits
        ("日本", "本"),
        ("\u20bf x", "\u20bf x"),  # three tokens, one of which fits: the character is lost
    ],
)
def test_the_cut_in_the_words_of_the_prompt(ours, end, cut):
    assert ours.cut("a " * (ROOM - 1) + end) == cut


def test_generate_reports_the_cut_of_a_prompt(tmp_path):
    prompt = "red " * 22 + "on white and a BLUE [bold] Square"  # the lab model has room for 22 tokens
    done = CliRunner().invoke(app, ["generate", prompt, "--steps", "1", "--device", "cpu", "--out", str(tmp_path)])
    assert done.exit_code == 0
    said = " ".join(done.stderr.split())
    assert (
        "the prompt is too long for the text encoder; its end is ignored: 'on white and a BLUE [bold] Square'" in said
    )
