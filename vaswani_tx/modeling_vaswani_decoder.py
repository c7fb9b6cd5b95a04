"""The paper's decoder by itself, without attention to an encoder: causal language models.

Shapes: B batch, T length, D d_model, V vocabulary.
"""

import torch
from torch import nn
from transformers import Cache
from transformers.modeling_outputs import BaseModelOutputWithPast, CausalLMOutputWithPast
from transformers.processing_utils import Unpack
from transformers.utils import TransformersKwargs, can_return_tuple
from transformers.utils.generic import merge_with_config_defaults
from transformers.utils.output_capturing import OutputRecorder, capture_outputs

from .configuration_vaswani import VaswaniDecoderConfig
from .generation_vaswani import VaswaniGenerationMixin
from .layers_vaswani import VaswaniAttention, VaswaniDecoderLayer
from .modeling_vaswani import (
    VaswaniEncoder,
    VaswaniLanguageHead,
    VaswaniPreTrainedModel,
    VaswaniStack,
    recorders,
    with_records,
)
from .padding_vaswani import Packing, can_pack, pack, up_to_last_label


class VaswaniDecoderPreTrainedModel(VaswaniPreTrainedModel):
    """A base of the decoder-only models."""

    config_class = VaswaniDecoderConfig
    _no_split_modules = ["VaswaniDecoderLayer"]


class VaswaniDecoderModel(VaswaniDecoderPreTrainedModel, VaswaniStack):
    """N decoder layers of section 3.1 without their attention to an encoder (Radford et al. 2018).

    The weights have the names that they have in the decoder of `VaswaniModel`. Documents packed into one row do not see
    each other where `position_ids` begin again at each of them (and neither mask nor cache is given).
    """

    _can_record_outputs = {
        "hidden_states": VaswaniDecoderLayer,
        "attentions": OutputRecorder(VaswaniAttention, index=1, layer_name="self_attn"),
        **recorders(queries="self_attn.q_proj", keys="self_attn.k_proj"),
    }
    _tp_plan = dict(VaswaniEncoder._tp_plan)

    def __init__(self, config: VaswaniDecoderConfig):
        super().__init__(config)
        layers = range(config.num_hidden_layers)
        self._build([VaswaniDecoderLayer(config, layer_idx, cross_attention=False) for layer_idx in layers])

    @merge_with_config_defaults
    @capture_outputs
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.LongTensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: torch.Tensor | None = None,
        use_cache: bool | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> BaseModelOutputWithPast:
        """Read a text, or the tokens that follow the cached ones; each position sees itself and earlier ones.

        Args:
            input_ids: [B, T]; or `inputs_embeds` [B, T, D], rows of the embedding matrix before scaling.
            attention_mask: [B, cached + T], 1 for tokens and 0 for padding; or [B, 1, T, cached + T]. Of a
                longer [B, ...] the first columns are read, a shorter one ends in padding.
            position_ids: [B, T], instead of counting on from the cache, from the first token on. Without a mask,
                documents packed into one row are kept apart where they begin again.
            past_key_values: keys and values of earlier positions.
            use_cache: return a cache, made where none is given.

        Returns:
            `last_hidden_state` [B, T, D], `past_key_values`; what was asked for with `output_attentions`,
            `output_hidden_states`, `output_queries`, `output_keys` as tuples with an entry a layer.
        """
        packing: Packing | None = kwargs.get("packing")  # beside the arguments that users give
        inputs_embeds = self._embed(input_ids, inputs_embeds, "", packing.target if packing else None)
        outputs = self._decode(inputs_embeds, attention_mask, past_key_values, position_ids, use_cache, **kwargs)
        return BaseModelOutputWithPast(
            last_hidden_state=outputs.last_hidden_state, past_key_values=outputs.past_key_values
        )


class VaswaniForCausalLM(VaswaniLanguageHead, VaswaniDecoderPreTrainedModel, VaswaniGenerationMixin):
    """A causal language model: the embedding matrix projects to tokens (section 3.4)."""

    _tied_weights_keys = {"lm_head.weight": "model.embed_tokens.weight"}
    _tp_plan = {"lm_head": "colwise_gather_output"}

    def __init__(self, config: VaswaniDecoderConfig):
        super().__init__(config)
        self.model = VaswaniDecoderModel(config)
        self._add_head()

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.LongTensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: torch.Tensor | None = None,
        labels: torch.LongTensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | torch.Tensor = 0,
        num_items_in_batch: torch.Tensor | int | None = None,
        skip_logits: bool = False,
        **kwargs: Unpack[TransformersKwargs],
    ) -> CausalLMOutputWithPast:
        """Predict the token after every position.

        Args:
            input_ids, attention_mask, position_ids, past_key_values, inputs_embeds: as for `VaswaniDecoderModel`.
            labels: [B, T], as `input_ids` (not shifted), -100 where a token is not to be predicted: padding, and the
                first token of each packed document.
            use_cache: return a cache; off where labels are given.
            logits_to_keep: compute logits for the last that many positions only (0: all), or for given positions [n].
            shift_labels: a keyword, labels [B, T] that are shifted already, as sequence parallelism gives them.
            label_smoothing: a keyword, 0.0 without it; e of the smoothed targets `(1 - e) * onehot + e / V`.
            num_items_in_batch: divisor of the summed loss; None: the number of labels that count.
            skip_logits: with labels, return no logits and never build them all: less memory, the same loss.

        Returns:
            `loss` (with labels), `logits` [B, T, V] (None with `skip_logits`), and what `VaswaniDecoderModel` returns.
        """
        settings = {"label_smoothing": kwargs.pop("label_smoothing", 0.0), "num_items_in_batch": num_items_in_batch}
        shifted = kwargs.pop("shift_labels", None)
        if labels is not None and shifted is None:
            # The last position has nothing to predict.
            shifted = nn.functional.pad(labels, (0, 1), value=-100)[:, 1:]
        if shifted is not None:
            use_cache = False
        packing = None
        if self._forms_no_logits(shifted, skip_logits) and can_pack(
            self.model, attention_mask, position_ids=position_ids, past_key_values=past_key_values, **kwargs
        ):
            packing = pack(None, up_to_last_label(shifted), shifted, attention_mask)
        outputs = self.model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            inputs_embeds=inputs_embeds,
            use_cache=use_cache,
            return_dict=True,
            packing=packing,
            **kwargs,
        )
        if packing is not None:
            shifted = packing.target.take(shifted)  # [B, T] -> [1, N]
        loss, logits = self._predict(outputs.last_hidden_state, shifted, logits_to_keep, skip_logits, settings)
        return with_records(CausalLMOutputWithPast(loss=loss, logits=logits), outputs)


__all__ = ["VaswaniDecoderModel", "VaswaniDecoderPreTrainedModel", "VaswaniForCausalLM"]
