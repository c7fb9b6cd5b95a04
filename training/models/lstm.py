# Shapes: B batch, S source length, T target length, E width of embeddings, W width of LSTMs, N layers, V vocabulary.
"""The predecessor of the Transformer: an LSTM encoder-decoder with attention, as a model of transformers.

    vaswani-tx train translation multi30k_en_de_lstm --data-dir PATH/TO/multi30k

The encoder is bidirectional (Bahdanau et al. 2015, arXiv 1409.0473), the attention and its output layer are Luong's
(2015, arXiv 1508.04025: "general" or "dot", or Bahdanau's "additive" score; input feeding is an option), layers are
stacked with dropout between them (Zaremba et al. 2014, arXiv 1409.2329), and translations are searched with GNMT's
length penalty (Wu et al. 2016, arXiv 1609.08144). Without attention (`attention: none`) it is the model of Sutskever et
al. (2014, arXiv 1409.3215), whose decoder sees only one state of the source. Source and target share vocabulary and
embeddings, and the output layer the same matrix, as in the Transformer it is compared with.

Importing this file registers the classes, so that `AutoModelForSeq2SeqLM` loads saved folders.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from huggingface_hub.dataclasses import strict
from torch import nn
from transformers import AutoConfig, AutoModelForSeq2SeqLM, AutoTokenizer, PreTrainedConfig, PreTrainedModel
from transformers import initialization as init
from transformers.modeling_outputs import ModelOutput, Seq2SeqLMOutput
from transformers.utils import can_return_tuple

from vaswani_tx import VaswaniTokenizer
from vaswani_tx.generation_vaswani import VaswaniGenerationMixin
from vaswani_tx.loss_vaswani import linear_smoothed_cross_entropy, smoothed_cross_entropy
from vaswani_tx.modeling_vaswani import shift_tokens_right
from vaswani_tx.training.models.lstm_layers import (
    SCORES,
    LstmCache,
    LstmDecoderStack,
    LstmEncoderStack,
    embedding_scale,
    lstm_values,
)

# As many parameters as the presets of these names have of the Transformer, to 0.4 %, for any shared vocabulary.
LSTM_PRESETS: dict[str, dict[str, Any]] = {
    "tiny": {"d_model": 128, "hidden_size": 264, "encoder_layers": 2, "decoder_layers": 1},
    "base": {"d_model": 512, "hidden_size": 1280, "encoder_layers": 2, "decoder_layers": 2},
}


@strict
class LstmSeq2SeqConfig(PreTrainedConfig):
    """Configuration of the LSTM encoder-decoder.

    Args:
        vocab_size: entries of the vocabulary that source and target share.
        d_model: width E of embeddings and of the attentional output, which the tied output layer multiplies.
        hidden_size: width W of the decoder's LSTMs; each direction of the encoder's has half of it.
        encoder_layers, decoder_layers: layers N.
        dropout: rate on embeddings, on the output of every LSTM layer and on the attentional output.
        attention: "general", "dot" (both Luong's), "additive" (Bahdanau's), or "none".
        input_feeding: the attentional output of a position is a part of the next one's input (Luong, section 3.3).
        scale_embedding: multiply embeddings by sqrt(d_model), as the Transformer of the same tied matrix does.
        tie_word_embeddings: the output layer takes the embedding's matrix.
        lm_head_bias: a bias on the output logits.
        use_cache: keep the state of the last position while generating.
        pad_token_id, bos_token_id, eos_token_id, decoder_start_token_id: the special tokens.

    Raises:
        ValueError: a field has a wrong value; the message names the field and how to fix it.
    """

    model_type = "lstm_seq2seq"
    keys_to_ignore_at_inference: ClassVar[list[str]] = ["past_key_values"]
    attribute_map: ClassVar[dict[str, str]] = {"num_hidden_layers": "encoder_layers"}
    base_model_fsdp_plan: ClassVar[dict[Any, str]] = {}

    vocab_size: int = 37000
    d_model: int = 512
    hidden_size: int = 1280
    encoder_layers: int = 2
    decoder_layers: int = 2
    dropout: float | int = 0.2
    attention: str = "general"
    input_feeding: bool = False
    scale_embedding: bool = True
    tie_word_embeddings: bool = True
    lm_head_bias: bool = False
    use_cache: bool = True
    is_encoder_decoder: bool = True
    pad_token_id: int | None = 0
    bos_token_id: int | None = 1
    eos_token_id: int | list[int] | None = 2
    decoder_start_token_id: int | None = 1

    def __post_init__(self, **kwargs):
        # Before the parent's: what it raises from `validate_architecture` is no ValueError.
        self.validate_architecture()
        super().__post_init__(**kwargs)

    def validate_architecture(self):
        """Check the whole configuration: when it is built, and again when it is saved."""
        for name in ("vocab_size", "d_model", "hidden_size", "encoder_layers", "decoder_layers"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be a positive integer, not {getattr(self, name)}.")
        if self.hidden_size % 2:
            raise ValueError(f"hidden_size ({self.hidden_size}) must be even: each direction of the encoder has half.")
        if not 0.0 <= self.dropout < 1.0:
            raise ValueError(f"dropout must be at least 0 and below 1, not {self.dropout}.")
        if self.attention not in SCORES:
            raise ValueError(f"attention must be one of {', '.join(SCORES)}, not {self.attention!r}.")

    @classmethod
    def from_preset(cls, name: str, **overrides) -> "LstmSeq2SeqConfig":
        """Build a configuration from "tiny" or "base"; `overrides` are fields that take precedence.

        Raises:
            ValueError: the preset is unknown, or a field is wrong.
        """
        if name not in LSTM_PRESETS:
            raise ValueError(f"There is no LSTM preset {name!r}. Known: {', '.join(LSTM_PRESETS)}.")
        return cls(**(LSTM_PRESETS[name] | overrides))


@dataclass
class LstmEncoderOutput(ModelOutput):
    """The encoder's output, rows first, so that beam search can repeat them.

    Args:
        last_hidden_state: [B, S, W].
        final_states: [B, N, W], each layer's last outputs of both directions.
    """

    last_hidden_state: torch.Tensor | None = None
    final_states: torch.Tensor | None = None


class LstmEncoder(nn.Module):
    """The shared embedding and the bidirectional layers over the source."""

    main_input_name = "input_ids"

    def __init__(self, config: LstmSeq2SeqConfig):
        super().__init__()
        self.embed_tokens = nn.Embedding(config.vocab_size, config.d_model)
        self.scale = embedding_scale(config.d_model, config.scale_embedding)
        self.dropout = nn.Dropout(config.dropout)
        self.stack = LstmEncoderStack(config.d_model, config.hidden_size, config.encoder_layers, config.dropout)

    def embed(self, input_ids: torch.Tensor | None, inputs_embeds: torch.Tensor | None, prefix: str) -> torch.Tensor:
        """Embed tokens [B, L], or take embeddings [B, L, E]; scale them and apply dropout."""
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError(f"Give exactly one of {prefix}input_ids and {prefix}inputs_embeds.")
        rows = self.embed_tokens(input_ids) if inputs_embeds is None else inputs_embeds
        return self.dropout(rows * self.scale)

    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        inputs_embeds: torch.Tensor | None = None,
        **kwargs,
    ) -> LstmEncoderOutput:
        """Read the source [B, S], or `inputs_embeds` [B, S, E]; `attention_mask` [B, S] is 1 for tokens."""
        embedded = self.embed(input_ids, inputs_embeds, "")
        return LstmEncoderOutput(*self.stack(embedded, attention_mask))


class LstmForConditionalGeneration(PreTrainedModel, VaswaniGenerationMixin):
    """LSTM encoder, LSTM decoder with attention, and the projection to the vocabulary, tied to the embedding."""

    config_class = LstmSeq2SeqConfig
    base_model_prefix = ""
    _tied_weights_keys = {"lm_head.weight": "encoder.embed_tokens.weight"}
    _no_split_modules = ["LstmEncoderStack", "LstmDecoderStack"]

    def __init__(self, config: LstmSeq2SeqConfig):
        super().__init__(config)
        self.encoder = LstmEncoder(config)
        self.decoder = LstmDecoderStack(
            config.d_model, config.hidden_size, config.decoder_layers, config.dropout, config.attention,
            config.input_feeding,
        )  # fmt: skip
        self.lm_head = nn.Linear(config.d_model, config.vocab_size, bias=config.lm_head_bias)
        # As in our Transformer: by its name this class would be given a loss that shifts labels.
        self.loss_type = "ForMaskedLM"
        self.loss_function = smoothed_cross_entropy
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module):
        """Initialise embeddings with N(0, 1/d_model), matrices with Glorot uniform, LSTMs as `lstm_values` says."""
        if isinstance(module, nn.Embedding) or module is getattr(self, "lm_head", None):
            init.normal_(module.weight, mean=0.0, std=self.config.d_model**-0.5)
        elif isinstance(module, nn.Linear):
            init.xavier_uniform_(module.weight)
        elif isinstance(module, nn.LSTM) and not all(
            getattr(parameter, "_is_hf_initialized", False) for parameter in module.parameters()
        ):
            for name, value in lstm_values(module).items():
                parameter = getattr(module, name)
                init.copy_(parameter, value.to(parameter.device, parameter.dtype))
        if isinstance(module, nn.Linear) and module.bias is not None:
            init.zeros_(module.bias)

    def get_encoder(self, *args, **kwargs) -> LstmEncoder:
        """Return the encoder, which `generate` runs once."""
        return self.encoder

    def get_input_embeddings(self) -> nn.Embedding:
        """Return the embedding that source and target share, [V, E]."""
        return self.encoder.embed_tokens

    def set_input_embeddings(self, value: nn.Embedding):
        """Replace the shared embedding, [V, E]."""
        self.encoder.embed_tokens = value

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        decoder_input_ids: torch.LongTensor | None = None,
        decoder_attention_mask: torch.Tensor | None = None,
        encoder_outputs: LstmEncoderOutput | tuple | None = None,
        past_key_values: LstmCache | None = None,
        inputs_embeds: torch.Tensor | None = None,
        decoder_inputs_embeds: torch.Tensor | None = None,
        labels: torch.LongTensor | None = None,
        use_cache: bool | None = None,
        output_attentions: bool | None = None,
        num_items_in_batch: torch.Tensor | int | None = None,
        skip_logits: bool = False,
        **kwargs,
    ) -> Seq2SeqLMOutput:
        """Predict target tokens, with the loss of the paper's section 5.4 where labels are given.

        Args:
            input_ids: [B, S], or `inputs_embeds` [B, S, E], or `encoder_outputs` of an earlier call.
            attention_mask: [B, S], 1 for tokens and 0 for padding, at any position.
            decoder_input_ids: [B, T], the start token first, or `decoder_inputs_embeds` [B, T, E]; made from labels
                where neither is given.
            decoder_attention_mask: [B, T]; padding may only follow the tokens, and then has no influence.
            past_key_values: the state after earlier target positions; brought up to date.
            labels: [B, T], not shifted, -100 where nothing is to be predicted.
            use_cache: return the state; off where labels are given.
            label_smoothing: a keyword, 0.0 without it; e of the smoothed targets `(1 - e) * onehot + e / V`.
            num_items_in_batch: divisor of the summed loss; None: the number of labels that count.
            skip_logits: with labels, return no logits and never build them all.

        Returns:
            `loss` (with labels), `logits` [B, T, V] (None with `skip_logits`), `past_key_values`,
            `encoder_last_hidden_state`, and with `output_attentions` one `cross_attentions` [B, H, T, S], H being 1.

        Raises:
            ValueError: nothing to decode, left padding in the decoder, or encoder outputs of another model.
        """
        if decoder_input_ids is None and decoder_inputs_embeds is None:
            if labels is None:
                raise ValueError("There is nothing to decode: give labels or decoder_input_ids, or call generate().")
            decoder_input_ids = self.prepare_decoder_input_ids_from_labels(labels)
        _check_no_left_padding(decoder_attention_mask)
        if encoder_outputs is None:
            encoder_outputs = self.encoder(input_ids, attention_mask, inputs_embeds)
        encoder_outputs = _as_encoder_output(encoder_outputs)
        cache = LstmCache() if past_key_values is None else past_key_values
        if not cache.is_initialized:
            self.decoder.initialize(cache, encoder_outputs.final_states)
        embedded = self.encoder.embed(decoder_input_ids, decoder_inputs_embeds, "decoder_")
        outputs, weights = self.decoder(embedded, encoder_outputs.last_hidden_state, attention_mask, cache)
        smoothing = kwargs.get("label_smoothing", 0.0)
        loss, logits = self._predict(outputs, labels, skip_logits, smoothing, num_items_in_batch)
        keep = use_cache if use_cache is not None else self.config.use_cache
        return Seq2SeqLMOutput(
            loss=loss,
            logits=logits,
            past_key_values=cache if keep and labels is None else None,
            encoder_last_hidden_state=encoder_outputs.last_hidden_state,
            # [B, T, S] -> [B, 1, T, S]
            cross_attentions=(weights.unsqueeze(1),) if output_attentions and weights is not None else None,
        )

    def _predict(self, outputs, labels, skip_logits: bool, smoothing: float, items):
        """Project [B, T, E] to logits [B, T, V]; return the loss and the logits, each of which may be None."""
        settings = {"label_smoothing": smoothing, "num_items_in_batch": items}
        head = self.lm_head
        # The weights of a quantised head are no matrix.
        if labels is not None and skip_logits and type(head) is nn.Linear:
            return linear_smoothed_cross_entropy(outputs, head.weight, head.bias, labels, **settings), None
        logits = head(outputs)
        if labels is None:
            return None, logits
        loss = self.loss_function(logits, labels, vocab_size=self.config.vocab_size, **settings)
        return loss, None if skip_logits else logits

    def prepare_decoder_input_ids_from_labels(self, labels: torch.Tensor) -> torch.Tensor:
        """Shift labels [B, T] right, the start token first: what transformers' data collators call."""
        return shift_tokens_right(labels, self.config.pad_token_id, self.config.decoder_start_token_id)

    def _prepare_cache_for_generation(self, generation_config, model_kwargs: dict[str, Any], *args, **kwargs):
        """Set an LSTM's state in place of keys and values for `generate`."""
        if generation_config.cache_implementation is not None:
            raise ValueError(
                f"cache_implementation={generation_config.cache_implementation!r} is for keys and values, which an "
                "LSTM does not have: leave it out."
            )
        if model_kwargs.get("past_key_values") is None and generation_config.use_cache is not False:
            model_kwargs["past_key_values"] = LstmCache()


def _as_encoder_output(given: Any) -> LstmEncoderOutput:
    if isinstance(given, tuple):
        given = LstmEncoderOutput(*given[:2])
    if getattr(given, "final_states", None) is None:
        raise ValueError("encoder_outputs has no final_states: give what this model's own encoder returned.")
    return given


def _check_no_left_padding(mask: torch.Tensor | None) -> None:
    if mask is not None and bool((mask[:, 1:] > mask[:, :-1]).any()):
        raise ValueError(
            "decoder_attention_mask has padding before a token, which an LSTM would read: pad the target on the right."
        )


AutoConfig.register("lstm_seq2seq", LstmSeq2SeqConfig, exist_ok=True)
AutoModelForSeq2SeqLM.register(LstmSeq2SeqConfig, LstmForConditionalGeneration, exist_ok=True)
AutoTokenizer.register(LstmSeq2SeqConfig, tokenizer_class=VaswaniTokenizer, exist_ok=True)
