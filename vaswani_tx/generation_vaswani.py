# Shapes: B batch, R rows of the decoder (B times the beams or the sequences returned), V vocabulary, S source length.
"""The paper's decoder (section 6.1): beam search with the GNMT length penalty and a length limit for each sentence.

A hypothesis y of the source x is ranked by ``log P(y | x) / ((5 + |y|) / 6) ** alpha`` (Wu et al. 2016, equation 14,
without the coverage term) and holds at most ``|x| + 50`` tokens. Lengths count tokens with their ``</s>`` and without
the start token. The two numbers are entries of the generation configuration, ``gnmt_alpha`` and ``max_extra_tokens``,
so they are saved in ``generation_config.json`` and can be given to ``generate`` as keywords.

transformers ranks by ``log P / |y| ** length_penalty`` and has no hook for another score. Its beam search takes the
penalty only as the exponent of a length, so a float that computes GNMT's divisor when a length is raised to it changes
every score, and the search itself remains theirs. The rule that ends a sentence needs
more than an exponent (a sentence's own limit, the number of hypotheses wanted): that one method is overridden.
"""

import copy
from collections.abc import Mapping
from typing import Any

import torch
from transformers import GenerationConfig, GenerationMixin, LogitsProcessor, LogitsProcessorList

from .constraints_vaswani import ConstraintError, constrained_beam_search
from .forbidden_vaswani import ForbiddenPhrases
from .token_texts_vaswani import target_of

PAPER_DECODING = {"num_beams": 4, "gnmt_alpha": 0.6, "max_extra_tokens": 50}
# Entries that transformers' own configuration does not know.
OWN_ENTRIES = ("gnmt_alpha", "max_extra_tokens")
# Keywords of `generate` that turn beam search into the constrained one; the first is transformers 4's.
REQUIRED_ENTRIES = ("force_words_ids", "required_ids")
# What `_extract_generation_mode_kwargs`, which sees all of a call, leaves for the steps after it.
STREAMED, FORBIDDEN = "_is_streamed", "_forbidden_phrases"


def means_one_beam(given: Mapping[str, Any], config: GenerationConfig | None, is_streamed: bool) -> bool:
    """Return whether a call of `generate` asks for samples or a stream, and not for beams.

    Beams that only the model's own configuration holds are not asked for: a beam search over samples is hardly ever
    meant, and there is none that streams.

    Args:
        given: keywords of the call.
        config: the generation configuration of the call.
    """

    def asked(name: str) -> Any:
        return getattr(config, name, None) if given.get(name) is None else given[name]

    return asked("num_beams") is None and (is_streamed or bool(asked("do_sample")))


def _check_entries(gnmt_alpha: float | None, max_extra_tokens: int | None) -> None:
    is_number = isinstance(gnmt_alpha, int | float) and not isinstance(gnmt_alpha, bool)
    if gnmt_alpha is not None and not (is_number and 0 <= gnmt_alpha < float("inf")):
        raise ValueError(
            f"gnmt_alpha must be a number of at least 0, but is {gnmt_alpha!r}. The paper uses 0.6; "
            "0 leaves the ranking to `length_penalty`."
        )
    is_count = isinstance(max_extra_tokens, int) and not isinstance(max_extra_tokens, bool)
    if max_extra_tokens is not None and not (is_count and max_extra_tokens >= 0):
        raise ValueError(
            f"max_extra_tokens must be a whole number of at least 0, but is {max_extra_tokens!r}. The paper uses 50; "
            "None leaves the limit to `max_new_tokens` or `max_length`."
        )


def _check_without_source_ids(config: GenerationConfig) -> None:
    """Raise ValueError for what compares ids of the target with ids of a source, where each has a vocabulary."""
    for name, unused in (("encoder_no_repeat_ngram_size", 0), ("encoder_repetition_penalty", 1.0)):
        value = getattr(config, name, None)
        if value is not None and value != unused:
            raise ValueError(
                f"{name}={value} compares the target with the source by their token ids, and this model has a "
                "vocabulary for each (source_vocab_size): leave it out."
            )


class VaswaniGenerationConfig(GenerationConfig):
    """transformers' generation configuration with the paper's decoding (section 6.1) as its defaults.

    Args:
        num_beams: 4 in the paper.
        gnmt_alpha: exponent of the GNMT length penalty, 0.6 in the paper. 0 leaves the ranking to transformers'
            `length_penalty`. None means "not set", as everywhere in a generation configuration: one that is given to
            `generate` then takes the model's value. If `length_penalty` is given here and `gnmt_alpha` is not, the
            latter is 0.
        do_sample: if it is given here and `num_beams` is not, the latter is 1.
        max_extra_tokens: how many tokens more than its source a target may have, 50 in the paper. It holds unless
            `max_new_tokens` or `max_length` sets an absolute limit.

    A plain `GenerationConfig` with the same entries works as well: the model reads the entries, not the class.

    Raises:
        ValueError: an entry is negative or of the wrong type.
    """

    def __init__(self, **kwargs):
        if kwargs.get("length_penalty") is not None:
            kwargs.setdefault("gnmt_alpha", 0.0)
        if kwargs.get("do_sample"):
            kwargs.setdefault("num_beams", 1)
        settings = {**PAPER_DECODING, **kwargs}
        # Set here: the parent drops unknown entries if the settings claim to come from a model's configuration.
        for name in OWN_ENTRIES:
            setattr(self, name, settings.pop(name))
        super().__init__(**settings)

    def validate(self, *args, **kwargs):
        super().validate(*args, **kwargs)
        _check_entries(self.gnmt_alpha, self.max_extra_tokens)

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs):
        """Build the configuration that was saved: an entry that is missing was not set, and gets no default."""
        return super().from_dict({**dict.fromkeys(PAPER_DECODING), **config_dict}, **kwargs)

    @classmethod
    def from_model_config(cls, model_config) -> "VaswaniGenerationConfig":
        """Return the paper's decoding with what transformers takes from `model_config`, mainly the token ids.

        A model without an encoder gets transformers' defaults instead: it continues a text, greedily, and has no source
        whose length could limit it.
        """
        taken = GenerationConfig.from_model_config(model_config).to_diff_dict()
        # It marks a configuration as derived: transformers would drop our entries at the next loading.
        taken.pop("_from_model_config", None)
        config = cls(**taken) if getattr(model_config, "is_encoder_decoder", True) else cls.from_dict(taken)
        config._original_object_hash = hash(config)
        return config


class GNMTLengthPenalty(float):
    """GNMT's length penalty in the form of an exponent: `length ** penalty` is ``((5 + |y|) / 6) ** alpha``.

    Args:
        alpha: the exponent; also the value of the float.
        prefix_length: tokens of a given target prefix without the start token. transformers counts from the end of
            the prefix, the penalty counts the whole target.
        longest: `[B, 1]`, the most tokens that each sentence's target may have; None: the search's own limit.
        num_returned: how many hypotheses of a sentence are returned.

    Source: Wu et al. 2016, equation 14; tensor2tensor's beam search counts ``</s>`` as one token of y, as here.
    """

    prefix_length: int
    longest: torch.Tensor | None
    num_returned: int

    def __new__(cls, alpha: float, prefix_length: int = 0, longest: torch.Tensor | None = None, num_returned: int = 1):
        penalty = super().__new__(cls, alpha)
        penalty.prefix_length = prefix_length
        penalty.longest = longest
        penalty.num_returned = num_returned
        return penalty

    def of(self, length):
        """Return the divisor for targets of `length` tokens (a number or a tensor)."""
        return ((5.0 + length) / 6.0) ** float(self)

    def __rpow__(self, num_generated):
        return self.of(num_generated + self.prefix_length)


class TargetLimitLogitsProcessor(LogitsProcessor):
    """A processor that lets only ``</s>`` follow where a target is one token short of its own limit.

    The ``</s>`` keeps its log-probability, so a beam search ranks exactly the complete targets within the limit, and
    the loop of a batch may continue for its longer sentences without changing a shorter one.

    Args:
        limits: `[B]`, the most tokens that each target may have, its start token included.
        eos_token_ids: `[number of end tokens]`.
    """

    def __init__(self, limits: torch.Tensor, eos_token_ids: torch.Tensor):
        self.limits = limits
        self.eos_token_ids = eos_token_ids
        self._shortest = int(limits.min())

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
        length = input_ids.shape[1] + 1
        if length < self._shortest:
            return scores
        limits = self.limits.to(scores.device).repeat_interleave(scores.shape[0] // self.limits.shape[0])  # [B] -> [R]
        ends = self.eos_token_ids.to(scores.device)
        # A minimum length above the limit has ruled the end out: the limit wins, as it does in transformers.
        end_scores = scores[:, ends].masked_fill(scores[:, ends].isneginf(), 0.0)
        closing = torch.full_like(scores, -torch.inf)
        closing[:, ends] = end_scores
        return torch.where((limits <= length)[:, None], closing, scores)


def _chosen_max_length(config: GenerationConfig | None) -> int | None:
    """Return the `max_length` that was set for `config`, None if none was.

    `Seq2SeqTrainer` writes every default of transformers into the model's configuration while it evaluates. The
    `max_length` of 20 among them was not chosen, and would cut all translations from the second batch on.
    """
    if config is None:
        return None
    defaults = {name: value for name, value in config._get_default_generation_params().items() if value is not None}
    holds_them_all = all(getattr(config, name, None) is not None for name in defaults)
    return None if holds_them_all and config.max_length == defaults["max_length"] else config.max_length


class VaswaniGenerationMixin(GenerationMixin):
    """`generate` with the paper's decoding, where the generation configuration asks for it; else transformers' own.

    A base of the model's class, before or after the pretrained one. These entries decide:

    - `gnmt_alpha` above 0: GNMT's score ranks the hypotheses and is what `sequences_scores` hold. None or 0:
      transformers' `length_penalty` ranks. A `length_penalty` given to `generate`, as keyword or in a configuration
      that does not set `gnmt_alpha`, wins over the model's `gnmt_alpha`.
    - `max_extra_tokens`: a target has at most that many tokens more than its own source, in any batch.
      `max_new_tokens` or `max_length`, in the call or in the model's configuration, is an absolute limit instead and
      cuts as transformers does, without ``</s>``. The source's length is taken from `attention_mask`; without one every
      position counts, as it does for the encoder.
    - `force_words_ids` and `required_ids`: what every hypothesis must hold, found by `constrained_beam_search`.
    - `bad_words` with `tokenizer`: words and phrases that no text may hold, whatever tokens they are written with
      (`ForbiddenPhrases`; with `whole_words=True` as whole words only). transformers' `bad_words_ids` forbids tokens.
    - `do_sample=True` or a `streamer` in the call, without `num_beams` in the call: one beam, whatever the model's own
      configuration says.
    - `early_stopping` with GNMT's score: False ends a sentence as soon as no running beam can still reach the
      hypotheses that will be returned, "never" as soon as none of the `num_beams` kept can improve, True as soon as
      `num_beams` are complete. The first two never change what is returned: a running beam's score is bounded by its
      log-probability at the sentence's limit, where the penalty is largest. tensor2tensor, the paper's decoder, has the
      same two rules.

    Deviation from tensor2tensor: it drops a beam that is unfinished at the limit, unless a sentence has nothing else;
    here every beam is closed by a ``</s>`` at its real probability. log P is that of the generated tokens: a
    prefix given as `decoder_input_ids` adds to |y|, but not to log P.
    """

    def __init_subclass__(cls, **kwargs):
        super().__init_subclass__(**kwargs)
        # transformers' default is on the pretrained base class, which usually comes first among the bases.
        if getattr(cls, "generation_config_class", None) is GenerationConfig:
            cls.generation_config_class = VaswaniGenerationConfig

    def adjust_generation_fn(self, generation_config, *args, **kwargs):
        """Load the saved generation configuration; a folder without one gets the paper's."""
        paper_config = self.generation_config
        super().adjust_generation_fn(generation_config, *args, **kwargs)
        loaded = self.generation_config
        if loaded is paper_config:
            return
        if loaded._from_model_config and not hasattr(loaded, "gnmt_alpha"):
            self.generation_config = paper_config
        elif not isinstance(loaded, VaswaniGenerationConfig):
            self.generation_config = VaswaniGenerationConfig.from_dict(loaded.to_dict())
            self.generation_config._original_object_hash = hash(self.generation_config)

    def _extract_generation_mode_kwargs(self, custom_generate, kwargs, synced_gpus, assistant_model, streamer):
        words, whole_words = kwargs.pop("bad_words", None), kwargs.pop("whole_words", False)
        if kwargs.get("tokenizer") is not None:
            kwargs["tokenizer"] = target_of(kwargs["tokenizer"])  # stop strings too are looked for in what is written
        if words is not None:
            if kwargs.get("tokenizer") is None:
                raise ValueError(
                    "`bad_words` are matched on the text: give `tokenizer` too, or token ids as `bad_words_ids`."
                )
            kwargs[FORBIDDEN] = ForbiddenPhrases(kwargs["tokenizer"], words, whole_words=bool(whole_words))
        kwargs[STREAMED] = streamer is not None
        if getattr(custom_generate, "takes_all_settings", False):
            custom_generate = None  # which lets transformers keep settings of the call from other callables
        return super()._extract_generation_mode_kwargs(custom_generate, kwargs, synced_gpus, assistant_model, streamer)

    def _prepare_generation_config(self, generation_config: GenerationConfig | None, **kwargs):
        if means_one_beam(kwargs, generation_config, kwargs.pop(STREAMED, False)):
            if generation_config is None:
                kwargs["num_beams"] = 1
            else:  # transformers deprecates keywords beside a configuration
                generation_config = copy.deepcopy(generation_config)
                generation_config.num_beams = 1
        forbidden = kwargs.pop(FORBIDDEN, None)
        # Taken out because transformers refuses keywords that the model's configuration does not hold.
        given = {name: kwargs.pop(name) for name in OWN_ENTRIES if name in kwargs}
        required = {name: kwargs.pop(name) for name in REQUIRED_ENTRIES if kwargs.get(name) is not None}
        if given.get("max_extra_tokens") is not None and not self.config.is_encoder_decoder:
            raise ValueError(
                f"max_extra_tokens={given['max_extra_tokens']} counts from the length of a source, and this model has "
                "no encoder to read one: give max_new_tokens."
            )
        length_penalty = kwargs.get("length_penalty")
        if length_penalty is not None and given.get("gnmt_alpha"):
            raise ValueError(
                f"gnmt_alpha={given['gnmt_alpha']} and length_penalty={length_penalty} are two rankings of the same "
                "hypotheses: give one of them."
            )
        if generation_config is not None and getattr(generation_config, "gnmt_alpha", None) is None:
            length_penalty = generation_config.length_penalty if length_penalty is None else length_penalty
        prepared, model_kwargs = super()._prepare_generation_config(generation_config, **kwargs)
        if getattr(self.config, "source_vocab_size", None) is not None:
            _check_without_source_ids(prepared)
        if length_penalty is not None:
            given.setdefault("gnmt_alpha", None)
        for name in OWN_ENTRIES:
            setattr(prepared, name, given.get(name, getattr(prepared, name, None)))
        _check_entries(prepared.gnmt_alpha, prepared.max_extra_tokens)
        if required and (prepared.do_sample or (prepared.num_beams or 1) < 2):
            raise ConstraintError(
                f"{' and '.join(required)} need beam search, but num_beams is {prepared.num_beams} and do_sample "
                f"{prepared.do_sample}: set num_beams to at least 2 (better 8 or more), and do_sample=False."
            )
        prepared._required, prepared._forbidden = required, forbidden
        # What later steps of this call need, where transformers keeps its own such values.
        mask = model_kwargs.get("attention_mask")
        prepared._source_lengths = mask.ne(0).sum(dim=-1) if mask is not None and mask.dim() == 2 else None
        prepared._target_limits = None
        max_lengths = (kwargs.get("max_length"), *map(_chosen_max_length, (generation_config, self.generation_config)))
        prepared._is_limited_by_source = (
            self.config.is_encoder_decoder
            and prepared.max_extra_tokens is not None
            and prepared.max_new_tokens is None
            and all(max_length is None for max_length in max_lengths)
        )
        return prepared, model_kwargs

    def _prepare_generated_length(
        self, generation_config: GenerationConfig, has_default_max_length: bool, input_ids_length: int, **kwargs
    ) -> GenerationConfig:
        if getattr(generation_config, "_is_limited_by_source", False):
            limits = self._limits_by_source(generation_config, kwargs["inputs_tensor"], input_ids_length)
            generation_config._target_limits = limits
            generation_config.max_new_tokens = int(limits.max()) - input_ids_length
            has_default_max_length = True
        generation_config = super()._prepare_generated_length(
            generation_config=generation_config,
            has_default_max_length=has_default_max_length,
            input_ids_length=input_ids_length,
            **kwargs,
        )
        alpha = getattr(generation_config, "gnmt_alpha", None)
        if alpha:
            limits = getattr(generation_config, "_target_limits", None)
            generation_config.length_penalty = GNMTLengthPenalty(
                alpha,
                prefix_length=input_ids_length - 1 if self.config.is_encoder_decoder else 0,
                longest=None if limits is None else limits[:, None] - 1,
                num_returned=generation_config.num_return_sequences,
            )
        return generation_config

    def _limits_by_source(
        self, generation_config: GenerationConfig, inputs_tensor: torch.Tensor, input_ids_length: int
    ) -> torch.Tensor:
        """Return `[B]`, the most tokens of each target with its start token; one further token always fits."""
        lengths = generation_config._source_lengths
        if lengths is None:
            lengths = torch.full(inputs_tensor.shape[:1], inputs_tensor.shape[1], device=inputs_tensor.device)
        limits = lengths.to(inputs_tensor.device) + generation_config.max_extra_tokens + 1
        num_positions = getattr(self.config, "max_position_embeddings", None)
        if num_positions is not None and getattr(self.config, "position_embedding", None) != "sinusoidal":
            # A table of positions ends somewhere; the paper's sinusoids do not.
            limits = limits.clamp(max=num_positions)
        return limits.clamp(min=input_ids_length + 1)

    def _get_deprecated_gen_repo(self, generation_mode, trust_remote_code, custom_generate=None):
        if getattr(custom_generate, "takes_all_settings", False):
            custom_generate = None  # a search that is on the Hub is none for a callable
        return super()._get_deprecated_gen_repo(generation_mode, trust_remote_code, custom_generate)

    def _get_logits_processor(self, generation_config: GenerationConfig, *args, **kwargs) -> LogitsProcessorList:
        if forbidden := getattr(generation_config, "_forbidden", None):
            kwargs["logits_processor"] = LogitsProcessorList([*(kwargs.get("logits_processor") or []), forbidden])
        processors = super()._get_logits_processor(generation_config, *args, **kwargs)
        ends = getattr(generation_config, "_eos_token_tensor", None)
        limits = getattr(generation_config, "_target_limits", None)
        if limits is not None and ends is not None:
            processors.append(TargetLimitLogitsProcessor(limits, ends))
        return processors

    def _beam_search(self, input_ids: torch.LongTensor, *args, generation_config: GenerationConfig, **kwargs):
        if required := getattr(generation_config, "_required", None):
            settings = {"generation_config": generation_config, **required, **kwargs}
            return constrained_beam_search(self, input_ids, *args, **settings)
        padding = getattr(generation_config, "_pad_token_tensor", None)
        is_ours = isinstance(generation_config.length_penalty, GNMTLengthPenalty)
        if padding is None or not (is_ours or getattr(generation_config, "_target_limits", None) is not None):
            return super()._beam_search(input_ids, *args, generation_config=generation_config, **kwargs)
        asked = generation_config.return_dict_in_generate
        if not asked:  # only the dictionary tells where each sequence ends
            generation_config = copy.copy(generation_config)
            generation_config.return_dict_in_generate = True
            for name in ("scores", "logits", "attentions", "hidden_states"):
                setattr(generation_config, f"output_{name}", False)
        output = super()._beam_search(input_ids, *args, generation_config=generation_config, **kwargs)
        # transformers takes a padding id of 0 for none at all and fills up with </s>, in beam search only.
        lengths = (output.beam_indices >= 0).sum(dim=-1, keepdim=True)  # [R, T] -> [R, 1]
        generated = output.sequences[:, input_ids.shape[1] :]
        after = torch.arange(generated.shape[1], device=generated.device) >= lengths
        generated.masked_fill_(after, int(padding))
        return output if asked else output.sequences

    def _check_early_stop_heuristic(self, **state) -> torch.Tensor:
        """Return `[B, 1]`: can a running beam of this sentence still change what is kept of it?"""
        penalty = state["length_penalty"]
        if not isinstance(penalty, GNMTLengthPenalty):
            return super()._check_early_stop_heuristic(**state)
        best_running = state["running_beam_scores"][:, :1]
        finished = state["beam_scores"]  # [B, number of beams], best first; -1e9 where none is finished
        if penalty.longest is None:
            longest = state["max_length"] - state["decoder_prompt_len"] + penalty.prefix_length
        else:
            longest = penalty.longest.to(best_running.device)
        rank = finished.shape[1] if state["early_stopping"] == "never" else penalty.num_returned
        can_improve = best_running / penalty.of(longest) > finished[:, rank - 1 : rank]
        return state["is_early_stop_heuristic_unsatisfied"] & can_improve


__all__ = ["GNMTLengthPenalty", "TargetLimitLogitsProcessor", "VaswaniGenerationConfig", "VaswaniGenerationMixin"]
