"""Tiny models of every family with one byte-level tokenizer, for the tests of the page."""

import functools

import torch
from transformers import (
    BartConfig,
    BartForConditionalGeneration,
    BertConfig,
    BertForMaskedLM,
    GPT2Config,
    GPT2LMHeadModel,
    MarianConfig,
    MarianMTModel,
    T5Config,
    T5ForConditionalGeneration,
)

import vaswani_tx
from vaswani_tx import VaswaniTokenizer

SENTENCE = "The cat drinks the milk because it is thirsty."
LINES = [SENTENCE, "Die Katze trinkt die Milch, weil sie durstig ist.", "A dog runs on the green grass."]
SIDES = ("encoder", "decoder")


@functools.cache
def tokenizer():
    """Return a byte-level tokenizer with a mask token."""
    return VaswaniTokenizer.train(
        iter(LINES), vocab_size=300, min_frequency=1, show_progress=False, mask_token="<mask>"
    )


def both(**sizes):
    """Return settings of both stacks under the names of BART and MarianMT."""
    return {f"{side}_{name}": value for side in SIDES for name, value in sizes.items()}


def make(kind):
    """Return a model of random weights, large enough that its attention is not flat."""
    torch.manual_seed(0)
    size = len(tokenizer())
    ours = our_models(size)
    model = ours[kind]() if kind in ours else other_models(size)[kind]()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(3 if kind in ours else 8)
    if model.can_generate():
        model.generation_config.max_new_tokens = 12
    return model.eval()


def our_models(size):
    """Return what makes each of our families."""
    sizes = {"vocab_size": size, "d_model": 32, "d_ff": 64, "num_heads": 4}
    layers = {"encoder_layers": 2, "decoder_layers": 2}
    pre_norm = {"norm_order": "pre", "position_embedding": "learned", "d_k": 4, "d_v": 12}
    image = {"image_size": 16, "patch_size": 4, "d_model": 32, "d_ff": 64, "num_heads": 4, "num_hidden_layers": 2}
    return {
        "vaswani": lambda: vaswani_tx.VaswaniForConditionalGeneration(vaswani_tx.VaswaniConfig(**sizes, **layers)),
        "pre-norm": lambda: vaswani_tx.VaswaniForConditionalGeneration(
            vaswani_tx.VaswaniConfig(**sizes, **layers, **pre_norm)
        ),
        "masked": lambda: vaswani_tx.VaswaniForMaskedLM(vaswani_tx.VaswaniEncoderConfig(**sizes, num_hidden_layers=2)),
        "classifier": lambda: vaswani_tx.VaswaniForSequenceClassification(
            vaswani_tx.VaswaniEncoderConfig(**sizes, num_hidden_layers=2, num_labels=3)
        ),
        "causal": lambda: vaswani_tx.VaswaniForCausalLM(vaswani_tx.VaswaniDecoderConfig(**sizes, num_hidden_layers=2)),
        "image": lambda: vaswani_tx.VaswaniForImageClassification(
            vaswani_tx.VaswaniVisionConfig(**image, num_labels=3)
        ),
    }


def other_models(size):
    """Return what makes models of other architectures."""
    ids = {"pad_token_id": 0, "eos_token_id": 2, "decoder_start_token_id": 1, "bos_token_id": 1}
    stacks = {"vocab_size": size, "d_model": 32, **both(layers=2, attention_heads=4, ffn_dim=32), **ids}
    t5 = {"d_model": 32, "d_ff": 32, "d_kv": 8, "num_layers": 2, "num_heads": 4}
    t5 |= {"pad_token_id": 0, "eos_token_id": 2, "decoder_start_token_id": 0}
    gpt2 = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 128}
    gpt2 |= {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    bert = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 32}
    return {
        "marian": lambda: MarianMTModel(MarianConfig(**stacks, max_position_embeddings=128)),
        "bart": lambda: BartForConditionalGeneration(BartConfig(**stacks, max_position_embeddings=128)),
        "t5": lambda: T5ForConditionalGeneration(T5Config(vocab_size=size, **t5)),
        "gpt2": lambda: GPT2LMHeadModel(GPT2Config(vocab_size=size, **gpt2)),
        "bert": lambda: BertForMaskedLM(BertConfig(vocab_size=size, **bert, max_position_embeddings=128)),
    }
