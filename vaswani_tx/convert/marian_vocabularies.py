"""The vocabularies beside a model of Marian, as tokenizers: SentencePiece, or words between spaces."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors

from vaswani_tx.configuration_vaswani import VaswaniConfig
from vaswani_tx.convert.core import ConversionError
from vaswani_tx.convert.marian_files import read_vocabulary
from vaswani_tx.convert.sentencepiece import UNKNOWN, read_sentencepiece, sentencepiece_tokenizer
from vaswani_tx.tokenization_vaswani import VaswaniTokenizer

PAD = "<pad>"
_SPECIAL = {"pad_token": PAD, "eos_token": "</s>", "unk_token": "<unk>"}
_WORDS = (".yml", ".yaml", ".json", ".txt")


def read_tokenizer(
    weights: Path, decoding: Mapping[str, Any], config: VaswaniConfig, notes: list[str]
) -> tuple[VaswaniTokenizer | None, dict[str, int]]:
    """Return the tokenizer of the vocabularies beside a model, and the ids `eos` and `unk` of its target.

    Args:
        weights: the file of weights.
        decoding: the settings of translation, which may name the vocabularies.
        config: the converted model's, with one entry more than each vocabulary.
        notes: is given what the user should know.

    Raises:
        ConversionError: a vocabulary is damaged, or does not suit the model.
    """
    files = _files(weights, decoding)
    if not files:
        notes.append("There is no vocabulary beside the model, so the converted one has no tokenizer: put it there.")
        return None, {"eos": 0, "unk": 1}
    sizes = [config.source_vocab_size or config.vocab_size, config.vocab_size]
    sides, ids = [], []
    for file, size in zip(files, sizes, strict=True):
        build = _pieces if file.suffix in (".spm", ".model") else _words
        tokenizer, special = build(file, size, notes)
        sides.append(tokenizer)
        ids.append(special)
    source, target = sides
    if files[0] == files[1] and config.source_vocab_size is None:
        return source, ids[0]
    return VaswaniTokenizer.pair(source, target), ids[1]


def _files(weights: Path, decoding: Mapping[str, Any]) -> list[Path]:
    """Return the files of source and target: as the settings name them, or found by their usual names."""
    folder = weights.parent
    named = decoding.get("vocabs")
    if isinstance(named, list) and len(named) == 2:
        files = [_existing(folder, str(name)) for name in named]
        if all(file is not None for file in files):
            return [file for file in files if file is not None]
        lost = next(str(name) for name, file in zip(named, files, strict=True) if file is None)
        raise ConversionError(f"'{folder}' has no '{Path(lost).name}', the vocabulary that its settings name.")
    kinds = [
        path for path in sorted(folder.iterdir()) if path.suffix in (".spm", *_WORDS) and "vocab" in path.name.lower()
    ]
    for first, second in (("src", "trg"), ("src", "tgt"), ("source", "target")):
        pair = [[path for path in kinds if part in path.name.lower()] for part in (first, second)]
        if len(pair[0]) == len(pair[1]) == 1:
            return [pair[0][0], pair[1][0]]
    if len(kinds) > 1:
        names = ", ".join(path.name for path in kinds)
        raise ConversionError(
            f"'{folder}' has several vocabularies ({names}): say which is the source's and which the target's in "
            f"'{weights.name}.decoder.yml', as `vocabs: [..., ...]`."
        )
    return kinds * 2


def _existing(folder: Path, name: str) -> Path | None:
    for path in (folder / name, folder / Path(name).name):
        if path.is_file():
            return path
    return None


def _check_size(file: Path, entries: int, size: int) -> None:
    """Raise ConversionError where a vocabulary has more entries than the model, whose last row is ours."""
    if entries > size - 1:
        raise ConversionError(
            f"'{file}' has {entries:,} entries, but the model's embedding {size - 1:,} rows: they belong to different "
            "models."
        )


def _pieces(file: Path, size: int, notes: list[str]) -> tuple[VaswaniTokenizer, dict[str, int]]:
    model = read_sentencepiece(file)
    ids = {text: index for index, (text, _, _) in enumerate(model.pieces)}
    _check_size(file, len(model.pieces), size)
    unk = model.of_kind(UNKNOWN)[0]
    if "</s>" not in ids or PAD in ids:
        raise ConversionError(
            f"'{file}' has no '</s>', or has '{PAD}': it is not a vocabulary that Marian trains with."
        )
    special = {**_SPECIAL, "unk_token": unk}
    tokenizer = sentencepiece_tokenizer(model, {**ids, PAD: size - 1}, special)
    return tokenizer, {"eos": ids["</s>"], "unk": ids[unk]}


def _words(file: Path, size: int, notes: list[str]) -> tuple[VaswaniTokenizer, dict[str, int]]:
    if file.suffix == ".fsv":
        raise ConversionError(f"'{file}' is a vocabulary with factors, which cannot be converted.")
    words = {word: index for word, index in read_vocabulary(file).items() if index < size - 1}
    backend = Tokenizer(models.WordLevel({**words, PAD: size - 1}, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Split(" ", behavior="removed")
    backend.decoder = decoders.WordPiece(prefix="\ufdd0", cleanup=False)
    backend.post_processor = processors.TemplateProcessing(
        single="$A </s>", pair="$A $B </s>", special_tokens=[("</s>", words["</s>"])]
    )
    note = (
        "The vocabulary is of words, so texts must be given as Marian was given them: tokenised, and divided into "
        "sub-words if the model was trained so. Only spaces divide them here."
    )
    if note not in notes:
        notes.append(note)
    tokenizer = VaswaniTokenizer(tokenizer_object=backend, split_special_tokens=True, **_SPECIAL)
    return tokenizer, {"eos": words["</s>"], "unk": words["<unk>"]}


__all__ = ["PAD", "read_tokenizer"]
