"""A source and a target vocabulary of different sizes, with different ids of their special tokens."""

import json

import torch
from tokenizers import Tokenizer

from vaswani_tx import VaswaniConfig, VaswaniForConditionalGeneration, VaswaniTokenizer

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


def model_of(pair):
    """Return a random encoder-decoder with an embedding for each side of a tokenizer, which writes several tokens."""
    torch.manual_seed(0)
    sizes = {"d_model": 16, "d_ff": 32, "num_heads": 2, "encoder_layers": 1, "decoder_layers": 2}
    special = {name: getattr(pair, name) for name in ("pad_token_id", "bos_token_id", "eos_token_id")}
    sizes |= {"source_vocab_size": len(pair), "vocab_size": len(pair.target)}
    config = VaswaniConfig(tie_word_embeddings=False, lm_head_bias=True, **special, **sizes)
    model = VaswaniForConditionalGeneration(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.normal_(0, 0.4)
        model.lm_head.weight.normal_(0, 1)
        model.lm_head.bias[:260] -= 6  # words rather than bytes
    model.generation_config.max_extra_tokens, model.generation_config.min_new_tokens = 6, 5
    model.generation_config.no_repeat_ngram_size = 2
    return model
