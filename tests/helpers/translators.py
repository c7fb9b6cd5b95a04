"""Two tiny translation models of random weights over one vocabulary of made-up words: ours and HF MarianMT."""

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import MarianConfig, MarianMTModel, TokenizersBackend

import vaswani_tx

WORDS = [f"w{number}" for number in range(36)]
VOCABULARY = {"<pad>": 0, "<s>": 1, "</s>": 2, "<unk>": 3} | {word: 4 + i for i, word in enumerate(WORDS)}


def make_tokenizer():
    backend = Tokenizer(models.WordLevel(VOCABULARY, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    backend.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 2)])
    names = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    return TokenizersBackend(tokenizer_object=backend, padding_side="right", **names)


def make_model(kind):
    torch.manual_seed(0)
    if kind == "marian":
        settings = {f"{side}_{name}": 2 for side in ("encoder", "decoder") for name in ("layers", "attention_heads")}
        model = MarianMTModel(
            MarianConfig(
                vocab_size=len(VOCABULARY),
                d_model=16,
                encoder_ffn_dim=32,
                decoder_ffn_dim=32,
                max_position_embeddings=256,
                pad_token_id=0,
                eos_token_id=2,
                decoder_start_token_id=1,
                forced_eos_token_id=None,
                **settings,
            )
        )
    else:
        config = vaswani_tx.VaswaniConfig(
            vocab_size=len(VOCABULARY), d_model=16, d_ff=32, num_heads=2, encoder_layers=2, decoder_layers=2
        )
        model = vaswani_tx.VaswaniForConditionalGeneration(config)
    # Fresh weights are too small for the source to matter; larger ones make every sentence's output its own.
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(15 if kind == "marian" else 3)
    return model.eval()


@pytest.fixture(scope="module", params=["vaswani", "marian"])
def folder(request, tmp_path_factory):
    path = tmp_path_factory.mktemp(request.param)
    make_model(request.param).save_pretrained(path)
    make_tokenizer().save_pretrained(path)
    return path


def sentences(lengths):
    generator = torch.Generator().manual_seed(1)
    return [" ".join(WORDS[i] for i in torch.randint(len(WORDS), (n,), generator=generator)) for n in lengths]
