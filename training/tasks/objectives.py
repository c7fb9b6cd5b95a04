"""What a translation model learns beside the labels: R-Drop, SimCut, and a teacher's predictions; all off by default.

R-Drop (Liang et al. 2021, arXiv 2106.14448, equation 4; github.com/dropreg/R-Drop): every batch passes twice, under
different dropout. The loss is the sum of both cross entropies and `rdrop_weight` times the mean of both KL divergences.

SimCut (Gao et al. 2022, arXiv 2206.02368, section 3; github.com/gpengzhi/Bi-SimCut): the second pass loses each token's
embedding, of source and target, with probability `simcut_cutoff`; its position remains, and so do the end of the source
and the start of the target. The loss is the first pass's cross entropy and `simcut_weight` times KL(first || second).
The gradient goes through both: "bidirectional backpropagation ... plays a key role" there, and nothing is detached in
the published code.

Word-level distillation (Kim and Rush 2016, arXiv 1606.07947, section 3.1): `distillation_weight` of the loss is the
divergence from a teacher's predictions, the labels have the rest.

All of them are sums over target tokens, divided as the cross entropy is, so accumulation and several processes change
nothing. Both passes are one batch of twice the rows: one forward pass, also for models in copies or shards.
"""

import functools
import hashlib
from dataclasses import dataclass
from typing import Any

import torch
import transformers
from transformers.utils import ModelOutput

from vaswani_tx import VaswaniConfig, VaswaniForConditionalGeneration, VaswaniTokenizer
from vaswani_tx.loading import load_tokenizer
from vaswani_tx.training.config.translation import TranslationSettings
from vaswani_tx.training.engine.run import choose_attention
from vaswani_tx.training.errors import CheckpointError, SettingsError
from vaswani_tx.training.models.loading import check_model, load_pretrained, read_model_type
from vaswani_tx.training.tasks.divergences import LossMix, Predictor, mixed_loss
from vaswani_tx.training.tasks.tokenizers import has_tokenizer
from vaswani_tx.training.tasks.vocabularies import SIDES


@dataclass
class ObjectiveOutput(ModelOutput):
    """The result of a forward pass with an objective.

    Args:
        loss: what is minimised.
        parts: [1 + terms], without gradient: the cross entropy, then each of the objective's `terms`.
    """

    loss: torch.Tensor | None = None
    parts: torch.Tensor | None = None


class Objective:
    """A loss of several terms, computed inside the model's forward pass, where wrappers have all weights at hand.

    Args:
        settings: the recipe.
        teacher: the model to learn from, or None.

    Attributes:
        terms: the names of what is logged beside the loss, which remains the cross entropy.
    """

    def __init__(self, settings: TranslationSettings, teacher: transformers.PreTrainedModel | None):
        self.cutoff = settings.simcut_cutoff if settings.simcut_weight else None
        self.passes = 2 if settings.rdrop_weight or settings.simcut_weight else 1
        self.teacher = teacher
        self.mix: dict[str, Any] = {"divergence": settings.rdrop_weight or settings.simcut_weight}
        names = {1: "rdrop" if settings.rdrop_weight else "simcut" if settings.simcut_weight else None}
        if settings.rdrop_weight:
            self.mix |= {"supervised": 2, "shares": (0.5, 0.5)}
        if teacher is not None:
            self.mix |= {
                "distillation": settings.distillation_weight, "temperature": settings.distillation_temperature,
            }  # fmt: skip
            names[2] = "distillation"
        self._kept = [0, *(index for index, name in names.items() if name)]  # of the parts of `mixed_loss`
        self.terms = tuple(name for name in names.values() if name)

    def attach(self, model: transformers.PreTrainedModel) -> None:
        """Let `model(..., objective=self)` compute this loss; every other call does what it did.

        Raises:
            SettingsError: model and teacher have output layers of different sizes.
        """
        if self.teacher is not None:
            known, size = self.teacher.config.vocab_size, model.config.vocab_size
            if known != size:
                raise SettingsError(
                    f"teacher: its output layer has {known:,} entries, that of the model {size:,}: set "
                    f"model.vocab_size to {known}, or leave it out."
                )
        plain = model.forward

        @functools.wraps(plain)
        def forward(*args: Any, objective: Objective | None = None, **kwargs: Any) -> Any:
            return plain(*args, **kwargs) if objective is None else objective.compute(model, *args, **kwargs)

        model.forward = forward

    def compute(
        self,
        model: transformers.PreTrainedModel,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        labels: torch.Tensor,
        num_items_in_batch: torch.Tensor | float,
        label_smoothing: float = 0.0,
        **kwargs: Any,
    ) -> ObjectiveOutput:
        """Return the loss of a batch: source [B, S] and labels [B, T], `num_items_in_batch` the divisor of sums."""
        states = self._states(model, input_ids, attention_mask, labels)
        head, teacher = model.lm_head, None
        if self.teacher is not None:
            teacher = self._predictor_of_teacher(input_ids, attention_mask, labels)
        mix = LossMix(label_smoothing=label_smoothing, **self.mix)
        total, parts = mixed_loss(Predictor(states, head.weight, head.bias), labels, mix, teacher)
        return ObjectiveOutput(total / num_items_in_batch, parts[self._kept] / num_items_in_batch)

    def _states(self, model, input_ids, attention_mask, labels) -> torch.Tensor:
        """Return the decoder's states [K, B, T, D] of each pass."""
        decoder_input_ids = model.prepare_decoder_input_ids_from_labels(labels)
        inputs = {"input_ids": input_ids, "decoder_input_ids": decoder_input_ids}
        if self.cutoff is not None:
            inputs = self._cut_inputs(model, input_ids, attention_mask, decoder_input_ids)
        elif self.passes == 2:
            inputs = {name: torch.cat((tensor, tensor)) for name, tensor in inputs.items()}
        mask = attention_mask.repeat(self.passes, 1)
        outputs = model.model(**inputs, attention_mask=mask, use_cache=False, return_dict=True)
        return outputs.last_hidden_state.unflatten(0, (self.passes, len(labels)))  # [K * B, T, D] -> [K, B, T, D]

    def _cut_inputs(self, model, input_ids, attention_mask, decoder_input_ids) -> dict[str, torch.Tensor]:
        """Return the embeddings of source and target, first as they are, then with some tokens' set to zero."""
        last = attention_mask.bool() & ~torch.nn.functional.pad(attention_mask, (0, 1))[:, 1:].bool()  # [B, S]
        start = torch.zeros_like(decoder_input_ids, dtype=torch.bool)  # [B, T]
        start[:, 0] = True
        ids = {"inputs_embeds": (input_ids, last), "decoder_inputs_embeds": (decoder_input_ids, start)}
        stacks, inputs = (model.model.encoder, model.model.decoder), {}
        for stack, (name, (tokens, kept)) in zip(stacks, ids.items(), strict=True):
            rows = stack.embed_tokens(tokens)  # [B, L, D]
            keep = kept | ~chosen_to_cut(tokens, self.cutoff)
            inputs[name] = torch.cat((rows, rows * keep.unsqueeze(-1).to(rows.dtype)))
        return inputs

    @torch.no_grad()
    def _predictor_of_teacher(self, input_ids, attention_mask, labels) -> Predictor:
        if self.teacher.device != input_ids.device:
            self.teacher.to(input_ids.device)
        decoder_input_ids = self.teacher.prepare_decoder_input_ids_from_labels(labels)
        outputs = self.teacher.model(
            input_ids=input_ids, attention_mask=attention_mask, decoder_input_ids=decoder_input_ids, use_cache=False,
            return_dict=True,
        )  # fmt: skip
        return Predictor(outputs.last_hidden_state, self.teacher.lm_head.weight, self.teacher.lm_head.bias)

    @functools.cached_property
    def fingerprint(self) -> dict[str, int]:
        """A number by which a resumed run recognises its teacher, if it has one."""
        if self.teacher is None:
            return {}
        digest = hashlib.sha256()
        for name, tensor in sorted(self.teacher.state_dict().items()):
            digest.update(name.encode())
            digest.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy())
        return {"teacher": int(digest.hexdigest()[:12], 16)}


def chosen_to_cut(tokens: torch.Tensor, probability: float) -> torch.Tensor:
    """Return which of the tokens [B, L] are cut off, each with that probability."""
    return torch.rand(tokens.shape, device=tokens.device) < probability


def make_objective(settings: TranslationSettings, tokenizer: VaswaniTokenizer) -> Objective | None:
    """Return the objective that a recipe asks for, None for the cross entropy alone.

    Raises:
        SettingsError: the teacher cannot be loaded, or has another vocabulary.
    """
    teacher = load_teacher(settings, tokenizer) if settings.teacher else None
    return Objective(settings, teacher) if settings.has_objective else None


def check_teacher(folder: str) -> None:
    """Raise SettingsError where a folder holds no encoder-decoder of this family with its tokenizer."""
    try:
        check_model(folder)
        found, wanted = read_model_type(folder), VaswaniConfig.model_type
        if found != wanted:
            raise SettingsError(f"'{folder}' holds a model of type {found!r}, not {wanted!r}: name another folder.")
        if not has_tokenizer(folder):
            raise SettingsError(f"there is no tokenizer.json in '{folder}', by which its vocabulary could be compared.")
    except (SettingsError, CheckpointError) as error:
        raise SettingsError(f"teacher: {error}") from error


def load_teacher(settings: TranslationSettings, tokenizer: VaswaniTokenizer) -> transformers.PreTrainedModel:
    """Return the recipe's teacher, in evaluation mode and without gradients.

    Raises:
        SettingsError: it cannot be loaded, is no encoder-decoder of this family, or has another vocabulary.
    """
    folder = settings.teacher
    check_teacher(folder)
    try:
        check_tokens(load_tokenizer(folder, tokenizer_class=VaswaniTokenizer), tokenizer, folder)
        model = load_pretrained(VaswaniForConditionalGeneration, folder, dtype=torch.float32)
    except (SettingsError, CheckpointError) as error:
        raise SettingsError(f"teacher: {error}") from error
    choose_attention(model, settings)
    return model.eval().requires_grad_(False)


def check_tokens(theirs: VaswaniTokenizer, ours: VaswaniTokenizer, folder: str) -> None:
    """Raise SettingsError, naming the first difference, where a teacher's tokens are not those of the run."""
    if theirs.has_target != ours.has_target:
        counts = ("two vocabularies" if each.has_target else "one vocabulary" for each in (theirs, ours))
        raise SettingsError("'{}' has {}, this run {}: both need the same.".format(folder, *counts))
    fix = "take the teacher's tokenizer for this run (tokenizer), or a teacher that was trained with this run's"
    for side, of_side in SIDES.items():
        one, other = of_side(theirs), of_side(ours)
        which = f"the {side}'s vocabulary" if ours.has_target else "the vocabulary"
        if len(one) != len(other):
            raise SettingsError(
                f"{which} of '{folder}' has {len(one):,} tokens, that of this run {len(other):,}: {fix}."
            )
        for index, (known, token) in enumerate(
            zip(one.convert_ids_to_tokens(range(len(one))), other.convert_ids_to_tokens(range(len(one))), strict=True)
        ):
            if known != token:
                raise SettingsError(
                    f"{which} of '{folder}' has {known!r} as token {index}, that of this run {token!r}: {fix}."
                )
