"""The paper's encoder by itself: masked language model, sequence and token classifiers, question answering.

Shapes: B batch, L length, D d_model, V vocabulary, C classes.
"""

import torch
from torch import nn
from transformers.modeling_outputs import (
    MaskedLMOutput,
    QuestionAnsweringModelOutput,
    SequenceClassifierOutput,
    TokenClassifierOutput,
)
from transformers.processing_utils import Unpack
from transformers.utils import TransformersKwargs, can_return_tuple

from .configuration_vaswani import VaswaniEncoderConfig
from .loss_vaswani import classification_loss, smoothed_cross_entropy
from .modeling_vaswani import VaswaniEncoder, VaswaniLanguageHead, VaswaniPreTrainedModel, with_records
from .padding_vaswani import can_pack, pack, tokens_of


class VaswaniEncoderPreTrainedModel(VaswaniPreTrainedModel):
    """A base of the encoder-only models."""

    config_class = VaswaniEncoderConfig
    _no_split_modules = ["VaswaniEncoderLayer"]


class VaswaniEncoderModel(VaswaniEncoderPreTrainedModel, VaswaniEncoder):
    """The encoder stack of section 3.1 with an embedding of its own; its weights are named as in `VaswaniModel`.

    Documents packed into one row do not see each other where `position_ids` begin again at each of them (and no
    `attention_mask` is given). Padding may be on either side.
    """


class VaswaniForMaskedLM(VaswaniLanguageHead, VaswaniEncoderPreTrainedModel):
    """A masked language model (Devlin et al. 2019): the embedding matrix projects to tokens (section 3.4)."""

    _tied_weights_keys = {"lm_head.weight": "model.embed_tokens.weight"}
    _tp_plan = {"lm_head": "colwise_gather_output"}

    def __init__(self, config: VaswaniEncoderConfig):
        super().__init__(config)
        self.model = VaswaniEncoderModel(config)
        self._add_head()

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        inputs_embeds: torch.Tensor | None = None,
        position_ids: torch.LongTensor | None = None,
        labels: torch.LongTensor | None = None,
        num_items_in_batch: torch.Tensor | int | None = None,
        skip_logits: bool = False,
        **kwargs: Unpack[TransformersKwargs],
    ) -> MaskedLMOutput:
        """Predict the token of every position.

        Args:
            input_ids, attention_mask, inputs_embeds, position_ids: as for `VaswaniEncoderModel`.
            labels: [B, L], the tokens that were masked, -100 everywhere else.
            label_smoothing: a keyword, 0.0 without it; e of the smoothed targets `(1 - e) * onehot + e / V`.
            num_items_in_batch: divisor of the summed loss; None: the number of labels that count.
            skip_logits: with labels, return no logits and never build them all: less memory, the same loss.

        Returns:
            `loss` (with labels), `logits` [B, L, V] (None with `skip_logits`), and what `output_...` asked for.
        """
        label_smoothing = kwargs.pop("label_smoothing", 0.0)
        packing = None
        if self._forms_no_logits(labels, skip_logits) and can_pack(
            self.model, attention_mask, position_ids=position_ids, **kwargs
        ):
            packing = pack(tokens_of(attention_mask, labels), None, labels)
        outputs = self.model(
            input_ids, attention_mask, inputs_embeds, position_ids=position_ids, return_dict=True, packing=packing,
            **kwargs,
        )  # fmt: skip
        if packing is not None:
            labels = packing.source.take(labels)  # [B, L] -> [1, N]
        settings = {"label_smoothing": label_smoothing, "num_items_in_batch": num_items_in_batch}
        loss, logits = self._predict(outputs.last_hidden_state, labels, 0, skip_logits, settings)
        return with_records(MaskedLMOutput(loss=loss, logits=logits), outputs)


class VaswaniForSequenceClassification(VaswaniEncoderPreTrainedModel):
    """A classifier of sequences, or pairs of them: a class, several classes or numbers from the mean of the states.

    The mean over tokens needs no special first token and does not depend on the side of the padding.
    `config.problem_type` is "single_label_classification", "multi_label_classification" or "regression"; None: derived
    from `num_labels` and the type of the labels, as in transformers' other models.
    """

    def __init__(self, config: VaswaniEncoderConfig):
        super().__init__(config)
        self.num_labels = config.num_labels
        self.model = VaswaniEncoderModel(config)
        self.dropout = nn.Dropout(_classifier_dropout(config))
        self.classifier = nn.Linear(config.d_model, config.num_labels)
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        inputs_embeds: torch.Tensor | None = None,
        position_ids: torch.LongTensor | None = None,
        labels: torch.Tensor | None = None,
        num_items_in_batch: torch.Tensor | int | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> SequenceClassifierOutput:
        """Classify sequences.

        Args:
            input_ids, attention_mask, inputs_embeds, position_ids: as for `VaswaniEncoderModel`, one sequence a row.
            labels: [B] integers (one class each), [B, C] floats (several classes each), or floats for regression.
            num_items_in_batch: divisor of the summed loss; None: the mean over the batch.

        Returns:
            `loss` (with labels), `logits` [B, C], and what was asked for with `output_...`.

        Raises:
            ValueError: the labels do not suit `config.problem_type`.
        """
        label_smoothing = kwargs.pop("label_smoothing", 0.0)
        packing = None
        if labels is not None and attention_mask is not None and can_pack(
            self.model, attention_mask, position_ids=position_ids, **kwargs
        ):  # fmt: skip
            packing = pack(attention_mask != 0, None)
        outputs = self.model(
            input_ids, attention_mask, inputs_embeds, position_ids=position_ids, return_dict=True, packing=packing,
            **kwargs,
        )  # fmt: skip
        states = outputs.last_hidden_state
        pooled = mean_of_tokens(states if packing is None else packing.source.put(states), attention_mask)
        logits = self.classifier(self.dropout(pooled))
        loss = None
        if labels is not None:
            loss = classification_loss(logits, labels, self.config, num_items_in_batch, label_smoothing)
        return with_records(SequenceClassifierOutput(loss=loss, logits=logits), outputs)


class VaswaniForTokenClassification(VaswaniEncoderPreTrainedModel):
    """A classifier of tokens: tagging and named entities."""

    def __init__(self, config: VaswaniEncoderConfig):
        super().__init__(config)
        self.num_labels = config.num_labels
        self.model = VaswaniEncoderModel(config)
        self.dropout = nn.Dropout(_classifier_dropout(config))
        self.classifier = nn.Linear(config.d_model, config.num_labels)
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        inputs_embeds: torch.Tensor | None = None,
        position_ids: torch.LongTensor | None = None,
        labels: torch.LongTensor | None = None,
        num_items_in_batch: torch.Tensor | int | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> TokenClassifierOutput:
        """Classify tokens.

        Args:
            input_ids, attention_mask, inputs_embeds, position_ids: as for `VaswaniEncoderModel`.
            labels: [B, L], a class for each token, -100 where none counts (padding, later pieces of a word).
            num_items_in_batch: divisor of the summed loss; None: the number of labels that count.

        Returns:
            `loss` (with labels), `logits` [B, L, C], and what was asked for with `output_...`.
        """
        label_smoothing = kwargs.pop("label_smoothing", 0.0)
        outputs = self.model(
            input_ids, attention_mask, inputs_embeds, position_ids=position_ids, return_dict=True, **kwargs
        )
        logits = self.classifier(self.dropout(outputs.last_hidden_state))
        loss = None
        if labels is not None:
            loss = smoothed_cross_entropy(
                logits, labels, num_items_in_batch=num_items_in_batch, label_smoothing=label_smoothing
            )
        return with_records(TokenClassifierOutput(loss=loss, logits=logits), outputs)


class VaswaniForQuestionAnswering(VaswaniEncoderPreTrainedModel):
    """A finder of the span of a context that answers a question: scores of each token to begin and to end it."""

    def __init__(self, config: VaswaniEncoderConfig):
        super().__init__(config)
        self.model = VaswaniEncoderModel(config)
        self.qa_outputs = nn.Linear(config.d_model, 2)
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        inputs_embeds: torch.Tensor | None = None,
        position_ids: torch.LongTensor | None = None,
        start_positions: torch.LongTensor | None = None,
        end_positions: torch.LongTensor | None = None,
        num_items_in_batch: torch.Tensor | int | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> QuestionAnsweringModelOutput:
        """Score the tokens of question and context.

        Args:
            input_ids, attention_mask, inputs_embeds, position_ids: as for `VaswaniEncoderModel`.
            start_positions, end_positions: [B], first and last token of the answer; a position outside the row, such
                as L, does not count.
            num_items_in_batch: divisor of the summed loss; None: the number of answers that count.

        Returns:
            `loss` (with positions; the mean of the two cross entropies), `start_logits` and `end_logits` [B, L], and
            what was asked for with `output_...`.
        """
        label_smoothing = kwargs.pop("label_smoothing", 0.0)
        outputs = self.model(
            input_ids, attention_mask, inputs_embeds, position_ids=position_ids, return_dict=True, **kwargs
        )
        start_logits, end_logits = self.qa_outputs(outputs.last_hidden_state).unbind(dim=-1)  # [B, L, 2] -> 2 x [B, L]
        loss = None
        if start_positions is not None and end_positions is not None:
            length = start_logits.shape[1]
            loss = 0.0
            for logits, positions in ((start_logits, start_positions), (end_logits, end_positions)):
                positions = positions.reshape(-1)
                labels = positions.masked_fill((positions < 0) | (positions >= length), -100)
                loss = loss + 0.5 * smoothed_cross_entropy(
                    logits, labels, num_items_in_batch=num_items_in_batch, label_smoothing=label_smoothing
                )
        result = QuestionAnsweringModelOutput(loss=loss, start_logits=start_logits, end_logits=end_logits)
        return with_records(result, outputs)


def mean_of_tokens(hidden_states: torch.Tensor, attention_mask: torch.Tensor | None) -> torch.Tensor:
    """Average [B, L, D] over the tokens that the mask lets any position see: [B, D].

    Args:
        hidden_states: [B, L, D].
        attention_mask: [B, L], 1 for tokens; or [B, 1, L, L], boolean or additive; None: every position is a token.
    """
    wide = torch.promote_types(hidden_states.dtype, torch.float32)  # a sum of many may be beyond a half type
    if attention_mask is None:
        return hidden_states.mean(dim=1, dtype=wide).to(hidden_states)
    if attention_mask.dim() == 4:
        seen = attention_mask if attention_mask.dtype == torch.bool else attention_mask >= 0
        attention_mask = seen.any(dim=(1, 2))  # [B, 1, L, L] -> [B, L]
    weights = attention_mask.to(hidden_states)[..., None]
    total, count = (hidden_states * weights).sum(dim=1, dtype=wide), weights.sum(dim=1, dtype=wide)
    return (total / count.clamp(min=1)).to(hidden_states)


def _classifier_dropout(config) -> float:
    return config.dropout if config.classifier_dropout is None else config.classifier_dropout


__all__ = [
    "VaswaniEncoderModel",
    "VaswaniEncoderPreTrainedModel",
    "VaswaniForMaskedLM",
    "VaswaniForQuestionAnswering",
    "VaswaniForSequenceClassification",
    "VaswaniForTokenClassification",
]
