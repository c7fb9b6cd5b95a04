"""transformers' BERT of the sizes of one of ours, from scratch: `vaswani-tx train classifier --architecture bert`.

For a comparison: data, tokenizer, batches and their order, updates, optimiser and learning rates are the recipe's.
Particular to BERT are learned positions, GELU, biases everywhere, its initialisation (normal, 0.02), and for texts the
first token `<s>`, whose state it classifies, with a further layer (the pooler) before the classifier.

The classes here differ from transformers' only in the loss: summed over labels and divided by `num_items_in_batch`, as
the training loop needs it. Their saved models load as transformers' classes.
"""

from typing import Any

import torch
import transformers
from tokenizers.processors import TemplateProcessing
from transformers import BertConfig

from vaswani_tx import VaswaniEncoderConfig
from vaswani_tx.loss_vaswani import classification_loss, smoothed_cross_entropy

MAX_POSITIONS = 512


class BertForSequenceClassification(transformers.BertForSequenceClassification):
    """BERT's classifier with a loss that adds up over batches."""

    def forward(self, input_ids=None, attention_mask=None, labels=None, num_items_in_batch=None, label_smoothing=0.0):
        outputs = super().forward(input_ids=input_ids, attention_mask=attention_mask)
        if labels is not None:
            outputs["loss"] = classification_loss(
                outputs.logits, labels, self.config, num_items_in_batch, label_smoothing
            )
        return outputs


class BertForTokenClassification(transformers.BertForTokenClassification):
    """BERT's tagger with a loss that adds up over batches."""

    def forward(self, input_ids=None, attention_mask=None, labels=None, num_items_in_batch=None, label_smoothing=0.0):
        outputs = super().forward(input_ids=input_ids, attention_mask=attention_mask)
        if labels is not None:
            options = {"num_items_in_batch": num_items_in_batch, "label_smoothing": label_smoothing}
            outputs["loss"] = smoothed_cross_entropy(outputs.logits, labels, **options)
        return outputs


class BertForQuestionAnswering(transformers.BertForQuestionAnswering):
    """BERT's reader of answers with a loss that adds up over batches."""

    def forward(
        self, input_ids=None, attention_mask=None, start_positions=None, end_positions=None, num_items_in_batch=None,
        label_smoothing=0.0,
    ):  # fmt: skip
        outputs = super().forward(input_ids=input_ids, attention_mask=attention_mask)
        if start_positions is not None and end_positions is not None:
            options = {"num_items_in_batch": num_items_in_batch, "label_smoothing": label_smoothing}
            sides = ((outputs.start_logits, start_positions), (outputs.end_logits, end_positions))
            outputs["loss"] = sum(0.5 * smoothed_cross_entropy(logits, places, **options) for logits, places in sides)
        return outputs


BERT_CLASSES = {
    "tagging": BertForTokenClassification,
    "question_answering": BertForQuestionAnswering,
}


def bert_class(task: str) -> type[torch.nn.Module]:
    """Return the class for a task of a recipe."""
    return BERT_CLASSES.get(task, BertForSequenceClassification)


def bert_config(config: VaswaniEncoderConfig, max_length: int) -> BertConfig:
    """Return the configuration of a BERT of the sizes and rates of one of ours, with its labels."""
    return BertConfig(
        vocab_size=config.vocab_size, hidden_size=config.d_model, num_hidden_layers=config.num_hidden_layers,
        num_attention_heads=config.num_heads, intermediate_size=config.d_ff, hidden_dropout_prob=config.dropout,
        attention_probs_dropout_prob=config.attention_dropout, classifier_dropout=config.classifier_dropout,
        max_position_embeddings=max(MAX_POSITIONS, max_length + 1), type_vocab_size=1,
        pad_token_id=config.pad_token_id, bos_token_id=config.bos_token_id, eos_token_id=config.eos_token_id,
        problem_type=config.problem_type, id2label=config.id2label, label2id=config.label2id,
        task_specific_params=config.task_specific_params,
    )  # fmt: skip


def with_first_token(tokenizer: Any) -> Any:
    """Make a tokenizer put `<s>` before a text, and return it: BERT classifies by its first token."""
    begin, end = tokenizer.bos_token, tokenizer.eos_token
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single=f"{begin} $A {end}",
        pair=f"{begin} $A {end} $B:1 {end}:1",
        special_tokens=[(begin, tokenizer.bos_token_id), (end, tokenizer.eos_token_id)],
    )
    return tokenizer
