# Shapes: B sources of a batch, S source length, T target length.
"""`TranslationPipeline` and `SummarizationPipeline`, which transformers 5 removed, for every encoder-decoder.

`pipeline("translation", model=...)` finds them once this package is imported; a checkpoint that carries this file finds
them with `trust_remote_code=True`. Input and output are those of transformers 4.
"""

import copy
import importlib
import re
from collections.abc import Iterable, Iterator, Sized
from dataclasses import replace
from itertools import islice
from typing import Any

import torch
from torch.utils.data import Dataset
from transformers import GenerationConfig, LogitsProcessorList, Pipeline

from .alignments_vaswani import Reading, read_again, target_spans, word_alignment
from .constraints_vaswani import constrained_beam_search
from .fast_generation_vaswani import search_of
from .forbidden_vaswani import ForbiddenPhrases
from .generation_vaswani import means_one_beam
from .phrases_vaswani import required_phrase_ids
from .pipeline_vaswani_parts import (
    DEFAULT_BATCH_TOKENS,
    OWN_NAMES,
    Hypothesis,
    Settings,
    Unit,
    join_hypotheses,
    pieces_of,
    plan_batches,
    read_texts,
    without_space,
)
from .search_vaswani import recorded_search
from .sentences_vaswani import Sentence
from .token_texts_vaswani import language_tag, source_of

# For models that set no limit: the 20 of `generate` would cut every translation. As in transformers 4.
DEFAULT_NEW_TOKENS, UNSET_MAX_LENGTH = 256, (None, 20)
LANGUAGES_IN_NAME = re.compile(r"translation_(.+)_to_(.+)")


class _SequencePipeline(Pipeline):
    """A base of both pipelines: text in, text out.

    Call it with a string, a list or `datasets` column of strings, or any iterable of them.

    Args of the constructor or of a call:
        batch_size: sources of a batch. Without it, a list goes in batches of `batch_tokens`, an iterable one by one.
        batch_tokens: source tokens of a batch with its padding; 1024 for lists.
        window: texts that are read ahead and sorted by length; it bounds memory, and how long an iterable waits
            for its first answer. 16 batches, or 1024 texts.
        num_return_sequences: with beams, the n best of each text.
        return_scores: `score`, by which the search ranked the hypotheses (`sequences_scores` of `generate`); without
            beams log P(y | x) over the same length penalty; with `split_sentences` their sum.
        return_alignments: `alignment`, for each target token the source token with most cross-attention, averaged over
            the heads of `alignment_layer` (from 0; the last but one), with its place in the text where the tokenizer
            is fast. "words" joins them to words.
        return_tensors: `..._token_ids`, and the text only with `return_text=True`.
        split_sentences: cut each text into sentences, and join their targets with the spaces and line breaks between.
        forced_prefix: how the target begins.
        required: words or phrases that the target must hold, a list of forms where one is enough, or a function from
            the source to such a list. Needs beams; more than the usual ones help.
        bad_words: words or phrases that its text must not hold, whatever tokens they are written with.
        whole_words: `required` and `bad_words` are matched as whole words: "cat" is then not in "cats".
        src_lang, tgt_lang: for tokenizers with languages, or with a token for each that goes before the source: "fr"
            is then `>>fr<<`, which may as well be written in the text.
        clean_up_tokenization_spaces, truncation: for the tokenizer.
        engine: of the constructor only: "ctranslate2" or "onnx" compute in place of the model that was given, from its
            folder or its name; needs the package vaswani-tx with its extra `export`. `quantization` goes with it.
            Without it models of this package search by `fast_generate`; "transformers" is plain `generate`.
        Everything else goes to `generate`, `streamer` (for one string) included. `do_sample=True` or a `streamer` means
            one beam unless `num_beams` is given too.

    Returns:
        For a string a list with a dictionary for each hypothesis; for a list one such list each, or where each has one
        entry, the entries; for an iterable an iterator that reads it as far as needed.

    Raises:
        ValueError: input that is not text, or settings that do not fit together or to the model.
    """

    return_name = "generated"
    _load_tokenizer = True
    _load_processor = _load_image_processor = _load_video_processor = _load_feature_extractor = False
    # This class passes them itself, in the same way in all versions of transformers.
    _pipeline_calls_generate = False

    def __init__(self, *args: Any, engine: str | None = None, quantization: str | None = None, **kwargs: Any):
        self.engine = engine
        if engine not in (None, "transformers"):
            kwargs["model"], tokenizer = _for_engine(kwargs.get("model"), engine, quantization)
            kwargs["tokenizer"] = kwargs.get("tokenizer") or tokenizer
        super().__init__(*args, **kwargs)
        if not getattr(self.model.config, "is_encoder_decoder", False) or not self.model.can_generate():
            raise ValueError(
                f"{type(self).__name__} needs an encoder-decoder with an output layer, not "
                f"{type(self.model).__name__}: load the model with AutoModelForSeq2SeqLM."
            )
        if self.tokenizer is None:
            raise ValueError(f"{type(self).__name__} needs a tokenizer: give it as `tokenizer=`.")

    def _sanitize_parameters(self, **parameters: Any) -> tuple[dict, dict, dict]:
        return {}, parameters, {}

    def __call__(self, inputs: Any, *, num_workers: int | None = None, **parameters: Any) -> Any:
        """Translate or summarise; `num_workers` is accepted for callers of transformers 4 and has no effect."""
        is_list = isinstance(inputs, Sized) and not isinstance(inputs, Dataset)
        settings = self._settings(parameters, is_list)
        if settings.generate.get("streamer") is not None and (not isinstance(inputs, str) or settings.split_sentences):
            raise ValueError("a `streamer` shows one text as it grows: give a single string, without split_sentences.")
        if isinstance(inputs, str):
            return next(self._stream([inputs], settings))
        answers = self._stream(read_texts(inputs), settings)
        if not is_list:
            return answers
        found = list(answers)
        return [records[0] for records in found] if all(len(records) == 1 for records in found) else found

    def _settings(self, parameters: dict[str, Any], is_list: bool) -> Settings:
        given = {**self._forward_params, **parameters}
        if given.get("batch_size") is None and parameters.get("batch_tokens") is None:
            given["batch_size"] = self._batch_size
        own = {name: given.pop(name) for name in OWN_NAMES & given.keys()}
        settings = Settings(**own, generate=given)
        if settings.batch_size is None and settings.batch_tokens is None:
            settings.batch_tokens = DEFAULT_BATCH_TOKENS if is_list else None
            settings.batch_size = None if is_list else 1
        settings.check(self.tokenizer)
        if isinstance(settings.required, str):
            raise ValueError(f"`required` is the text {settings.required!r}: give a list of words or phrases.")
        if settings.required is not None and not callable(settings.required):
            settings.required = required_phrase_ids(self.tokenizer, settings.required, settings.whole_words)
        if settings.bad_words is not None:
            forbidden = ForbiddenPhrases(self.tokenizer, settings.bad_words, settings.whole_words)
            given["logits_processor"] = LogitsProcessorList([*(given.get("logits_processor") or []), forbidden])
        return settings

    def _stream(self, texts: Iterable[str], settings: Settings) -> Iterator[list[dict[str, Any]]]:
        texts = iter(texts)
        while window := list(islice(texts, settings.texts_at_once)):
            cut = [pieces_of(text, settings.split_sentences) for text in window]
            units, forced = self.preprocess([piece.text for pieces in cut for piece in pieces], settings)
            asked = replace(settings, generate={**forced, **settings.generate})
            found: list[list[Hypothesis]] = [[]] * len(units)
            for indices in plan_batches([len(unit.ids) for unit in units], settings.batch_size, settings.batch_tokens):
                batch = [units[index] for index in indices]
                outputs = self.forward(self._pad(batch), settings=asked, units=batch)
                for index, hypotheses in zip(indices, self.postprocess(outputs, asked, batch), strict=True):
                    found[index] = hypotheses
            answers = iter(found)
            for text, pieces in zip(window, cut, strict=True):
                yield self._records(text, pieces, [next(answers) for _ in pieces], settings)

    # From text to ids

    def preprocess(self, texts: list[str], settings: Settings) -> tuple[list[Unit], dict[str, Any]]:
        """Tokenise; return the units, and the keywords of `generate` that the languages need."""
        if not texts:
            return [], {}
        prefix, tokenizer = self._source_prefix(settings), self.tokenizer
        options: dict[str, Any] = {"truncation": settings.truncation}
        if settings.return_alignments and tokenizer.is_fast:
            options["return_offsets_mapping"] = True
        encoded, forced = self._tokenise([prefix + text for text in texts], settings, options)
        special, units = set(source_of(tokenizer).all_special_ids), []
        for number, (text, ids) in enumerate(zip(texts, encoded["input_ids"], strict=True)):
            unit = Unit(text, list(ids), [token not in special for token in ids])
            if "return_offsets_mapping" in options:
                places = [(start - len(prefix), end - len(prefix)) for start, end in encoded["offset_mapping"][number]]
                # Tokens of the prefix come before the text, those that were added are not in it.
                unit.aligns = [ok and end > max(start, 0) for ok, (start, end) in zip(unit.aligns, places, strict=True)]
                unit.spans = [without_space(text, max(start, 0), max(end, 0)) for start, end in places]
            units.append(unit)
        return units, forced

    def _tokenise(self, texts: list[str], settings: Settings, options: dict) -> tuple[Any, dict[str, Any]]:
        tokenizer = self.tokenizer
        if not hasattr(tokenizer, "_build_translation_inputs"):
            if settings.src_lang or settings.tgt_lang:
                if self._task_name(settings) in self._task_params() or self._tag(settings):
                    return tokenizer(texts, **options), {}
                raise ValueError(
                    f"{type(tokenizer).__name__} has no languages to choose from: leave out src_lang and tgt_lang."
                )
            return tokenizer(texts, **options), {}
        named = LANGUAGES_IN_NAME.fullmatch(self.task or "")
        before = getattr(tokenizer, "src_lang", None)
        source = settings.src_lang or (named and named[1]) or before
        target = settings.tgt_lang or (named and named[2]) or getattr(tokenizer, "tgt_lang", None)
        if source is None or (target is None and self._forced_first(settings) is None):
            raise ValueError("this model translates between many languages: give `src_lang` and `tgt_lang`.")
        for language in filter(None, (source, target)):
            self._check_language(language)
        try:
            if target is None:
                tokenizer.src_lang = source
                return tokenizer(texts, **options), {}
            encoded = tokenizer._build_translation_inputs(
                texts, return_tensors=None, src_lang=source, tgt_lang=target, **options
            )
            return encoded, {"forced_bos_token_id": encoded["forced_bos_token_id"]}
        finally:
            if before is not None:
                tokenizer.src_lang = before

    def _check_language(self, language: str) -> None:
        tokenizer = self.tokenizer
        try:
            known = getattr(tokenizer, "get_lang_id", tokenizer.convert_tokens_to_ids)(language)
        except KeyError:
            known = None
        if known is None or known == tokenizer.unk_token_id:
            raise ValueError(
                f"{type(tokenizer).__name__} knows no language {language!r}: see its additional tokens for the codes, "
                "such as 'de' (M2M100), 'de_DE' (mBART) or 'deu_Latn' (NLLB)."
            )

    def _task_name(self, settings: Settings) -> str:
        return f"translation_{settings.src_lang}_to_{settings.tgt_lang}" if settings.src_lang else self.task

    def _task_params(self) -> dict[str, dict[str, Any]]:
        return getattr(self.model.config, "task_specific_params", None) or {}

    def _tag(self, settings: Settings) -> str | None:
        """Return the token that goes before a source to name its target language, where the tokenizer has one."""
        if hasattr(self.tokenizer, "_build_translation_inputs"):
            return None
        named = LANGUAGES_IN_NAME.fullmatch(self.task or "")
        return language_tag(self.tokenizer, settings.tgt_lang or (named and named[2]))

    def _source_prefix(self, settings: Settings) -> str:
        if tag := self._tag(settings):
            return f"{tag} "
        own = self._task_params().get(self._task_name(settings), {}).get("prefix")
        return own if own is not None else getattr(self.model.config, "prefix", None) or ""

    def _pad(self, units: list[Unit]) -> dict[str, torch.Tensor]:
        width = max(len(unit.ids) for unit in units)
        ids = torch.full((len(units), width), source_of(self.tokenizer).pad_token_id or 0)  # [B, S]
        mask = torch.zeros_like(ids)
        for row, unit in enumerate(units):
            ids[row, : len(unit.ids)] = torch.tensor(unit.ids)
            mask[row, : len(unit.ids)] = 1
        return {"input_ids": ids, "attention_mask": mask}

    # From ids to ids

    def _forward(self, inputs: dict[str, torch.Tensor], settings: Settings, units: list[Unit]) -> dict[str, Any]:
        training = self.model.training
        self.model.eval()
        try:
            arguments = self._arguments(settings, units)
            arguments |= search_of(self.engine, self.model, arguments)
            with recorded_search(self.model, self.tokenizer) as record:
                output = self.model.generate(**inputs, **arguments)
            sequences = output if isinstance(output, torch.Tensor) else output.sequences
            lengths, scores = record.lengths_of(sequences), None if record.scores is None else record.scores.tolist()
            readings = None
            if settings.return_alignments or (settings.return_scores and scores is None):
                sources = torch.zeros_like(inputs["input_ids"], dtype=torch.bool)
                for row, unit in enumerate(units):
                    sources[row, : len(unit.ids)] = torch.tensor(unit.aligns, device=sources.device)
                readings = read_again(
                    self.model,
                    **inputs,
                    sequences=sequences,
                    lengths=lengths,
                    prompt_length=record.prompt_length,
                    certain=record.certain_tokens(),
                    layer=settings.alignment_layer,
                    sources=sources if settings.return_alignments else None,
                )
                if scores is None:
                    scores = [record.score(reading.log_prob, reading.num_tokens) for reading in readings]
        finally:
            self.model.train(training)
        ends = [record.prompt_length + length for length in lengths]
        return {"sequences": sequences, "ends": ends, "readings": readings, "scores": scores}

    def _arguments(self, settings: Settings, units: list[Unit]) -> dict[str, Any]:
        """Return the keywords of `generate`, by precedence: the caller's, the task's, the defaults."""
        given = settings.generate
        config = given.get("generation_config")
        if means_one_beam(given, config, is_streamed=given.get("streamer") is not None):
            given = {**given, "num_beams": 1}
        defaults = self._defaults(settings)
        chosen = {**{name: v for name, v in defaults.items() if getattr(config, name, None) is None}, **given}
        if config is not None:
            # transformers deprecates keywords beside a configuration: they go into a copy of it.
            config = copy.deepcopy(chosen.pop("generation_config"))
            if given.get("length_penalty") is not None and given.get("gnmt_alpha") is None:
                config.gnmt_alpha = None  # which would win over the keyword
            chosen = {"generation_config": config, **config.update(**chosen)}
        if settings.forced_prefix:
            if "decoder_input_ids" in chosen:
                raise ValueError("`forced_prefix` and `decoder_input_ids` both say how the target begins: give one.")
            ids = self.tokenizer(text_target=settings.forced_prefix, add_special_tokens=False)["input_ids"]
            first = [token for token in (self._start_id(), self._forced_first(settings)) if token is not None]
            chosen["decoder_input_ids"] = torch.tensor([first + ids] * len(units), device=self.device)
        required = self._required(settings, units)
        if any(required):
            chosen |= {"custom_generate": constrained_beam_search, "required_ids": required}
        return chosen

    def _defaults(self, settings: Settings) -> dict[str, Any]:
        own = self._task_params().get(self._task_name(settings), {})
        known = vars(GenerationConfig())
        defaults = {name: value for name, value in own.items() if name in known}
        model = self.model.generation_config
        limits = (model.max_new_tokens, getattr(model, "max_extra_tokens", None), defaults.get("max_length"))
        given = {"max_length", "max_new_tokens", "max_extra_tokens", "generation_config"} & settings.generate.keys()
        if given:
            return {name: value for name, value in defaults.items() if name not in ("max_length", "max_new_tokens")}
        if all(limit is None for limit in limits) and model.max_length in UNSET_MAX_LENGTH:
            defaults["max_new_tokens"] = DEFAULT_NEW_TOKENS
        return defaults

    def _required(self, settings: Settings, units: list[Unit]) -> list[list]:
        if callable(settings.required):
            wanted = [settings.required(unit.text) or [] for unit in units]
            return [required_phrase_ids(self.tokenizer, phrases, settings.whole_words) for phrases in wanted]
        return [list(settings.required or [])] * len(units)

    def _setting(self, settings: Settings, name: str) -> Any:
        """Return a generation parameter as the caller, the caller's configuration or the model's sets it."""
        values = (settings.generate.get(name), getattr(settings.generate.get("generation_config"), name, None))
        return next((v for v in values if v is not None), getattr(self.model.generation_config, name, None))

    def _forced_first(self, settings: Settings) -> int | None:
        return self._setting(settings, "forced_bos_token_id")

    def _start_id(self) -> int | None:
        places = (self.model.generation_config, self.model.config)
        ids = (getattr(place, name, None) for name in ("decoder_start_token_id", "bos_token_id") for place in places)
        return next((token for token in ids if token is not None), None)

    # From ids to answers

    def postprocess(self, outputs: dict[str, Any], settings: Settings, units: list[Unit]) -> list[list[Hypothesis]]:
        """Turn ids into the hypotheses of each unit, best first."""
        sequences, readings, scores = outputs["sequences"], outputs["readings"], outputs["scores"]
        count = len(sequences) // len(units)
        found: list[list[Hypothesis]] = [[] for _ in units]
        for row, (ids, end) in enumerate(zip(sequences, outputs["ends"], strict=True)):
            ids = ids[:end]
            decoding = {"clean_up_tokenization_spaces": settings.clean_up_tokenization_spaces}
            hypothesis = Hypothesis(self.tokenizer.decode(ids, skip_special_tokens=True, **decoding), ids)
            if settings.return_scores:
                hypothesis.score = scores[row]
            if settings.return_alignments:
                hypothesis.alignment = self._alignment(hypothesis, units[row // count], readings[row], decoding)
            found[row // count].append(hypothesis)
        return found

    def _alignment(
        self, hypothesis: Hypothesis, unit: Unit, reading: Reading, decoding: dict[str, Any]
    ) -> list[dict[str, Any]]:
        tokenizer, special = self.tokenizer, set(self.tokenizer.all_special_ids)
        labels = hypothesis.ids[1:].tolist()
        kept = [place for place, token in enumerate(labels[: len(reading.links)]) if token not in special]
        ids = [labels[place] for place in kept]
        spans = target_spans(tokenizer, ids, hypothesis.text, **decoding) if unit.spans is not None else None
        entries = []
        for number, place in enumerate(kept):
            source, weight = reading.links[place]
            entry = {
                "target_token": tokenizer.convert_ids_to_tokens(ids[number]),
                "source_token": source_of(tokenizer).convert_ids_to_tokens(unit.ids[source]),
                "target_index": number,
                "source_index": source,
                "weight": weight,
            }
            if spans is not None and unit.spans is not None:
                entry |= {"target_span": spans[number], "source_span": unit.spans[source]}
            entries.append(entry)
        return entries

    def _records(
        self, text: str, pieces: list[Sentence], found: list[list[Hypothesis]], settings: Settings
    ) -> list[dict[str, Any]]:
        """Return the dictionaries of one text."""
        if not pieces:  # nothing was translated
            empty = Hypothesis("", torch.zeros(0, dtype=torch.long), 0.0, [])
            return [self._record(empty, text, settings)] * int(self._setting(settings, "num_return_sequences") or 1)
        if not settings.split_sentences:
            return [self._record(hypothesis, text, settings) for hypothesis in found[0]]
        return [self._record(join_hypotheses(text, pieces, rank), text, settings) for rank in zip(*found, strict=True)]

    def _record(self, hypothesis: Hypothesis, source: str, settings: Settings) -> dict[str, Any]:
        record: dict[str, Any] = {}
        wants_text = not settings.return_tensors if settings.return_text is None else settings.return_text
        if wants_text:
            record[f"{self.return_name}_text"] = hypothesis.text
        if settings.return_tensors:
            record[f"{self.return_name}_token_ids"] = hypothesis.ids
        if settings.return_scores:
            record["score"] = hypothesis.score
        if settings.return_alignments == "words":
            record["alignment"] = word_alignment(hypothesis.alignment or [], source, hypothesis.text)
        elif settings.return_alignments:
            record["alignment"] = hypothesis.alignment
        return record


def _for_engine(model: Any, engine: str, quantization: str | None) -> tuple[Any, Any]:
    """Return the model that an engine computes, by the folder or the name of a model, and its tokenizer."""
    name = model if isinstance(model, str) else getattr(model, "name_or_path", None)
    if not name:
        raise ValueError("`engine` reads the folder of a model: save it, and give that folder as `model`.")
    try:
        engines = importlib.import_module("vaswani_tx.engines")
    except ModuleNotFoundError as error:
        raise ImportError("`engine` needs the package: pip install 'vaswani-tx[export]'.") from error
    return engines.load_engine(name, engine, quantization=quantization)


class TranslationPipeline(_SequencePipeline):
    """A pipeline that translates text with an encoder-decoder: `[{"translation_text": ...}]`."""

    return_name = "translation"


class SummarizationPipeline(_SequencePipeline):
    """A pipeline that summarises text with an encoder-decoder: `[{"summary_text": ...}]`."""

    return_name = "summary"


# What the pipelines take, in place of the arguments that a plain `Pipeline` names.
for _pipeline in (TranslationPipeline, SummarizationPipeline):
    _pipeline.__doc__ = f"{_pipeline.__doc__}\n{_SequencePipeline.__doc__}"


__all__ = ["SummarizationPipeline", "TranslationPipeline"]
