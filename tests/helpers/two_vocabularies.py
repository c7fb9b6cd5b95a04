"""A source and a target vocabulary of different sizes, with different ids of their special tokens."""

import json

from tokenizers import Tokenizer

from vaswani_tx import VaswaniTokenizer

ENGLISH = ["A small dog runs on the green grass.", "The cat sleeps.", "Two men talk to a woman.", "The old house."]
GERMAN = ["Ein kleiner Hund l\u00e4uft \u00fcber das gr\u00fcne Gras.", "Die Katze schl\u00e4ft.",
          "Zwei M\u00e4nner reden mit einer Frau.", "Das alte Haus."]  # fmt: skip


def separate_tokenizers():
    """Return the tokenizers of English, whose padding is not 0, and of German."""
    source = VaswaniTokenizer.train(iter(ENGLISH * 3), vocab_size=300, show_progress=False)
    target = VaswaniTokenizer.train(iter(GERMAN * 3), vocab_size=330, show_progress=False)
    return with_other_ids(source, "<pad>", "<unk>"), target


def with_other_ids(tokenizer, one, other):
    """Return the tokenizer with the ids of two special tokens exchanged."""
    pipeline = json.loads(tokenizer.backend_tokenizer.to_str())
    vocabulary = pipeline["model"]["vocab"]
    vocabulary[one], vocabulary[other] = vocabulary[other], vocabulary[one]
    for token in pipeline["added_tokens"]:
        token["id"] = vocabulary[token["content"]]
    pipeline["added_tokens"].sort(key=lambda token: token["id"])
    backend = Tokenizer.from_str(json.dumps(pipeline))
    return VaswaniTokenizer(tokenizer_object=backend, split_special_tokens=True, **tokenizer.special_tokens_map)
