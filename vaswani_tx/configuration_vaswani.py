"""Configurations of the four families, with the paper's defaults."""

from typing import ClassVar

from huggingface_hub.dataclasses import strict

from .configuration_vaswani_base import (
    INIT_SCHEMES,
    PRESETS,
    InitScheme,
    VaswaniBaseConfig,
    VaswaniTextConfig,
    preset_fields,
)


@strict
class VaswaniConfig(VaswaniTextConfig):
    r"""Configuration of the encoder-decoder of "Attention Is All You Need" (section 3; defaults: the base model).

    Args:
        vocab_size: entries of the vocabulary that source and target share (section 5.1: about 37,000), or of the
            target's alone.
        source_vocab_size: entries of the source's vocabulary, where it has a vocabulary and an embedding of its own;
            `vocab_size` and the special tokens are then the target's. None, the paper's: both sides share one.
        d_model: width of every sub-layer's output.
        d_ff: inner width of the position-wise feed-forward network (section 3.3).
        num_heads: parallel attention heads h (section 3.2.2).
        d_k: width of a head's queries and keys; None: `d_model / num_heads`.
        d_v: width of a head's values; None: `d_model / num_heads`.
        encoder_layers: layers N of the encoder stack.
        decoder_layers: layers N of the decoder stack.
        dropout: rate on each sub-layer's output and on the embedding sums (section 5.4).
        attention_dropout: rate on the attention weights. The paper has none.
        activation_dropout: rate inside the feed-forward network. The paper has none.
        activation_function: the feed-forward non-linearity. The paper's is ReLU.
        layer_norm_eps: epsilon of every LayerNorm (tensor2tensor's 1e-6; the paper gives none).
        norm_order: "post", `LayerNorm(x + Sublayer(x))`, is the paper's; "pre" normalises a sub-layer's input.
        final_layer_norm: a further LayerNorm after each stack. The paper has none; "pre" usually needs it.
        attention_bias: biases in the four attention projections. The paper has none.
        lm_head_bias: a bias on the output logits. The paper has none.
        position_embedding: "sinusoidal" (section 3.5) or "learned" (Table 3, row E).
        position_frequencies: "paper" (section 3.5) or "tensor2tensor", as there and in fairseq.
        position_offset: the number of the sinusoids' first position. The paper's is 0, fairseq's 2.
        embedding_norm: a LayerNorm on the sum of embedding and position. The paper has none.
        decoder_cell: "attention", the paper's masked self-attention, or "ssru", a recurrence in its place (Kim et al.
            2019), which small and fast models trained elsewhere have.
        init_scheme: the initial weights, a name of `INIT_SCHEMES`: "tensor2tensor", "fairseq", "small" (BERT's and
            MarianMT's), "small_attention", "deepnorm" (small translation models) or "small_embeddings" (taggers).
        max_position_embeddings: rows of the position table. Sinusoids continue beyond it, at any length.
        scale_embedding: multiply embeddings by sqrt(d_model) (section 3.4).
        tie_word_embeddings: one matrix for both embeddings and the output projection (section 3.4); with a
            `source_vocab_size`, for the target's embedding and the projection. False: the output projection gets a
            matrix of its own; source and target, of one vocabulary, still share theirs.
        use_cache: keep keys and values of earlier positions while generating.
        pad_token_id, bos_token_id, eos_token_id, decoder_start_token_id: the special tokens, ids of `vocab_size`.

    The names that transformers' tools look for (`hidden_size`, `num_attention_heads`, `intermediate_size`, `head_dim`,
    `num_hidden_layers`, ...) work as keyword and as attribute. As in transformers' other encoder-decoders,
    `num_hidden_layers` is that of the encoder only.

    Raises:
        ValueError: a field has a wrong value; the message names the field and says how to fix it.
    """

    model_type = "vaswani"
    keys_to_ignore_at_inference: ClassVar[list[str]] = ["past_key_values"]
    attribute_map: ClassVar[dict[str, str]] = {
        **VaswaniBaseConfig.attribute_map,
        "encoder_ffn_dim": "d_ff",
        "decoder_ffn_dim": "d_ff",
        "encoder_attention_heads": "num_heads",
        "decoder_attention_heads": "num_heads",
        "num_hidden_layers": "encoder_layers",
        "num_encoder_layers": "encoder_layers",
        "num_decoder_layers": "decoder_layers",
    }
    _layer_fields = ("encoder_layers", "decoder_layers")
    _size_fields = (*VaswaniBaseConfig._size_fields, "source_vocab_size")
    _token_fields = (*VaswaniBaseConfig._token_fields, "decoder_start_token_id")

    vocab_size: int = 37000
    source_vocab_size: int | None = None
    encoder_layers: int = 6
    decoder_layers: int = 6
    decoder_cell: str = "attention"
    lm_head_bias: bool = False
    max_position_embeddings: int = 1024
    scale_embedding: bool = True
    tie_word_embeddings: bool = True
    use_cache: bool = True
    is_encoder_decoder: bool = True
    pad_token_id: int | None = 0
    bos_token_id: int | None = 1
    eos_token_id: int | list[int] | None = 2
    decoder_start_token_id: int | None = 1

    def _check_sizes(self):
        super()._check_sizes()
        if self.decoder_cell not in ("attention", "ssru"):
            raise ValueError(f"decoder_cell must be 'attention' (the paper's) or 'ssru', not {self.decoder_cell!r}.")


@strict
class VaswaniEncoderConfig(VaswaniTextConfig):
    r"""Configuration of the encoder alone: masked language models, classifiers, taggers, question answering.

    The fields are those of `VaswaniConfig` (section 3; defaults: the base model's encoder), but for:

    Args:
        num_hidden_layers: layers N of the stack.
        classifier_dropout: rate before the last layer of a classifier; None: `dropout`.

    Raises:
        ValueError: a field has a wrong value; the message names the field and says how to fix it.
    """

    model_type = "vaswani_encoder"

    vocab_size: int = 37000
    num_hidden_layers: int = 6
    lm_head_bias: bool = False
    max_position_embeddings: int = 1024
    scale_embedding: bool = True
    tie_word_embeddings: bool = True
    classifier_dropout: float | int | None = None
    pad_token_id: int | None = 0
    bos_token_id: int | None = 1
    eos_token_id: int | list[int] | None = 2


@strict
class VaswaniDecoderConfig(VaswaniTextConfig):
    r"""Configuration of the decoder alone, without attention to an encoder: causal language models.

    The fields are those of `VaswaniConfig` (section 3; defaults: the base model's decoder), but for:

    Args:
        num_hidden_layers: layers N of the stack.

    Raises:
        ValueError: a field has a wrong value; the message names the field and says how to fix it.
    """

    model_type = "vaswani_decoder"
    keys_to_ignore_at_inference: ClassVar[list[str]] = ["past_key_values"]

    vocab_size: int = 37000
    num_hidden_layers: int = 6
    lm_head_bias: bool = False
    max_position_embeddings: int = 1024
    scale_embedding: bool = True
    tie_word_embeddings: bool = True
    use_cache: bool = True
    pad_token_id: int | None = 0
    bos_token_id: int | None = 1
    eos_token_id: int | list[int] | None = 2


@strict
class VaswaniVisionConfig(VaswaniBaseConfig):
    r"""Configuration of the encoder over image patches (Dosovitskiy et al. 2021, on the paper's layers).

    The fields are those of `VaswaniConfig` (section 3; defaults: the base model's encoder), but for:

    Args:
        num_hidden_layers: layers N of the stack.
        image_size: height and width of the images in pixels, a number or a pair.
        patch_size: height and width of a patch in pixels, a number or a pair; it divides the image.
        num_channels: channels of an image, 3 for colour.
        position_embedding: "sinusoidal" (section 3.5, patches counted row by row), "sinusoidal_2d" (half of the
            channels for the row, half for the column) or "learned".
        classifier_dropout: rate before the last layer of a classifier; None: `dropout`.

    Raises:
        ValueError: a field has a wrong value; the message names the field and says how to fix it.
    """

    model_type = "vaswani_vision"
    _size_fields = ("d_model", "d_ff", "num_heads", "num_channels")
    _position_kinds = ("sinusoidal", "sinusoidal_2d", "learned")
    _token_fields = ()

    num_hidden_layers: int = 6
    image_size: int | list[int] | tuple[int, ...] = 224
    patch_size: int | list[int] | tuple[int, ...] = 16
    num_channels: int = 3
    classifier_dropout: float | int | None = None

    def _check_sizes(self):
        super()._check_sizes()
        pairs = {}
        for name in ("image_size", "patch_size"):
            value = getattr(self, name)
            pair = tuple(value) if isinstance(value, (list, tuple)) else (value, value)
            if len(pair) != 2 or any(not isinstance(side, int) or side < 1 for side in pair):
                raise ValueError(f"{name} must be a positive number of pixels or a pair of them, not {value!r}.")
            pairs[name] = pair
        for image, patch in zip(pairs["image_size"], pairs["patch_size"], strict=True):
            if image % patch:
                raise ValueError(
                    f"patch_size={self.patch_size} does not divide image_size={self.image_size}: choose an image size "
                    f"such as {max(patch, image // patch * patch)}."
                )


__all__ = [
    "INIT_SCHEMES",
    "PRESETS",
    "InitScheme",
    "VaswaniConfig",
    "VaswaniDecoderConfig",
    "VaswaniEncoderConfig",
    "VaswaniVisionConfig",
    "preset_fields",
]
