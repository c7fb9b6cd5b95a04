"""The keys of a translation recipe, each also a flag of `vaswani-tx train translation` (see config/recipe.py)."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from vaswani_tx.limits import BEAMS, VOCABULARY, real, whole
from vaswani_tx.training.config.recipe import check_known, check_text, key, parse
from vaswani_tx.training.config.run_settings import RunSettings
from vaswani_tx.training.errors import SettingsError
from vaswani_tx.training.metrics.registry import TEXT, metrics_for, signed_metrics

# Of a further term of the loss; beyond it, nothing is left of the labels in float32.
WEIGHT = real(0, 1e6)
RESERVED_TAGS = ("<pad>", "<s>", "</s>", "<unk>", "<mask>")


@dataclass
class TranslationSettings(RunSettings):
    """Everything that decides a translation training run."""

    train_source: str = key(
        "",
        "Source side: a text file, one .jsonl, .json, .csv, .tsv or .parquet file (also .gz, .zst), or a Hub data set.",
    )
    train_target: str | None = key(None, "Target side: the line-aligned text file; empty for the other formats.")
    train_split: str = key("train", "Split of a Hub data set to train on.")
    validation_source: str | None = key(None, "Source side of the validation set; empty: no validation.")
    validation_target: str | None = key(None, "Target side of the validation set.")
    validation_split: str = key("validation", "Split of a Hub data set to validate on.")
    validation_tag: str | None = key(None, "Tag in front of the validation sources, as a corpus's tag.")
    validation_sets: list[dict[str, Any]] | None = field(
        default=None,
        metadata={"help": "Several validation sets instead of validation_source: {source, target, tag, name, ...}."},
    )
    dataset_config: str | None = key(None, "Configuration name of a Hub data set, such as de-en.")
    corpora: list[dict[str, Any]] | None = field(
        default=None,
        metadata={
            "help": "Corpora instead of train_source: {source, target, weight, tag, reverse, split, ...}; a tag such "
            "as >>de<< is a token in front of each source, reverse: true swaps the two sides."
        },
    )
    bidirectional: bool = key(
        False, "Learn both directions: every corpus a second time with its sides swapped (arXiv 2109.07780)."
    )
    streaming: bool = key(False, "Read the training data buffer by buffer, for corpora larger than memory or disk.")
    stream_buffer: int = key(200_000, "Pairs of one buffer of a stream; similar lengths are looked for within it.")
    source_field: str = key("source", "Field or column of the source text (all formats but plain text).")
    target_field: str = key("target", "Field or column of the target text (all formats but plain text).")
    empty_lines: Literal["error", "drop"] = key("error", "What an empty line on either side does.")
    max_source_length: int = key(256, "Longest source in tokens, with </s>.")
    max_target_length: int = key(256, "Longest target in tokens, with </s>.")
    too_long: Literal["drop", "error", "truncate"] = key("drop", "What a longer training pair does.")
    min_length: int = key(1, "Training pairs with a side of fewer tokens, </s> not counted, are dropped.")
    max_length_ratio: float | None = key(None, "Training pairs with a side so many times as long are dropped.")
    drop_duplicates: bool = key(False, "Drop training pairs that occurred before; of a stream, in the same buffer.")
    drop_copies: bool = key(False, "Drop training pairs whose two sides are the same text.")
    bpe_dropout: float = key(
        0.0,
        "Leave out merges at random, so that training text has other subwords in every epoch; 0.1 (arXiv 1910.13267).",
    )
    bpe_dropout_sides: Literal["both", "source", "target"] = key("both", "Which side's words bpe_dropout splits.")
    token_cache: bool = key(True, "Keep tokenised training data on disk and use it again while nothing changed.")
    cache_dir: str | None = key(None, "Where they are kept; empty: $VASWANI_TX_CACHE or ~/.cache/vaswani_tx.")

    tokenizer: str | None = key(None, "Folder of a trained tokenizer; empty: train one (tokenizer_vocab_size).")
    tokenizer_vocab_size: int | None = key(
        None,
        "Vocabulary to train where no folder exists, of both sides; with source_vocab_size, of the target.",
        bounds=VOCABULARY,
        also="vocab_size",
    )
    source_vocab_size: int | None = key(
        None, "Vocabulary of the source alone, with an embedding of its own; empty: one for both.", bounds=VOCABULARY
    )

    architecture: Literal["vaswani", "lstm"] = key(
        "vaswani", "The Transformer, or its predecessor: an LSTM encoder-decoder with attention."
    )
    preset: str = key("base", "Named model size: base, big, tiny, a row of Table 3; of an LSTM: base, tiny.")
    model: dict[str, Any] = field(
        default_factory=dict,
        metadata={"help": "Fields of VaswaniConfig (LstmSeq2SeqConfig) that replace the preset's, such as dropout."},
    )

    encoder_from: str | None = key(
        None, "Pre-trained encoder to start from: folder of a masked, causal or translation model; see decoder_from."
    )
    decoder_from: str | None = key(
        None,
        "Pre-trained decoder to start from, beside encoder_from, or alone with source_vocab_size; empty: fresh layers.",
    )
    embeddings_from: Literal["encoder", "decoder", "mean"] = key(
        "encoder", "Whose embedding source and target share after encoder_from and decoder_from."
    )
    new_vocabulary: bool = key(
        False, "Put the tokenizer's vocabulary onto the model of init_from: tokens that both have keep their rows."
    )

    max_source_tokens: int = key(4096, "Source tokens of one batch on one process, padding counted.")
    max_target_tokens: int = key(4096, "Target tokens of one batch on one process, padding counted.")
    smoothing_over: Literal["vocabulary", "others"] = key(
        "vocabulary", "Spread over all entries, as the paper's citation; others: all but the right one, tensor2tensor."
    )

    rdrop_weight: float = key(
        0.0,
        "R-Drop (Liang et al. 2021): weight of the divergence of two passes; 0: off, 5 in the paper.",
        bounds=WEIGHT,
    )
    simcut_weight: float = key(
        0.0,
        "SimCut (Gao et al. 2022): weight of the divergence from cut inputs; 0: off, 3 in the paper.",
        bounds=WEIGHT,
    )
    simcut_cutoff: float = key(0.05, "Probability that SimCut cuts off a token's embedding, of source and target.")
    teacher: str | None = key(
        None, "Model folder to learn from, word by word (Kim and Rush 2016); it has this run's vocabulary."
    )
    distillation_weight: float = key(
        0.5, "Share of the teacher's predictions in the loss; the labels have the rest.", bounds=real(0, 1)
    )
    distillation_temperature: float = key(
        1.0, "Divisor of the logits of both, where they are compared with each other."
    )

    eval_sentences: int | None = key(
        None, "Validation sentences to translate; empty: all, 0: loss only.", bounds=whole(0)
    )
    eval_beam: int = key(1, "Beam of the translations during training; 1: greedy.", bounds=BEAMS)
    final_beam: int = key(4, "Beam of the last validation, of the best and of the averaged model.", bounds=BEAMS)
    metrics: list[str] = key(
        ["bleu", "chrf"], "Scores of the translated validation sentences.", choices=signed_metrics()
    )
    best_by: str = key(
        "bleu", "Validation score that chooses best/: one of metrics, or loss.", choices=metrics_for(TEXT)
    )

    positive = (
        *RunSettings.positive, "eval_beam", "final_beam", "max_source_tokens", "max_target_tokens",
        "tokenizer_vocab_size", "source_vocab_size", "stream_buffer", "distillation_temperature",
    )  # fmt: skip

    def check(self) -> None:
        """Raise SettingsError, naming the key and how to fix it, where values contradict each other."""
        super().check()
        self.check_least(2, "max_source_length", "max_target_length")
        self.check_least(1, "min_length")
        if self.max_source_tokens < self.max_source_length or self.max_target_tokens < self.max_target_length:
            raise SettingsError(
                "A batch must hold the longest sentence: max_source_tokens and max_target_tokens "
                f"({self.max_source_tokens}, {self.max_target_tokens}) must not be below max_source_length and "
                f"max_target_length ({self.max_source_length}, {self.max_target_length})."
            )
        self._check_architecture()
        self._check_start()
        self._check_vocabularies()
        self._check_objective()
        if self.max_length_ratio is not None and self.max_length_ratio < 1.0:
            raise SettingsError(f"max_length_ratio must be at least 1, got {self.max_length_ratio}.")
        if not 0.0 <= self.bpe_dropout <= 1.0:
            raise SettingsError(f"bpe_dropout must be from 0 to 1, got {self.bpe_dropout}.")
        if self.best_by not in (*self.metrics, "loss", "perplexity"):
            raise SettingsError(
                f"best_by: {self.best_by} is not among the scores of a validation: add it to metrics "
                f"({', '.join(self.metrics)}), or set best_by to one of them or to loss."
            )
        self.check_corpora("source", CORPUS_KEYS)
        self._check_directions()

    @property
    def has_objective(self) -> bool:
        """Whether there is more in the loss than the cross entropy of the labels."""
        return bool(self.rdrop_weight or self.simcut_weight or self.teacher)

    def _check_objective(self) -> None:
        if self.rdrop_weight and self.simcut_weight:
            raise SettingsError(
                "rdrop_weight and simcut_weight are both set: each compares two passes of a batch, choose one."
            )
        if not 0 <= self.simcut_cutoff < 1:
            raise SettingsError(f"simcut_cutoff must be at least 0 and below 1, got {self.simcut_cutoff}.")
        if self.teacher and not self.distillation_weight:
            raise SettingsError("teacher is set, but distillation_weight is 0: leave teacher out, or give it a share.")
        if self.has_objective and self.compile:
            names = [name for name in ("rdrop_weight", "simcut_weight", "teacher") if getattr(self, name)]
            raise SettingsError(f"compile: true does not know the loss of {names[0]}: leave one of the two out.")

    def _check_architecture(self) -> None:
        # Here, since it imports torch, which --help does without.
        from vaswani_tx.training.models.architectures import ARCHITECTURES

        check_known(self.architecture, ARCHITECTURES, f"architecture: there is none called '{self.architecture}'")
        chosen = ARCHITECTURES[self.architecture]
        self.check_model(chosen.presets, chosen.config_class)
        for name, value in chosen.without.items():
            if getattr(self, name) != value:
                raise SettingsError(f"{name} does nothing for architecture: {self.architecture}; leave it out.")

    def _check_vocabularies(self) -> None:
        starts = self.init_from or self.encoder_from or self.decoder_from
        if self.source_vocab_size is None and self.model.get("source_vocab_size") is not None and not starts:
            raise SettingsError(
                "model.source_vocab_size is the size of an embedding, which belongs to a vocabulary of the source: set "
                "source_vocab_size to have one."
            )

    def _check_directions(self) -> None:
        check_tags(self.validation_tag, "validation_tag")
        for name, entries in (("corpora", self.corpora or []), ("validation_sets", self.validation_sets or [])):
            for number, entry in enumerate(entries, start=1):
                origin = f"{name}, number {number}"
                for tag in ("tag", "reverse_tag"):
                    check_tags(entry.get(tag), f"{origin}: {tag}")
                if not isinstance(entry.get("reverse") or False, bool):
                    raise SettingsError(f"{origin}: reverse must be true or false, got '{entry['reverse']}'.")
                if entry.get("reverse_tag") and not self.bidirectional:
                    raise SettingsError(
                        f"{origin}: reverse_tag does nothing without bidirectional: true; leave it out."
                    )
        reversed_ones = {bool(entry.get("reverse")) for entry in self.corpora or []}
        if self.source_vocab_size is not None and (self.bidirectional or len(reversed_ones) > 1):
            raise SettingsError(
                f"{'bidirectional' if self.bidirectional else 'reverse'} makes both sides hold both languages, and "
                "source_vocab_size gives each a vocabulary of its own: leave source_vocab_size out."
            )
        if self.validation_sets is None:
            return
        if self.validation_source or self.validation_tag:
            raise SettingsError("validation_sets and validation_source are both set: name each set in validation_sets.")
        for number, entry in enumerate(self.validation_sets, start=1):
            origin = f"validation_sets, number {number}"
            for name, value in entry.items():
                check_known(name, VALIDATION_KEYS, f"{origin}: unknown key '{name}'")
                if name not in ("reverse", "tag") and value is not None:
                    check_text(name, value, origin)
            if not entry.get("source"):
                raise SettingsError(f"{origin}: source is missing.")

    def _check_start(self) -> None:
        if self.decoder_from and not self.encoder_from and self.source_vocab_size is None:
            raise SettingsError(
                "decoder_from needs encoder_from: name both, or init_from for a whole model, or give the source a "
                "vocabulary of its own with source_vocab_size."
            )
        stack = "encoder_from" if self.encoder_from else "decoder_from" if self.decoder_from else None
        if stack and self.init_from:
            raise SettingsError(f"init_from and {stack} are both set: start from a whole model, or from stacks.")
        if stack and self.architecture != "vaswani":
            raise SettingsError(f"{stack} does nothing for architecture: {self.architecture}; leave it out.")
        if self.embeddings_from != "encoder" and self.source_vocab_size is not None:
            raise SettingsError(
                f"embeddings_from: {self.embeddings_from} is one embedding for both sides, and source_vocab_size gives "
                "each its own: leave one of them out."
            )
        if self.new_vocabulary and not (self.init_from and (self.tokenizer or self.tokenizer_vocab_size)):
            raise SettingsError(
                "new_vocabulary needs init_from, the model with the old one, and tokenizer or tokenizer_vocab_size, "
                "the new one."
            )

    def check_data(self) -> None:
        """Raise SettingsError where there is nothing to train on, or no tokenizer for it."""
        if not (self.train_source or self.corpora):
            raise SettingsError("train_source is empty: set it in the recipe or with --train-source.")
        stacks = self.encoder_from if self.source_vocab_size is None else self.decoder_from
        if not (self.tokenizer or self.tokenizer_vocab_size or self.init_from or stacks):
            given = "" if self.source_vocab_size is None else ", since source_vocab_size is the source's alone"
            raise SettingsError(f"No tokenizer: set tokenizer (a folder) or tokenizer_vocab_size (train one){given}.")


CORPUS_KEYS = (
    "source", "target", "weight", "split", "config", "source_field", "target_field", "tag", "reverse", "reverse_tag",
)  # fmt: skip
VALIDATION_KEYS = (
    "source", "target", "split", "config", "source_field", "target_field", "tag", "reverse", "name",
)  # fmt: skip


def tags_in(value: str | Sequence[str] | None) -> list[str]:
    """Return the tags of a key `tag`: one, several in a list or separated by spaces, or none."""
    return [tag for text in ([value] if isinstance(value, str) else value or []) for tag in text.split()]


def check_tags(value: Any, origin: str) -> None:
    """Raise SettingsError where a value is no tag, or one that ordinary words would be taken for."""
    for text in value if isinstance(value, list) else [] if value is None else [value]:
        check_text("tag", text, origin)
    for tag in tags_in(value):
        if len(tag) < 3 or tag[0].isalnum() or tag[-1].isalnum() or tag.lower() in RESERVED_TAGS:
            raise SettingsError(
                f"{origin}: '{tag}' cannot be a tag: one begins and ends with a character that is no letter or digit, "
                "such as >>de<< or <BT>, and is no control token."
            )


def parse_arguments(argv: list[str] | None = None) -> TranslationSettings:
    """Return the settings from a command line: at most one recipe file, then flags that override it.

    Raises:
        SettingsError: unknown key or flag (with the nearest known one), a value of the wrong type, no such recipe.
    """
    return parse(argv, TranslationSettings)
