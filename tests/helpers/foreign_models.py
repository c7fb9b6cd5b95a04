"""Models of transformers with random weights, saved as originals of conversions, and SentencePiece models."""

import io
import json
import random
from functools import cache
from pathlib import Path

import sentencepiece
import torch
from transformers import MarianConfig, MarianMTModel

WORDS = ["der", "das", "kleiner", "großer", "Hund", "Häuser", "läuft", "über", "Brücke", "weiß", "warum", "2000"]
ENGLISH = ["the", "small", "big", "dog", "house", "houses", "runs", "over", "bridge", "knows", "why", "quickly"]


def sentences(words: list[str], count: int = 400) -> list[str]:
    """Return sentences of random words."""
    draw = random.Random(len(words))
    return [" ".join(draw.choice(words) for _ in range(draw.randrange(3, 12))).capitalize() + "." for _ in range(count)]


@cache
def sentencepiece_model(kind: str = "unigram", german: bool = False, **options) -> bytes:
    """Train a small SentencePiece model and return its file."""
    words = WORDS if german else ENGLISH
    file = io.BytesIO()
    settings = {"vocab_size": 90, "hard_vocab_limit": False, "minloglevel": 2, "num_threads": 1} | options
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(sentences(words)), model_writer=file, model_type=kind, **settings
    )
    return file.getvalue()


def randomise(model, seed: int = 0):
    """Give every weight that is trained a value that shows in the logits, biases and norms too."""
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "embed_positions" not in name:
                noise = torch.randn(weight.shape, generator=draw) * 0.2
                weight.copy_(noise if weight.dim() > 1 else weight + noise)  # norms are around 1, biases around 0
        for name, weight in model.named_buffers():
            if name == "final_logits_bias":
                weight.add_(torch.randn(weight.shape, generator=draw))
    return model.eval()


def marian(**fields) -> MarianMTModel:
    """Return a small MarianMT with random weights."""
    sizes = {
        "vocab_size": 41,
        "d_model": 24,
        "encoder_layers": 2,
        "decoder_layers": 1,
        "encoder_attention_heads": 3,
        "decoder_attention_heads": 3,
        "encoder_ffn_dim": 37,
        "decoder_ffn_dim": 37,
        "pad_token_id": 5,
        "decoder_start_token_id": 5,
        "max_position_embeddings": 40,
        "activation_function": "swish",
        "scale_embedding": True,
    }
    model = randomise(MarianMTModel(MarianConfig(**(sizes | fields))))
    model.generation_config.bad_words_ids = [[5]]
    model.generation_config.num_beams = 4
    model.generation_config.max_length = 14
    return model


def marian_folder(folder: Path, kind: str = "unigram", separate: bool = False, tags: tuple[str, ...] = ()) -> Path:
    """Save a small MarianMT with SentencePiece models and vocabularies, as OPUS-MT does."""
    files = {"source.spm": sentencepiece_model(kind), "target.spm": sentencepiece_model(kind, german=True)}
    pieces = []
    for content in files.values():
        model = sentencepiece.SentencePieceProcessor(model_proto=content)
        pieces.append([model.id_to_piece(index) for index in range(3, len(model))])
    source, target = pieces
    if separate:
        vocabularies = {"vocab.json": source[:-2], "target_vocab.json": target}
    else:
        vocabularies = {"vocab.json": [*dict.fromkeys([*source, *target]), *tags]}
    tables = {
        name: {text: index for index, text in enumerate(["</s>", "<unk>", "<pad>", *texts])}
        for name, texts in vocabularies.items()
    }
    size, last = len(tables["vocab.json"]), len(list(tables.values())[-1])
    ids = {"pad_token_id": 2, "decoder_start_token_id": 2}
    model = marian(vocab_size=size, decoder_vocab_size=last, share_encoder_decoder_embeddings=not separate, **ids)
    model.generation_config.bad_words_ids = [[2]]
    model.save_pretrained(folder)
    for name, content in files.items():
        (folder / name).write_bytes(content)
    for name, table in tables.items():
        (folder / name).write_text(json.dumps(table), encoding="utf-8")
    settings = {"tokenizer_class": "MarianTokenizer", "model_max_length": 512, "separate_vocabs": separate}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
    return folder
