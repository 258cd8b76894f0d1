"""Tokens that textual inversion adds to a vocabulary (Gal et al. 2022, arXiv:2208.01618)."""

import json
import shutil
from dataclasses import replace

import pytest
import torch
from transformers import CLIPTokenizer
from user_files import NARROW, clip_vocabulary, random_weights, write_with_config

from sdlab.system.errors import UsageError
from sdlab.weights.export import export
from sdlab.weights.locate import locate
from sdlab.weights.model_loader import load, open_model
from sdlab.weights.vocabulary import read_tokenizer

SIZE = 49408  # of CLIP's vocabulary
TOKENS = {"<my-cat>": SIZE, "<my-cat>_1": SIZE + 1, "sks-Dog": SIZE + 2}
PROMPTS = [
    "a photo of <my-cat>", "<my-cat>", "a<my-cat>b, <MY-CAT> and <my-cat><my-cat>", "my-cat < my-cat >", "a sks-dog.",
    "SKS-DOG sks -dog", "a photo of a cat",
]  # fmt: skip
LENGTH = 77


@pytest.fixture
def vocabulary(tmp_path):
    clip_vocabulary(tmp_path / "tokenizer")
    return tmp_path / "tokenizer"


def tokenizer_of(folder, length=LENGTH):
    name = "tokenizer.json" if not (folder / "vocab.json").exists() else None
    return read_tokenizer(folder / (name or "vocab.json"), folder / (name or "merges.txt"), length)


def theirs(folder):
    """The tokenizer of transformers with the same tokens, and its tokens for the prompts."""
    tokenizer = CLIPTokenizer.from_pretrained(folder)
    if len(tokenizer) == SIZE:
        assert tokenizer.add_tokens(list(TOKENS)) == len(TOKENS)
    return tokenizer, lambda prompts: tokenizer(prompts, padding="max_length", max_length=LENGTH, truncation=True)[
        "input_ids"
    ]


def test_added_tokens_are_found_as_in_transformers(vocabulary):
    (vocabulary / "added_tokens.json").write_text(json.dumps(TOKENS))
    _, tokens = theirs(vocabulary)
    # Diffusers writes the tokens of a concept with several vectors into the prompt. Here that is part of the tokenizer.
    spread = [
        prompt.replace("<my-cat>", "<my-cat> <my-cat>_1").replace("<MY-CAT>", "<MY-CAT> <MY-CAT>_1")
        for prompt in PROMPTS
    ]
    found = tokenizer_of(vocabulary)
    assert found(PROMPTS).tolist() == tokens(spread)
    assert found.vocab_size == SIZE + 3
    assert found(["<my-cat>"])[0, 1:3].tolist() == [SIZE, SIZE + 1]
    assert found(["sks-dog"])[0, 1] == SIZE + 2


def test_a_vocabulary_that_transformers_has_written_in_one_file(vocabulary, tmp_path):
    (vocabulary / "added_tokens.json").write_text(json.dumps(TOKENS))
    tokenizer, _ = theirs(vocabulary)
    tokenizer.save_pretrained(tmp_path / "one")
    assert not (tmp_path / "one" / "vocab.json").exists()
    wanted = tokenizer_of(vocabulary)
    assert tokenizer_of(tmp_path / "one")(PROMPTS).tolist() == wanted(PROMPTS).tolist()
    # transformers 4 writes both forms.
    shutil.copy(tmp_path / "one" / "tokenizer.json", vocabulary)
    (vocabulary / "added_tokens.json").unlink()
    assert tokenizer_of(vocabulary)(PROMPTS).tolist() == wanted(PROMPTS).tolist()


def test_tokens_may_follow_the_end_token_in_the_vocabulary(vocabulary):
    (vocabulary / "added_tokens.json").write_text(json.dumps(TOKENS))
    wanted = tokenizer_of(vocabulary)(PROMPTS).tolist()
    (vocabulary / "added_tokens.json").unlink()
    words = json.loads((vocabulary / "vocab.json").read_text())
    (vocabulary / "vocab.json").write_text(json.dumps(words | TOKENS))
    assert tokenizer_of(vocabulary)(PROMPTS).tolist() == wanted


def test_a_prompt_is_cut_where_an_added_token_with_several_vectors_does_not_fit(vocabulary):
    (vocabulary / "added_tokens.json").write_text(json.dumps(TOKENS))
    found = tokenizer_of(vocabulary, 5)
    assert found.cut("a cat, <my-cat> here") == "<my-cat> here"
    assert found.cut("a <my-cat>") == ""
    assert found.cut("a cat <my-cat>") == "<my-cat>"  # its second vector is lost
    assert found(["a cat <my-cat>"])[0, 3:].tolist() == [SIZE, found.end]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"<a>": SIZE + 1}, rf"must map each token to its id, {SIZE} to {SIZE} once each"),
        ({"<a>": SIZE, "<b>": SIZE}, "once each"),
        ({"<a>": "49408"}, "once each"),
        ({"<a>": -1}, "once each"),
        ({"<a>": 2**70}, "once each"),
        ({"<a>": True}, "once each"),
        ({"<a>": None}, "once each"),
        ({"cat</w>": SIZE}, r"token 'cat</w>' has id 49408, but \d+ in vocab\.json"),
        ([], "must be a JSON object"),
        ("x", "must be a JSON object"),
    ],
)
def test_added_tokens_that_are_invalid_are_one_line(vocabulary, content, message):
    (vocabulary / "added_tokens.json").write_text(json.dumps(content))
    with pytest.raises(UsageError, match=message) as error:
        tokenizer_of(vocabulary)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("added", [3, [3], [{"content": "<a>"}], {"a": 1}, [{"content": 5, "id": SIZE}], "abc"])
def test_added_tokens_of_another_form_are_one_line(vocabulary, added):
    (vocabulary / "tokenizer.json").write_text(json.dumps({"added_tokens": added}))
    with pytest.raises(UsageError, match=r"tokenizer\.json: the added tokens are not in the format of transformers"):
        tokenizer_of(vocabulary)


def test_a_model_with_an_added_token_in_every_layout(tmp_path):
    config = replace(NARROW, text=replace(NARROW.text, vocab_size=SIZE + 3))
    clip_vocabulary(tmp_path)
    (tmp_path / "added_tokens.json").write_text(json.dumps(TOKENS))
    single = tmp_path / "a.safetensors"
    write_with_config(single, config, random_weights(config))
    assert tmp_path / "added_tokens.json" in locate(single).files
    wanted = load(single)
    assert wanted.tokenizer(["a <my-cat>"])[0, 2] == SIZE
    previous = single
    for layout in ("diffusers", "sdlab"):
        export(previous, layout, tmp_path / layout)
        found = load(tmp_path / layout)
        assert found.tokenizer(PROMPTS).tolist() == wanted.tokenizer(PROMPTS).tolist()
        context = found.text(found.tokenizer(PROMPTS))
        assert torch.equal(context, wanted.text(wanted.tokenizer(PROMPTS)))
        previous = tmp_path / layout
    theirs = json.loads((tmp_path / "diffusers" / "text_encoder" / "config.json").read_text())
    assert theirs["eos_token_id"] == wanted.tokenizer.end == SIZE - 1
    assert json.loads((tmp_path / "diffusers" / "tokenizer" / "added_tokens.json").read_text()) == TOKENS
    tokens = CLIPTokenizer.from_pretrained(tmp_path / "diffusers" / "tokenizer")
    assert tokens("a sks-dog")["input_ids"][2] == SIZE + 2


def test_a_token_without_an_embedding_is_named(tmp_path):
    clip_vocabulary(tmp_path)
    write_with_config(tmp_path / "a.safetensors", NARROW, random_weights(NARROW))
    (tmp_path / "added_tokens.json").write_text(json.dumps(TOKENS))
    with pytest.raises(UsageError, match=rf"has {SIZE + 3} tokens, but text.vocab_size of .* is {SIZE}"):
        open_model(tmp_path / "a.safetensors")
