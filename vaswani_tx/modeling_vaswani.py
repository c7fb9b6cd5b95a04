"""The encoder-decoder of "Attention Is All You Need" as transformers models.

Shapes: B batch, S source length, T target length, L length of either, D d_model, V vocabulary.
"""

import re
from collections.abc import Collection
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from transformers import Cache, DynamicCache, EncoderDecoderCache, PreTrainedModel, modeling_utils
from transformers import initialization as init
from transformers.masking_utils import (
    create_bidirectional_mask,
    create_causal_mask,
    find_packed_sequence_indices,
    packed_sequence_mask_function,
)
from transformers.modeling_outputs import (
    BaseModelOutput,
    BaseModelOutputWithPastAndCrossAttentions,
    Seq2SeqLMOutput,
    Seq2SeqModelOutput,
)
from transformers.processing_utils import Unpack
from transformers.utils import TransformersKwargs, can_return_tuple
from transformers.utils.generic import merge_with_config_defaults
from transformers.utils.output_capturing import OutputRecorder, capture_outputs

from .configuration_vaswani import INIT_SCHEMES, InitScheme, VaswaniConfig
from .generation_vaswani import VaswaniGenerationMixin
from .layers_vaswani import (
    VaswaniAttention,
    VaswaniDecoderLayer,
    VaswaniEncoderLayer,
    VaswaniFeedForward,
    VaswaniPositionalEncoding,
    VaswaniSinusoidalPositions,
    counted_positions,
    leading_padding,
)
from .loss_vaswani import linear_smoothed_cross_entropy, smoothed_cross_entropy
from .padding_vaswani import Packing, TokenRows, can_pack, pack, tokens_of, up_to_last_label
from .ssru_vaswani import tokens_and_beginnings
from .transfer_vaswani import FromStacksMixin

if TYPE_CHECKING:
    # Not run: transformers saves a model that carries its code with the files that imports name, so the pipelines
    # travel with the model at each save.
    from .pipeline_vaswani import SummarizationPipeline, TranslationPipeline  # noqa: F401

# What a stack records on request beside transformers' usual outputs, under `output_<name>=True`.
ENCODER_EXTRAS = ("queries", "keys")
DECODER_EXTRAS = ("queries", "keys", "cross_queries", "cross_keys")
# Parts of the names of weights in older versions, and what they are now.
FORMER_NAMES = {"embedding.positions.": "positional_encoding.positions."}


def shift_tokens_right(tokens: torch.Tensor, pad_token_id: int | None, decoder_start_token_id: int | None):
    """Turn labels into decoder inputs: the start token first, the last position dropped, -100 replaced by padding.

    Args:
        tokens: [B, T].
        pad_token_id: replaces -100, where a label does not count.
        decoder_start_token_id: the token at the first position.

    Returns:
        [B, T].

    Raises:
        ValueError: the configuration lacks one of the two ids.
    """
    for name, value in (("pad_token_id", pad_token_id), ("decoder_start_token_id", decoder_start_token_id)):
        if value is None:
            raise ValueError(
                f"{name} is None, so decoder inputs cannot be made from labels: set it in the configuration."
            )
    shifted = torch.cat((torch.full_like(tokens[:, :1], decoder_start_token_id), tokens[:, :-1]), dim=1)
    return shifted.masked_fill(shifted == -100, pad_token_id)


def _for_each_row(position_ids: torch.Tensor | None, inputs_embeds: torch.Tensor) -> torch.Tensor | None:
    """Return positions [B, L]; they may be given as [1, L] or [L] for all rows of the batch."""
    return None if position_ids is None else position_ids.expand(inputs_embeds.shape[0], -1)


def _fit_to_input(attention_mask: torch.Tensor | None, inputs_embeds: torch.Tensor, cache: Cache | None):
    """Return a mask [B, T] of just the positions that there are, as transformers reads it where there is a cache.

    Its columns beyond the input are dropped, those that are missing are padding; any other mask comes back as it is.
    """
    length = inputs_embeds.shape[1]
    if attention_mask is None or attention_mask.dim() != 2 or cache is not None or attention_mask.shape[1] == length:
        return attention_mask
    return nn.functional.pad(attention_mask, (0, length - attention_mask.shape[1]))


def _same_document(position_ids: torch.Tensor | None):
    """Return the rule that a position sees its own document only, or None where `position_ids` [B, L] show but one."""
    documents = None if position_ids is None else find_packed_sequence_indices(position_ids)
    return None if documents is None else packed_sequence_mask_function(documents)


def with_present_names(tensors: dict[str, Any], present: Collection[str]) -> dict[str, Any]:
    """Return `tensors` under their names among `present`, where an older version named them otherwise."""
    renamed = {}
    for name, tensor in tensors.items():
        for former, now in FORMER_NAMES.items():
            if name not in present and name.replace(former, now) in present:
                name = name.replace(former, now)
        renamed[name] = tensor
    return renamed


def recorders(**layer_names: str) -> dict[str, OutputRecorder]:
    return {key: OutputRecorder(nn.Linear, index=0, layer_name=name) for key, name in layer_names.items()}


class VaswaniPreTrainedModel(PreTrainedModel):
    """A base of all models: initialisation, and what transformers may do with them."""

    config_class = VaswaniConfig
    base_model_prefix = "model"
    supports_gradient_checkpointing = True
    _no_split_modules = ["VaswaniEncoderLayer", "VaswaniDecoderLayer"]
    _skip_keys_device_placement = ["past_key_values"]
    _supports_flash_attn = True
    _supports_sdpa = True
    _supports_flex_attn = True
    _supports_attention_backend = True
    _can_compile_fullgraph = True
    _former_names = FORMER_NAMES

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path, *model_args, key_mapping=None, **kwargs):
        """Load a model as transformers does, also one whose weights were saved under former names."""
        former = {re.escape(name): now for name, now in cls._former_names.items()}
        key_mapping = {**former, **(key_mapping or {})} or None
        loaded = super().from_pretrained(pretrained_model_name_or_path, *model_args, key_mapping=key_mapping, **kwargs)
        model = loaded[0] if isinstance(loaded, tuple) else loaded
        # transformers would save the model under the names that it was loaded from.
        if conversions := getattr(model, "_weight_conversions", None):
            present = cls._former_names.values()
            model._weight_conversions = [one for one in conversions if not set(one.target_patterns) & set(present)]
        return loaded

    @torch.no_grad()
    def _init_weights(self, module: nn.Module):
        """Initialise as `config.init_scheme` says: embeddings normal, other matrices Glorot uniform or normal.

        The output projection counts as an embedding, tied or not. The sinusoid table is refilled here, because
        `from_pretrained` builds models without storage and leaves it empty.
        """
        scheme = INIT_SCHEMES[self.config.init_scheme]
        if isinstance(module, nn.Embedding) or module is getattr(self, "lm_head", None):
            self._init_embedding(module, scheme)
        elif isinstance(module, nn.Linear):
            self._init_linear(module, scheme)
        elif isinstance(module, nn.LayerNorm):
            init.ones_(module.weight)
            if module.bias is not None:
                init.zeros_(module.bias)
        elif isinstance(module, VaswaniSinusoidalPositions):
            init.copy_(module.table, module.values())

    def _init_embedding(self, module: Any, scheme: InitScheme):
        """Initialise an embedding, [V, D], or the output projection; learned positions have no padding."""
        std = self.config.d_model**-0.5 if scheme.embedding_std is None else scheme.embedding_std
        init.normal_(module.weight, mean=0.0, std=std * scheme.embedding_gain)
        if getattr(module, "bias", None) is not None:
            init.zeros_(module.bias)
        padding = getattr(self.config, "pad_token_id", None)
        is_of_tokens = type(module) in (nn.Embedding, nn.Linear) and not getattr(module.weight, "_is_hf_initialized", 0)
        if scheme.zero_padding and is_of_tokens and padding is not None and padding < module.weight.shape[0]:
            init.zeros_(module.weight[padding])

    def _init_linear(self, layer: nn.Linear, scheme: InitScheme):
        """Initialise a linear layer by its place: a projection of attention, one of the feed-forward network, another.

        transformers asks for modules with weights of their own only, so the block that a layer belongs to is looked up.
        """
        gain, torch_weight, torch_bias = 1.0, False, False
        layers = len(getattr(self, "layers", ()))
        depth_gain = (8 * layers) ** -0.25 if scheme.depth_gain and layers else 1.0
        for block in self.modules() if scheme.by_place else ():
            name = next((name for name, other in block.named_children() if other is layer), None)
            if isinstance(block, VaswaniAttention) and name is not None:
                gain = scheme.attention_gain if name != "o_proj" else 1.0
                gain *= depth_gain if name in ("v_proj", "o_proj") else 1.0
                torch_bias = scheme.linear_defaults and name != "o_proj"
            elif isinstance(block, VaswaniFeedForward) and name is not None:
                gain, torch_weight, torch_bias = depth_gain, scheme.linear_defaults, scheme.linear_defaults
        limit = layer.in_features**-0.5
        if torch_weight:
            init.uniform_(layer.weight, -limit, limit)
        elif scheme.matrix_std is None:
            init.xavier_uniform_(layer.weight, gain=gain)
        else:
            init.normal_(layer.weight, mean=0.0, std=scheme.matrix_std)
        if layer.bias is not None:
            init.uniform_(layer.bias, -limit, limit) if torch_bias else init.zeros_(layer.bias)


class VaswaniStack(VaswaniPreTrainedModel):
    """An embedding layer, N layers, and the further LayerNorm that some checkpoints have (the paper has none)."""

    # FSDP gathers one layer at a time; embeddings, which stacks or output share, stay with the whole model.
    _fsdp_plan = {"layers.*": "free_full_weight"}

    def _build(self, layers: list[nn.Module]):
        config = self.config
        self.embed_tokens = nn.Embedding(self._vocabulary_size(), config.d_model)
        self.positional_encoding = VaswaniPositionalEncoding(config)
        self.layers = nn.ModuleList(layers)
        self.final_norm = nn.LayerNorm(config.d_model, config.layer_norm_eps) if config.final_layer_norm else None
        self.gradient_checkpointing = False
        self.post_init()

    def _vocabulary_size(self) -> int:
        return self.config.vocab_size

    def _load_from_state_dict(self, state_dict, prefix, *args, **kwargs):
        for former, now in FORMER_NAMES.items():
            for name in [name for name in state_dict if name.startswith(prefix + former)]:
                state_dict[name.replace(former, now)] = state_dict.pop(name)
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)

    def get_input_embeddings(self) -> nn.Embedding:
        """Return the token embedding, [V, D]."""
        return self.embed_tokens

    def set_input_embeddings(self, value: nn.Embedding):
        """Replace the token embedding, [V, D]."""
        self.embed_tokens = value

    def _embed(
        self,
        input_ids: torch.Tensor | None,
        inputs_embeds: torch.Tensor | None,
        prefix: str,
        rows: TokenRows | None = None,
    ) -> torch.Tensor:
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError(f"Give exactly one of {prefix}input_ids and {prefix}inputs_embeds.")
        given: Any = input_ids if inputs_embeds is None else inputs_embeds
        given = given if rows is None else rows.take(given)  # [B, L, ...] -> [1, N, ...]
        return self.embed_tokens(given) if inputs_embeds is None else given

    def _limits_of_documents(self, position_ids, attention_mask, past_key_values=None) -> dict:
        """Return where packed documents begin and end, for flash kernels: no mask could keep documents apart there."""
        is_flash = "flash" in (self.config._attn_implementation or "")
        if not is_flash or position_ids is None or attention_mask is not None or past_key_values is not None:
            return {}
        begins = position_ids.diff(dim=-1, prepend=position_ids[:, :1]) != 1  # [B, L]; so does each row
        starts = begins.flatten().nonzero().squeeze(1)
        if len(starts) == len(position_ids):
            return {}
        limits = nn.functional.pad(starts, (0, 1), value=begins.numel()).to(torch.int32)  # [documents + 1]
        longest = int(limits.diff().max())
        return {"cu_seq_lens_q": limits, "cu_seq_lens_k": limits, "max_length_q": longest, "max_length_k": longest}

    def _limits_of_positions(self, inputs_embeds, attention_mask, cache: Cache | None, position_ids):
        """Return what keeps a position from later ones, padding and other documents: a mask as the layers read it."""
        if getattr(self.config, "decoder_cell", "attention") == "ssru":
            packs = attention_mask is None and cache is None and position_ids is not None
            documents = find_packed_sequence_indices(position_ids) if packs else None
            past_length = cache.get_seq_length() if cache is not None else 0
            return tokens_and_beginnings(attention_mask, past_length, inputs_embeds.shape[1], documents)
        return create_causal_mask(
            config=self.config,
            inputs_embeds=inputs_embeds,
            attention_mask=attention_mask,
            past_key_values=cache,
            position_ids=position_ids,
        )

    def _finish(self, hidden_states: torch.Tensor) -> torch.Tensor:
        return hidden_states if self.final_norm is None else self.final_norm(hidden_states)

    def _decode(
        self,
        inputs_embeds: torch.Tensor,
        attention_mask: torch.Tensor | None,
        past_key_values: Cache | None,
        position_ids: torch.Tensor | None,
        use_cache: bool | None,
        encoder_hidden_states: torch.Tensor | None = None,
        packing: Packing | None = None,
        **kwargs,
    ) -> BaseModelOutputWithPastAndCrossAttentions:
        """Run the layers over [B, T, D], each position seeing itself, earlier ones and what is cached."""
        if packing is not None:
            hidden_states = self.positional_encoding(inputs_embeds, attention_mask=attention_mask, rows=packing.target)
            for layer in self.layers:
                hidden_states = layer(hidden_states, encoder_hidden_states, packing=packing, **kwargs)
            return BaseModelOutputWithPastAndCrossAttentions(last_hidden_state=self._finish(hidden_states))
        past_length = past_key_values.get_seq_length() if past_key_values is not None else 0
        cache = past_key_values
        if isinstance(cache, EncoderDecoderCache):
            cache = cache.self_attention_cache
        position_ids = _for_each_row(position_ids, inputs_embeds)
        attention_mask = _fit_to_input(attention_mask, inputs_embeds, cache)
        hidden_states = self.positional_encoding(inputs_embeds, past_length, position_ids, attention_mask)
        if encoder_hidden_states is None:  # attention to an encoder has limits of its own
            kwargs = {**self._limits_of_documents(position_ids, attention_mask, past_key_values), **kwargs}
        attention_mask = self._limits_of_positions(inputs_embeds, attention_mask, cache, position_ids)
        if use_cache and past_key_values is None:
            past_key_values = DynamicCache(config=self.config)
        for layer in self.layers:
            hidden_states = layer(
                hidden_states,
                encoder_hidden_states,  # positional: re-entrant checkpointing finds gradients only there
                attention_mask=attention_mask,
                past_key_values=past_key_values,
                **kwargs,
            )
        return BaseModelOutputWithPastAndCrossAttentions(
            last_hidden_state=self._finish(hidden_states), past_key_values=past_key_values
        )


class VaswaniEncoder(VaswaniStack):
    """The encoder stack (section 3.1): N identical layers over the embedded source."""

    _can_record_outputs = {
        "hidden_states": VaswaniEncoderLayer,
        "attentions": VaswaniAttention,
        **recorders(queries="self_attn.q_proj", keys="self_attn.k_proj"),
    }
    _tp_plan = {
        "layers.*.self_attn.q_proj": "colwise",
        "layers.*.self_attn.k_proj": "colwise",
        "layers.*.self_attn.v_proj": "colwise",
        "layers.*.self_attn.o_proj": "rowwise",
        "layers.*.feed_forward.fc1": "colwise",
        "layers.*.feed_forward.fc2": "rowwise",
    }

    def __init__(self, config: VaswaniConfig):
        super().__init__(config)
        self._build([VaswaniEncoderLayer(config, layer_idx) for layer_idx in range(config.num_hidden_layers)])

    def _vocabulary_size(self) -> int:
        own = getattr(self.config, "source_vocab_size", None)
        return self.config.vocab_size if own is None else own

    def resize_token_embeddings(self, *args, **kwargs) -> nn.Embedding:
        """Resize the embedding as transformers does; the size of a source's own vocabulary is `source_vocab_size`."""
        if getattr(self.config, "source_vocab_size", None) is None:
            return super().resize_token_embeddings(*args, **kwargs)
        target = self.config.vocab_size
        embedding = super().resize_token_embeddings(*args, **kwargs)
        self.config.vocab_size, self.config.source_vocab_size = target, embedding.num_embeddings
        return embedding

    @merge_with_config_defaults
    @capture_outputs
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        inputs_embeds: torch.Tensor | None = None,
        position_ids: torch.LongTensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> BaseModelOutput:
        """Encode source sentences.

        Args:
            input_ids: [B, S]; or `inputs_embeds` [B, S, D], rows of the embedding matrix before scaling.
            attention_mask: [B, S], 1 for tokens and 0 for padding; or [B, 1, S, S].
            position_ids: [B, S], instead of 0, 1, 2, ... from the first token on. Without a mask, documents packed into
                one row are kept apart where they begin again.

        Returns:
            `last_hidden_state` [B, S, D]; what was asked for with `output_attentions`, `output_hidden_states`,
            `output_queries`, `output_keys` as tuples with an entry a layer.
        """
        packing: Packing | None = kwargs.get("packing")  # beside the arguments that users give
        if packing is not None:
            hidden_states = self._embed(input_ids, inputs_embeds, "", packing.source)
            hidden_states = self.positional_encoding(hidden_states, attention_mask=attention_mask, rows=packing.source)
            for layer in self.layers:
                hidden_states = layer(hidden_states, None, **kwargs)
            return BaseModelOutput(last_hidden_state=self._finish(hidden_states))
        inputs_embeds = self._embed(input_ids, inputs_embeds, "")
        position_ids = _for_each_row(position_ids, inputs_embeds)
        hidden_states = self.positional_encoding(inputs_embeds, 0, position_ids, attention_mask)
        kwargs = {**self._limits_of_documents(position_ids, attention_mask), **kwargs}
        attention_mask = create_bidirectional_mask(
            config=self.config,
            inputs_embeds=inputs_embeds,
            attention_mask=attention_mask,
            and_mask_function=_same_document(position_ids) if attention_mask is None else None,
        )
        for layer in self.layers:
            hidden_states = layer(hidden_states, attention_mask, **kwargs)
        return BaseModelOutput(last_hidden_state=self._finish(hidden_states))


class VaswaniDecoder(VaswaniStack):
    """The decoder stack (section 3.1): N identical layers over the target so far, attending to the encoder's output."""

    _can_record_outputs = {
        "hidden_states": VaswaniDecoderLayer,
        "attentions": OutputRecorder(VaswaniAttention, index=1, layer_name="self_attn"),
        "cross_attentions": OutputRecorder(VaswaniAttention, index=1, layer_name="cross_attn"),
        **recorders(
            queries="self_attn.q_proj",
            keys="self_attn.k_proj",
            cross_queries="cross_attn.q_proj",
            cross_keys="cross_attn.k_proj",
        ),
    }
    _tp_plan = {
        **VaswaniEncoder._tp_plan,
        "layers.*.cross_attn.q_proj": "colwise",
        "layers.*.cross_attn.k_proj": "colwise",
        "layers.*.cross_attn.v_proj": "colwise",
        "layers.*.cross_attn.o_proj": "rowwise",
    }

    def __init__(self, config: VaswaniConfig):
        super().__init__(config)
        self._build([VaswaniDecoderLayer(config, layer_idx) for layer_idx in range(config.decoder_layers)])

    @merge_with_config_defaults
    @capture_outputs
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        encoder_hidden_states: torch.Tensor | None = None,
        encoder_attention_mask: torch.Tensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: torch.Tensor | None = None,
        position_ids: torch.LongTensor | None = None,
        use_cache: bool | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> BaseModelOutputWithPastAndCrossAttentions:
        """Decode a target prefix, or the tokens that follow the cached ones.

        Args:
            input_ids: [B, T]; or `inputs_embeds` [B, T, D], rows of the embedding matrix before scaling.
            attention_mask: [B, cached + T], 1 for tokens and 0 for padding; or [B, 1, T, cached + T]. Of a
                longer [B, ...] the first columns are read, a shorter one ends in padding.
            encoder_hidden_states: [B, S, D].
            encoder_attention_mask: [B, S]; or [B, 1, T, S].
            past_key_values: keys and values of earlier positions.
            position_ids: [B, T], instead of counting on from the cache.
            use_cache: return a cache, made where none is given.

        Returns:
            `last_hidden_state` [B, T, D], `past_key_values`, and what was asked for with `output_...`.
        """
        packing: Packing | None = kwargs.get("packing")
        inputs_embeds = self._embed(input_ids, inputs_embeds, "decoder_", packing.target if packing else None)
        if encoder_hidden_states is not None and packing is None:
            encoder_attention_mask = create_bidirectional_mask(
                config=self.config,
                inputs_embeds=inputs_embeds,
                attention_mask=encoder_attention_mask,
                encoder_hidden_states=encoder_hidden_states,
            )
            if use_cache and past_key_values is None:
                past_key_values = EncoderDecoderCache(
                    DynamicCache(config=self.config), DynamicCache(config=self.config)
                )
        return self._decode(
            inputs_embeds,
            attention_mask,
            past_key_values,
            position_ids,
            use_cache,
            encoder_hidden_states,
            encoder_attention_mask=encoder_attention_mask,
            **kwargs,
        )


class VaswaniEncoderDecoderPreTrainedModel(VaswaniPreTrainedModel):
    """A base of encoder-decoders: the embeddings of source and target, of one vocabulary or of one each."""

    @property
    def has_separate_vocabularies(self) -> bool:
        """Whether source and target have an embedding each; else one matrix is that of both (section 3.4)."""
        return self.config.source_vocab_size is not None

    def resize_source_token_embeddings(
        self, new_num_tokens: int | None = None, pad_to_multiple_of: int | None = None, mean_resizing: bool = True
    ) -> nn.Embedding:
        """Resize the embedding of a source with a vocabulary of its own, as `resize_token_embeddings` the target's.

        Args:
            new_num_tokens, pad_to_multiple_of, mean_resizing: as of `resize_token_embeddings`.

        Returns:
            the source's embedding, [source_vocab_size, D].

        Raises:
            ValueError: source and target share their embedding.
        """
        if not self.has_separate_vocabularies:
            raise ValueError(
                "Source and target share one embedding (source_vocab_size is None): call resize_token_embeddings."
            )
        embedding = self.get_encoder().resize_token_embeddings(new_num_tokens, pad_to_multiple_of, mean_resizing)
        self.config.source_vocab_size = embedding.num_embeddings
        return embedding

    def _resize_token_embeddings(self, new_num_tokens, pad_to_multiple_of=None, mean_resizing=True):
        """Resize the target's embedding and the output projection; of one vocabulary, as transformers does."""
        if not self.has_separate_vocabularies:
            return super()._resize_token_embeddings(new_num_tokens, pad_to_multiple_of, mean_resizing)
        embedding = self.get_decoder()._resize_token_embeddings(new_num_tokens, pad_to_multiple_of, mean_resizing)
        head = self.get_output_embeddings()
        if head is not None:
            resized = self._get_resized_lm_head(head, embedding.weight.shape[0], mean_resizing=mean_resizing)
            resized.requires_grad_(head.weight.requires_grad)
            if hasattr(head, "_hf_hook"):  # of accelerate, which is then installed: where the layer's device is
                modeling_utils.add_hook_to_module(resized, head._hf_hook)
            self.set_output_embeddings(resized)
        return embedding


class VaswaniModel(VaswaniEncoderDecoderPreTrainedModel):
    """Encoder and decoder without an output layer (figure 1 up to the last linear layer).

    With a `source_vocab_size` each stack has an embedding of its own, and there is no `shared`.
    """

    _tied_weights_keys = {
        "encoder.embed_tokens.weight": "shared.weight",
        "decoder.embed_tokens.weight": "shared.weight",
    }
    # transformers itself shards the stacks' `embed_tokens`, by rows: the matrix that they are tied to must be as well.
    _tp_plan = {"shared": "embedding_rowwise"}

    def __init__(self, config: VaswaniConfig):
        super().__init__(config)
        if self.has_separate_vocabularies:
            self._tied_weights_keys = {}
        else:
            self.shared = nn.Embedding(config.vocab_size, config.d_model)
        self.encoder = VaswaniEncoder(config)
        self.decoder = VaswaniDecoder(config)
        self.post_init()
        if self.has_separate_vocabularies:
            self._tp_plan = {rule: style for rule, style in self._tp_plan.items() if rule != "shared"}

    def get_expanded_tied_weights_keys(self, all_submodels: bool = False) -> dict[str, str]:
        """Keep both stacks on one embedding also where `tie_word_embeddings` is off, which frees the output only."""
        if all_submodels:
            return super().get_expanded_tied_weights_keys(all_submodels=True)
        return dict(self._tied_weights_keys)

    def get_input_embeddings(self) -> nn.Embedding:
        """Return the embedding that source and target share, [V, D]; of two vocabularies, the source's."""
        return self.encoder.embed_tokens if self.has_separate_vocabularies else self.shared

    def set_input_embeddings(self, value: nn.Embedding):
        """Replace the shared embedding, [V, D], in both stacks; of two vocabularies, the source's."""
        if self.has_separate_vocabularies:
            self.encoder.embed_tokens = value
            return
        self.shared = value
        self.encoder.embed_tokens = value
        self.decoder.embed_tokens = value

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        decoder_input_ids: torch.LongTensor | None = None,
        decoder_attention_mask: torch.Tensor | None = None,
        encoder_outputs: BaseModelOutput | tuple | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: torch.Tensor | None = None,
        decoder_inputs_embeds: torch.Tensor | None = None,
        position_ids: torch.LongTensor | None = None,
        decoder_position_ids: torch.LongTensor | None = None,
        use_cache: bool | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> Seq2SeqModelOutput:
        """Encode the source and decode the target prefix.

        Args:
            input_ids: [B, S], or `inputs_embeds` [B, S, D], or `encoder_outputs` of an earlier call.
            attention_mask: [B, S], 1 for tokens and 0 for padding.
            decoder_input_ids: [B, T], the start token first, or `decoder_inputs_embeds` [B, T, D]; without either, the
                source shifted right, as for a model that reconstructs its input: of one vocabulary only.
            decoder_attention_mask: [B, T]; positions see only earlier ones in any case.
            past_key_values: keys and values of earlier target positions.

        Returns:
            `last_hidden_state` [B, T, D], the encoder's outputs, the cache, and what was asked for with `output_...`.
        """
        if decoder_input_ids is None and decoder_inputs_embeds is None:
            if input_ids is None:
                raise ValueError("Give decoder_input_ids or decoder_inputs_embeds: there are no input_ids to shift.")
            if self.has_separate_vocabularies:
                raise ValueError(
                    "Give decoder_input_ids or decoder_inputs_embeds: input_ids are of the source's vocabulary "
                    "(source_vocab_size), which the decoder does not know."
                )
            decoder_input_ids = shift_tokens_right(
                input_ids, self.config.pad_token_id, self.config.decoder_start_token_id
            )
        if encoder_outputs is None:
            encoder_outputs = self.encoder(
                input_ids=input_ids,
                attention_mask=attention_mask,
                inputs_embeds=inputs_embeds,
                position_ids=position_ids,
                return_dict=True,  # also where the configuration asks for tuples: that is for this model's own result
                **kwargs,
            )
        elif not isinstance(encoder_outputs, BaseModelOutput):
            encoder_outputs = BaseModelOutput(*encoder_outputs)
        decoder_outputs = self.decoder(
            input_ids=decoder_input_ids,
            attention_mask=decoder_attention_mask,
            encoder_hidden_states=encoder_outputs.last_hidden_state,
            encoder_attention_mask=attention_mask,
            past_key_values=past_key_values,
            inputs_embeds=decoder_inputs_embeds,
            position_ids=decoder_position_ids,
            use_cache=use_cache,
            return_dict=True,
            **kwargs,
        )
        outputs = Seq2SeqModelOutput(
            last_hidden_state=decoder_outputs.last_hidden_state,
            past_key_values=decoder_outputs.past_key_values,
            decoder_hidden_states=decoder_outputs.hidden_states,
            decoder_attentions=decoder_outputs.attentions,
            cross_attentions=decoder_outputs.cross_attentions,
            encoder_last_hidden_state=encoder_outputs.last_hidden_state,
            encoder_hidden_states=encoder_outputs.hidden_states,
            encoder_attentions=encoder_outputs.attentions,
        )
        for name in ENCODER_EXTRAS:
            if name in encoder_outputs:
                outputs[f"encoder_{name}"] = encoder_outputs[name]
        for name in DECODER_EXTRAS:
            if name in decoder_outputs:
                outputs[name if name.startswith("cross") else f"decoder_{name}"] = decoder_outputs[name]
        return outputs


def _is_plain(layer: nn.Module) -> bool:
    """Return whether the layer computes with weight and bias only: no adapter, shard, quantisation or hook."""
    is_linear = type(layer) is nn.Linear and type(layer.weight) in (nn.Parameter, torch.Tensor)
    return is_linear and "forward" not in vars(layer) and not layer._forward_pre_hooks


def with_records(result, outputs):
    """Add to `result` what the model below the head returned beside its states: the cache and what was recorded."""
    for name, value in outputs.items():
        if name not in ("last_hidden_state", "pooler_output"):
            result[name] = value
    return result


class VaswaniLanguageHead:
    """A base of models with a projection to the vocabulary: `lm_head` (section 3.4) and the loss of section 5.4."""

    def _add_head(self):
        config = self.config
        self.lm_head = nn.Linear(config.d_model, config.vocab_size, bias=config.lm_head_bias)
        # By its name a class might be given a loss that shifts labels; these models shift where they need to.
        self.loss_type = "ForMaskedLM"
        self.loss_function = smoothed_cross_entropy
        self.post_init()

    def _forms_no_logits(self, labels: torch.Tensor | None, skip_logits: bool) -> bool:
        """Return whether the loss comes from states and weight directly."""
        # It picks out the positions that count, which a full graph cannot: there the logits are formed.
        return labels is not None and skip_logits and _is_plain(self.lm_head) and not torch.compiler.is_compiling()

    def _predict(self, hidden_states, labels, logits_to_keep, skip_logits: bool, settings: dict):
        """Project [B, T, D] to logits [B, T, V]; return the loss and the logits, each of which may be None."""
        head = self.lm_head
        if self._forms_no_logits(labels, skip_logits):
            return linear_smoothed_cross_entropy(hidden_states, head.weight, head.bias, labels, **settings), None
        kept = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        logits = self.lm_head(hidden_states[:, kept, :])
        if labels is None:
            return None, logits
        loss = self.loss_function(logits, labels[:, kept], vocab_size=self.config.vocab_size, **settings)
        return loss, None if skip_logits else logits


class VaswaniForConditionalGeneration(
    VaswaniLanguageHead, FromStacksMixin, VaswaniEncoderDecoderPreTrainedModel, VaswaniGenerationMixin
):
    """The whole of figure 1: encoder, decoder, and the projection to the vocabulary, tied to the target's embedding."""

    _tied_weights_keys = {"lm_head.weight": "model.shared.weight"}
    _tp_plan = {"lm_head": "colwise_gather_output"}

    def __init__(self, config: VaswaniConfig):
        super().__init__(config)
        if self.has_separate_vocabularies:
            self._tied_weights_keys = {"lm_head.weight": "model.decoder.embed_tokens.weight"}
        self.model = VaswaniModel(config)
        self._add_head()

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        decoder_input_ids: torch.LongTensor | None = None,
        decoder_attention_mask: torch.Tensor | None = None,
        encoder_outputs: BaseModelOutput | tuple | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: torch.Tensor | None = None,
        decoder_inputs_embeds: torch.Tensor | None = None,
        labels: torch.LongTensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | torch.Tensor = 0,
        num_items_in_batch: torch.Tensor | int | None = None,
        skip_logits: bool = False,
        **kwargs: Unpack[TransformersKwargs],
    ) -> Seq2SeqLMOutput:
        """Predict target tokens, with the loss of section 5.4 where labels are given.

        Args:
            input_ids, attention_mask, inputs_embeds, encoder_outputs, past_key_values: as for `VaswaniModel`.
            decoder_input_ids, decoder_attention_mask, decoder_inputs_embeds: as for `VaswaniModel`.
            labels: [B, T], the target as it is (not shifted), -100 where nothing is to be predicted. Without decoder
                inputs, they are made from the labels.
            use_cache: return a cache; off where labels are given.
            logits_to_keep: compute logits for the last that many positions only (0: all), or for given positions [n].
            label_smoothing: a keyword, 0.0 without it; e of the smoothed targets `(1 - e) * onehot + e / V`.
            num_items_in_batch: divisor of the summed loss; None: the number of labels that count.
            skip_logits: with labels, return no logits and never build them all: less memory, the same loss.

        Returns:
            `loss` (with labels), `logits` [B, T, V] (None with `skip_logits`), and what `VaswaniModel` returns.

        Raises:
            ValueError: neither labels nor decoder inputs are given, or the configuration lacks the ids to shift labels.
        """
        # Not in the signature: the Trainer takes every parameter with "label" in its name for a label that each batch
        # must bring, and would report no evaluation loss.
        label_smoothing = kwargs.pop("label_smoothing", 0.0)
        if labels is not None:
            use_cache = False
        if decoder_input_ids is None and decoder_inputs_embeds is None:
            if labels is None:
                # A Trainer that smooths labels itself takes them away before the model could make its inputs from them.
                raise ValueError(
                    "There is nothing to decode: give labels or decoder_input_ids, or call generate(). A Trainer with "
                    "label_smoothing_factor needs DataCollatorForSeq2Seq(tokenizer, model=model), which makes them."
                )
            decoder_input_ids = self.prepare_decoder_input_ids_from_labels(labels)
        packing = None
        if self._forms_no_logits(labels, skip_logits) and can_pack(
            self.model, attention_mask, decoder_attention_mask, encoder_outputs=encoder_outputs,
            past_key_values=past_key_values, **kwargs,
        ):  # fmt: skip
            packing = self._pack(
                input_ids if inputs_embeds is None else inputs_embeds, attention_mask, decoder_attention_mask, labels
            )
        outputs = self.model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            decoder_input_ids=decoder_input_ids,
            decoder_attention_mask=decoder_attention_mask,
            encoder_outputs=encoder_outputs,
            past_key_values=past_key_values,
            inputs_embeds=inputs_embeds,
            decoder_inputs_embeds=decoder_inputs_embeds,
            use_cache=use_cache,
            return_dict=True,
            packing=packing,
            **kwargs,
        )
        settings = {"label_smoothing": label_smoothing, "num_items_in_batch": num_items_in_batch}
        if packing is not None:
            labels = packing.target.take(labels)  # [B, T] -> [1, N]
            outputs.encoder_last_hidden_state = packing.source.put(outputs.encoder_last_hidden_state)
        loss, logits = self._predict(outputs.last_hidden_state, labels, logits_to_keep, skip_logits, settings)
        return with_records(Seq2SeqLMOutput(loss=loss, logits=logits), outputs)

    def _pack(self, source, attention_mask, decoder_attention_mask, labels: torch.Tensor) -> Packing | None:
        """Return what is to be computed of a batch: source tokens, and targets up to the last label of each."""
        needed = up_to_last_label(labels)
        return pack(tokens_of(attention_mask, source), needed, labels, decoder_attention_mask)

    def prepare_inputs_for_generation(self, input_ids: torch.Tensor, past_key_values=None, **kwargs) -> dict[str, Any]:
        """Prepare the next step as transformers does; a static cache's mask of 4 dimensions hides padding in front."""
        mask = kwargs.get("decoder_attention_mask")
        is_static = past_key_values is not None and past_key_values.is_compileable
        if is_static and mask is not None and mask.dim() == 2 and kwargs.get("decoder_position_ids") is None:
            kwargs["decoder_position_ids"] = counted_positions(mask, padding=leading_padding(mask))
        return super().prepare_inputs_for_generation(input_ids, past_key_values=past_key_values, **kwargs)

    def prepare_decoder_input_ids_from_labels(self, labels: torch.Tensor) -> torch.Tensor:
        """Shift labels [B, T] right, the start token first: which transformers' data collators call."""
        return shift_tokens_right(labels, self.config.pad_token_id, self.config.decoder_start_token_id)


__all__ = [
    "VaswaniDecoder",
    "VaswaniEncoder",
    "VaswaniEncoderDecoderPreTrainedModel",
    "VaswaniForConditionalGeneration",
    "VaswaniLanguageHead",
    "VaswaniModel",
    "VaswaniPreTrainedModel",
    "VaswaniStack",
    "recorders",
    "shift_tokens_right",
    "with_present_names",
    "with_records",
]
