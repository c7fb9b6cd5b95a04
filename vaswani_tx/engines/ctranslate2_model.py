"""CTranslate2 as an engine: `generate` of a folder that was exported to it."""

import json
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import torch
from transformers import GenerationConfig

from vaswani_tx.engines.base import EngineModel, check, note_of
from vaswani_tx.engines.ctranslate2_search import Hypothesis, Search, Settings
from vaswani_tx.errors import ExportError
from vaswani_tx.export.folders import need
from vaswani_tx.forbidden_vaswani import ForbiddenPhrases
from vaswani_tx.generation_vaswani import GNMTLengthPenalty
from vaswani_tx.search_vaswani import SearchRecord, current_record

# Settings of generation that this engine reads.
READ = {
    "num_beams", "num_return_sequences", "length_penalty", "early_stopping", "max_length", "max_new_tokens",
    "min_new_tokens", "no_repeat_ngram_size", "bad_words_ids", "suppress_tokens", "eos_token_id", "pad_token_id",
    "bos_token_id", "decoder_start_token_id", "use_cache", "gnmt_alpha", "max_extra_tokens",
    "forced_eos_token_id",
}  # fmt: skip
# Settings that change nothing of what is returned here.
IDLE = {
    "return_dict_in_generate", "output_scores", "output_logits", "output_attentions", "output_hidden_states",
    "cache_implementation", "cache_config", "compile_config", "disable_compile", "temperature", "top_k", "top_p",
    "min_p", "typical_p", "epsilon_cutoff", "eta_cutoff", "renormalize_logits", "remove_invalid_values",
}  # fmt: skip
# How often a search with forbidden phrases is made again with what it wrote them with.
MOST_ROUNDS = 50


class CTranslate2Model(EngineModel):
    """An encoder-decoder that CTranslate2 computes.

    Args:
        folder: the exported folder.
        threads: of one translation; None: torch's.
        compute_type: CTranslate2's; None: as the weights are stored, or the nearest that this processor has.
    """

    engine = "ctranslate2"
    lacks: ClassVar[dict[str, str]] = {
        "a forward pass (alignments, perplexity, labels)": "it returns targets only",
        "alignments": "it does not return cross-attention of the layer that they are read from",
        "required phrases": "its beam search has no constraints",
        "a forced prefix": "it scores a prefix in another way than `generate`",
        "whole words": "it forbids sequences of tokens",
        "sampling": "its random numbers are others",
        "a streamer": "it returns whole targets",
    }

    def __init__(self, folder: str | Path, threads: int | None = None, compute_type: str | None = None):
        folder = Path(folder)
        super().__init__(folder, note_of(folder, self.engine))
        engine = need("ctranslate2", "--engine ctranslate2")
        kind = compute_type or self.note.get("quantization") or "default"
        if kind not in engine.get_supported_compute_types("cpu"):
            kind = "default"
        try:
            translator = engine.Translator(
                str(folder), compute_type=kind, intra_threads=threads or torch.get_num_threads(), inter_threads=1
            )
        except (RuntimeError, ValueError) as error:
            raise ExportError(f"CTranslate2 cannot load '{folder}' ({error}): export the model again.") from None
        self.compute_type = translator.compute_type
        self.positions = self.note.get("positions")
        ends = self.generation_config.eos_token_id
        ends = ends if isinstance(ends, list) else [self.config.eos_token_id if ends is None else ends]
        source, target = _vocabularies(folder)
        self.search = Search(translator, source, target, ends)
        check(self)

    @torch.no_grad()
    def generate(
        self,
        inputs: torch.Tensor | None = None,
        generation_config: GenerationConfig | None = None,
        logits_processor: Any = None,
        *,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> torch.Tensor:
        """Return targets [R, T] of sources [B, S], as `generate` of the model itself.

        With `length_penalty` a search ends as soon as `num_beams` hypotheses are complete (`early_stopping=True`); with
        GNMT's penalty when no other can be better, as there.

        Raises:
            ExportError: a setting that the engine has not.
        """
        ids = input_ids if input_ids is not None else inputs
        if ids is None:
            raise ExportError("generate needs input_ids [B, S].")
        config = self._settings(generation_config, {**kwargs, "attention_mask": attention_mask})
        mask = torch.ones_like(ids) if attention_mask is None else attention_mask
        rows = [row[keep.bool()].tolist() for row, keep in zip(ids.cpu(), mask.cpu(), strict=True)]
        limits, closes = self._limits(config, [len(row) for row in rows])
        self._check_lengths(rows, limits)
        asked = self._asked(config, closes)
        asked.forced = self._forced_end(config, min(limits))
        found = self._allowed(rows, limits, asked, _forbidden(self, logits_processor))
        return self._returned([one for each in found for one in each], config)

    def _settings(self, given: GenerationConfig | None, kwargs: dict[str, Any]) -> GenerationConfig:
        for name, option in _CALLS.items():
            if kwargs.pop(name, None) is not None:
                raise self.lack(option)
        config, rest = self._prepare_generation_config(given, **kwargs)
        rest = {name: value for name, value in rest.items() if value is not None and name != "attention_mask"}
        if rest:
            raise self.lack(" and ".join(f"`{name}`" for name in sorted(rest)))
        if config.do_sample:
            raise self.lack("sampling")
        defaults = config._get_default_generation_params()
        for name, default in defaults.items():
            value = getattr(config, name, None)
            if name not in READ | IDLE and value is not None and value != default and value is not False:
                raise self.lack(f"`{name}`={value!r}")
        return config

    def _limits(self, config: GenerationConfig, lengths: list[int]) -> tuple[list[int], bool]:
        """Return the most tokens of each target, and whether a target is closed there rather than cut."""
        if config._is_limited_by_source:
            return [max(length + config.max_extra_tokens, 1) for length in lengths], True
        limit = config.max_new_tokens if config.max_new_tokens is not None else (config.max_length or 20) - 1
        return [max(limit, 1)] * len(lengths), config.forced_eos_token_id is not None

    def _forced_end(self, config: GenerationConfig, limit: int) -> int | None:
        """Return the end that closes a target at its limit; raise ExportError where the search has no such end."""
        forced = config.forced_eos_token_id
        if isinstance(forced, list) and len(forced) == 1:
            forced = forced[0]
        beams = config.num_beams or 1
        if forced is not None and (
            config._is_limited_by_source or forced not in self.search.ends or (limit == 1 and beams > 1)
        ):
            raise self.lack(f"`forced_eos_token_id`={forced!r} with this limit or end of sentence")
        return forced

    def _check_lengths(self, rows: list[list[int]], limits: list[int]) -> None:
        most = self.positions
        if most is None:
            return
        longest = max(map(len, rows))
        if longest > most:
            raise ExportError(
                f"a source has {longest} tokens, and the exported table of positions ends at {most}: cut it, or export "
                "again with a larger --positions."
            )
        for row, limit in enumerate(limits):
            limits[row] = min(limit, most)

    def _asked(self, config: GenerationConfig, closes: bool) -> Settings:
        alpha, exponent = getattr(config, "gnmt_alpha", None), None
        beams, returned = config.num_beams or 1, config.num_return_sequences or 1
        if returned > beams:
            raise ExportError(f"num_return_sequences={returned} needs as many beams, not {beams}: raise num_beams.")
        if alpha:
            penalty: Any = GNMTLengthPenalty(alpha).of
        else:
            exponent = 1.0 if config.length_penalty is None else float(config.length_penalty)
            penalty = partial(_power, exponent)
        options: dict[str, Any] = {}
        tokens = self.search.target_tokens
        suppressed = [[token] for token in config.suppress_tokens or []] + list(config.bad_words_ids or [])
        if suppressed:
            options["suppress_sequences"] = [[tokens[token] for token in sequence] for sequence in suppressed]
        if config.no_repeat_ngram_size:
            options["no_repeat_ngram_size"] = config.no_repeat_ngram_size
        if config.min_new_tokens:
            options["min_decoding_length"] = config.min_new_tokens
        stops_early = config.early_stopping is True or not alpha
        return Settings(beams, returned, penalty, stops_early, exponent, closes, options=options)

    def _allowed(
        self, rows: list[list[int]], limits: list[int], asked: Settings, forbidden: list[ForbiddenPhrases]
    ) -> list[list[Hypothesis]]:
        """Search; where a forbidden phrase was written, search again without the tokens that wrote it."""
        found = self.search(rows, limits, asked)
        scores = torch.zeros(1, len(self.search.target_tokens))
        for _ in range(MOST_ROUNDS):
            written, again = [], []
            for row, each in enumerate(found):
                sequences = [_writes(one.ids, forbidden, scores) for one in each]
                if any(sequences):
                    again.append(row)
                    written += [sequence for sequence in sequences if sequence]
            if not again:
                break
            tokens = self.search.target_tokens
            known = asked.options.setdefault("suppress_sequences", [])
            known += [[tokens[index] for index in sequence] for sequence in written]
            better = self.search([rows[row] for row in again], [limits[row] for row in again], asked)
            for row, each in zip(again, better, strict=True):
                found[row] = each
        else:
            raise ExportError(
                f"forbidden phrases were still written after {MOST_ROUNDS} searches: leave --engine out, where every "
                "way to write them is ruled out."
            )
        # CTranslate2 divides the probability of what is ruled out among the other tokens; scores do not.
        return self.search.scored(rows, found, asked) if asked.options else found

    def _returned(self, found: list[Hypothesis], config: GenerationConfig) -> torch.Tensor:
        start = config.decoder_start_token_id
        start = self.config.decoder_start_token_id if start is None else start
        width = max(len(one.ids) for one in found) + 1
        padding = config.pad_token_id if config.pad_token_id is not None else 0
        sequences = torch.full((len(found), width), padding)  # [R, T]
        sequences[:, 0] = start
        for row, one in enumerate(found):
            sequences[row, 1 : len(one.ids) + 1] = torch.tensor(one.ids)
        record: SearchRecord | None = current_record()
        if record is not None:
            record.config, record.prompt_length = config, 1
            record.lengths = torch.tensor([len(one.ids) for one in found])
            record.scores = torch.tensor([one.score for one in found])
        return sequences


def _power(exponent: float, length: int) -> float:
    return float(length) ** exponent


# Keywords of `generate` for what the engine has not.
_CALLS = {
    "decoder_input_ids": "a forced prefix",
    "required_ids": "required phrases",
    "force_words_ids": "required phrases",
    "custom_generate": "required phrases",
    "streamer": "a streamer",
    "assistant_model": "an assistant model",
    "stopping_criteria": "a stopping criterion",
    "prefix_allowed_tokens_fn": "a function of allowed tokens",
    "bad_words": "`bad_words` (give logits_processor=[ForbiddenPhrases(...)])",
}


def _vocabularies(folder: Path) -> tuple[list[str], list[str]]:
    names = ("shared", "shared") if (folder / "shared_vocabulary.json").exists() else ("source", "target")
    try:
        source, target = (
            json.loads((folder / f"{name}_vocabulary.json").read_text(encoding="utf-8")) for name in names
        )
    except (OSError, ValueError) as error:
        raise ExportError(f"the vocabulary of '{folder}' cannot be read ({error}): export the model again.") from None
    return source, target


def _forbidden(model: CTranslate2Model, processors: Any) -> list[ForbiddenPhrases]:
    found = list(processors or [])
    for one in found:
        if not isinstance(one, ForbiddenPhrases):
            raise model.lack(f"the logits processor {type(one).__name__}")
        if any(phrase.opens or phrase.closes for phrase in one._phrases):
            raise model.lack("whole words")
    return found


def _writes(ids: list[int], forbidden: list[ForbiddenPhrases], scores: torch.Tensor) -> list[int]:
    """Return the shortest run of tokens that completes a forbidden phrase first, or an empty list."""
    for place, token in enumerate(ids):
        for one in forbidden:
            if token not in one._forbidden(ids[:place], scores).tolist():
                continue
            begin = place
            while begin and token not in one._forbidden(ids[begin:place], scores).tolist():
                begin -= 1
            return ids[begin : place + 1]
    return []
