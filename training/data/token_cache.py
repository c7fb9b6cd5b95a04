"""Tokenised training data on disk: made once, then memory-mapped by every run on the same text and tokenizer.

A folder of `.npy` files and `meta.json`, named by a hash of all that decides its content: the bytes of the files, the
tokenizer, the limits and filters, and the format's version. It is written under another name and renamed, so it is
whole or absent; lengths and checksums reveal later damage. Nothing is pickled.
"""

import json
import logging
import os
import shutil
import tempfile
import zlib
from collections.abc import Sequence
from dataclasses import asdict
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock

from vaswani_tx.token_texts_vaswani import source_of, target_of
from vaswani_tx.training.data.corpora import Corpus
from vaswani_tx.training.data.filters import FilterCounts, PairFilter
from vaswani_tx.training.data.parallel import PairTokenizer, Part, TokenizedPairs, join_parts
from vaswani_tx.training.data.sources import file_names
from vaswani_tx.training.errors import CheckpointError, DataError
from vaswani_tx.training.files import atomic_folder

logger = logging.getLogger(__name__)

FORMAT = 1
ENVIRONMENT = "VASWANI_TX_CACHE"
CHECK_BLOCK = 1 << 24
_DTYPES = {
    "source_flat": np.int32, "source_offsets": np.int64, "target_flat": np.int32, "target_offsets": np.int64,
    "lines": np.int64, "file_index": np.int32,
}  # fmt: skip
_WORD_DTYPES = {"source_starts": np.bool_, "target_starts": np.bool_}
# Attributes of tokenizers that decide the ids besides tokenizer.json, where a class has them.
_SETTINGS = ("split_special_tokens", "src_lang", "tgt_lang", "add_bos_token", "add_eos_token", "add_prefix_space")


def cache_root(cache_dir: str | None = None) -> Path:
    """Return where the folders are: `cache_dir`, else $VASWANI_TX_CACHE, else ~/.cache/vaswani_tx."""
    return Path(cache_dir or os.environ.get(ENVIRONMENT) or Path("~/.cache/vaswani_tx")).expanduser()


def tokenize_corpora(
    corpora: Sequence[Corpus],
    tokenizer: Any,
    rules: PairFilter,
    root: Path | None = None,
    quiet: bool = False,
    words: bool = False,
) -> tuple[TokenizedPairs, Path | None]:
    """Return the filtered, tokenised pairs of all corpora in order, and the folder below `root` that holds them.

    Where several processes need the same folder at once, one makes it while the others wait and then map it. Where
    `root` is None or cannot be written, the pairs are made in memory and the folder is None. `quiet` logs nothing;
    with `words` the pairs know which tokens begin a word.

    Raises:
        DataError: data that cannot be read, or of which nothing is left.
    """
    level = logging.DEBUG if quiet else logging.INFO
    pairs = folder = None
    try:
        if root is not None:
            root.mkdir(parents=True, exist_ok=True)
            folder = root / cache_key(corpora, tokenizer, rules, words)
            pairs, built = _map_or_build(folder, corpora, tokenizer, rules, quiet, words)
            logger.log(level, "%s the tokenised training data in %s", "Kept" if built else "Reused", folder)
    except (CheckpointError, OSError) as error:
        logger.warning("The tokenised training data cannot be kept in %s (%s): continuing without.", root, error)
        folder = None
    if pairs is None:
        pairs = _in_memory(corpora, tokenizer, rules, quiet, words)
    rules.report(pairs.counts, quiet=quiet)
    return pairs, folder


def _map_or_build(
    folder: Path, corpora: Sequence[Corpus], tokenizer: Any, rules: PairFilter, quiet: bool, words: bool
) -> tuple[TokenizedPairs, bool]:
    names = file_names(corpora)
    pairs = read_cache(folder, names, words=words)
    if pairs is not None:
        return pairs, False
    with FileLock(folder.with_name(f".{folder.name}.lock")):
        pairs = read_cache(folder, names, words=words)  # another process may have been quicker
        if pairs is not None:
            return pairs, False
        _build(folder, corpora, tokenizer, rules, quiet, words)
    pairs = read_cache(folder, names, fresh=True, words=words)
    if pairs is None:
        raise OSError("what was just written cannot be read")
    return pairs, True


def cache_key(corpora: Sequence[Corpus], tokenizer: Any, rules: PairFilter, words: bool = False) -> str:
    """Return the name of the folder for these data; read all files once. Raise DataError where one is missing."""
    sides = dict.fromkeys((source_of(tokenizer), target_of(tokenizer)))  # of one vocabulary, one
    states = [_tokenizer_state(side) for side in sides]
    content = [FORMAT, [corpus.fingerprint() for corpus in corpora], *states, rules.to_dict()]
    content += ["words"] if words else []
    return blake2b(json.dumps(content, sort_keys=True).encode(), digest_size=16).hexdigest()


def read_cache(folder: Path, names: Sequence[str], fresh: bool = False, words: bool = False) -> TokenizedPairs | None:
    """Return the memory-mapped pairs of a folder; None where there is none, or (with a warning) where it is damaged.

    Args:
        names: the current names of the files; the folder is named by their content.
        fresh: just written, so that the checksums need not be compared.
        words: it also holds which tokens begin a word.
    """
    if not folder.is_dir():
        return None
    try:
        meta = json.loads((folder / "meta.json").read_text(encoding="utf-8"))
        arrays = {
            name: _open_array(folder / f"{name}.npy", meta["arrays"][name], dtype, fresh)
            for name, dtype in _dtypes(words).items()
        }
        counts = FilterCounts(**meta["counts"])
        if len(names) != meta["files"]:
            raise ValueError(f"it is of {meta['files']} files instead of {len(names)}")
    except (OSError, ValueError, KeyError, TypeError) as error:
        logger.warning("The tokenised training data in %s are damaged (%s): making them again.", folder, error)
        return None
    return TokenizedPairs(**arrays, file_names=list(names), counts=counts, bounds=tuple(meta["bounds"]))


def _dtypes(words: bool) -> dict[str, type]:
    return _DTYPES | _WORD_DTYPES if words else _DTYPES


class PairsWriter:
    """A writer of tokenised pairs, part by part, into an empty folder: they need not fit into memory.

    Args:
        words: the parts know which tokens begin a word.
    """

    def __init__(self, folder: Path, words: bool = False):
        self.folder, self.words = folder, words
        self._files = {name: _ArrayFile(folder / f"{name}.npy", dtype) for name, dtype in _dtypes(words).items()}
        self._ends = {"source": 0, "target": 0}
        self._write(source_offsets=np.zeros(1), target_offsets=np.zeros(1))

    def add(self, part: Part) -> None:
        """Append the pairs of a part."""
        offsets = {}
        for side, lengths in (("source", part.source_lengths), ("target", part.target_lengths)):
            offsets[f"{side}_offsets"] = self._ends[side] + np.cumsum(lengths)
            self._ends[side] += int(lengths.sum())
        flat = {"source_flat": part.source_flat, "target_flat": part.target_flat}
        if self.words:
            flat |= {"source_starts": part.source_starts, "target_starts": part.target_starts}
        self._write(**flat, **offsets, lines=part.lines, file_index=part.files)

    def finish(self, counts: FilterCounts, bounds: Sequence[int], files: int) -> None:
        """Close the arrays and write `meta.json`."""
        arrays = {name: file.close() for name, file in self._files.items()}
        meta = {"format": FORMAT, "counts": asdict(counts), "bounds": list(bounds), "files": files, "arrays": arrays}
        (self.folder / "meta.json").write_text(json.dumps(meta, indent=1) + "\n", encoding="utf-8")

    def abandon(self) -> None:
        """Close the arrays without completing them."""
        for file in self._files.values():
            file.file.close()

    def _write(self, **arrays: np.ndarray) -> None:
        for name, array in arrays.items():
            self._files[name].append(array)


class _ArrayFile:
    """A one-dimensional `.npy` file that grows."""

    def __init__(self, path: Path, dtype: type):
        self.dtype, self.count, self.checksum = np.dtype(dtype), 0, 0
        self.file = path.open("wb")
        self._header()
        self.start = self.file.tell()

    def append(self, array: np.ndarray) -> None:
        data = np.ascontiguousarray(array, dtype=self.dtype)
        self.count, self.checksum = self.count + len(data), zlib.crc32(data, self.checksum)
        self.file.write(data)

    def close(self) -> dict[str, int]:
        """Complete the file and return what a reader must find."""
        self.file.seek(0)
        self._header()
        if self.file.tell() != self.start:
            raise OSError("numpy's header of an array has outgrown the space that was reserved for it")
        self.file.close()
        return {"count": self.count, "checksum": self.checksum, "start": self.start}

    def _header(self) -> None:
        # numpy pads its header so that a longer first dimension fits into the same space.
        content = {"descr": self.dtype.str, "fortran_order": False, "shape": (self.count,)}
        np.lib.format.write_array_header_1_0(self.file, content)


def _open_array(path: Path, expected: dict[str, int], kind: type, fresh: bool) -> np.ndarray:
    dtype = np.dtype(kind)
    if path.stat().st_size != expected["start"] + expected["count"] * dtype.itemsize:
        raise ValueError(f"{path.name} has {path.stat().st_size} bytes")
    array = np.load(path, mmap_mode="r", allow_pickle=False)
    if array.shape != (expected["count"],) or array.dtype != dtype:
        raise ValueError(f"{path.name} holds {array.dtype} {array.shape}")
    array = np.asarray(array)  # the plain view of the map: indexing a numpy.memmap is several times slower
    if not fresh:
        checksum = 0
        for start in range(0, len(array), CHECK_BLOCK):
            checksum = zlib.crc32(array[start : start + CHECK_BLOCK], checksum)
        if checksum != expected["checksum"]:
            raise ValueError(f"{path.name} has changed since it was written")
    return array


def _build(
    folder: Path, corpora: Sequence[Corpus], tokenizer: Any, rules: PairFilter, quiet: bool, words: bool
) -> None:
    shutil.rmtree(folder, ignore_errors=True)  # a damaged one
    encode = PairTokenizer(tokenizer, rules, file_names(corpora), words=words)
    with atomic_folder(folder) as temporary:
        writer = PairsWriter(temporary, words)
        try:
            bounds = [0]
            for corpus in corpora:
                for part in encode.parts(corpus.chunks(encode.counts), progress=not quiet):
                    writer.add(part)
                bounds.append(encode.counts.kept)
            _check_left(corpora, encode.counts, bounds, rules)
            writer.finish(encode.counts, bounds, len(encode.names))
        except BaseException:
            writer.abandon()
            raise


def _in_memory(
    corpora: Sequence[Corpus], tokenizer: Any, rules: PairFilter, quiet: bool, words: bool
) -> TokenizedPairs:
    encode = PairTokenizer(tokenizer, rules, file_names(corpora), words=words)
    parts, bounds = [], [0]
    for corpus in corpora:
        parts.extend(encode.parts(corpus.chunks(encode.counts), progress=not quiet))
        bounds.append(encode.counts.kept)
    _check_left(corpora, encode.counts, bounds, rules)
    return join_parts(parts, encode.names, encode.counts, tuple(bounds))


def _check_left(corpora: Sequence[Corpus], counts: FilterCounts, bounds: Sequence[int], rules: PairFilter) -> None:
    if not counts.kept:
        raise rules.nothing_left(counts)
    for corpus, start, stop in zip(corpora, bounds, bounds[1:], strict=False):
        if start == stop:
            raise DataError(f"{corpus.name}: no pair of this corpus is left. {rules.describe(counts)}")


def _tokenizer_state(tokenizer: Any) -> list[Any]:
    """Return all of a tokenizer that decides ids, not its folder or what it was used for."""
    settings = {name: str(getattr(tokenizer, name)) for name in _SETTINGS if hasattr(tokenizer, name)}
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is not None:
        # Padding and truncation are leftovers of the last call.
        state = json.loads(backend.to_str()) | {"padding": None, "truncation": None}
        return [type(tokenizer).__name__, settings, state]
    with tempfile.TemporaryDirectory() as folder:
        tokenizer.save_pretrained(folder)
        files = sorted(path for path in Path(folder).rglob("*") if path.is_file())
        contents = [[path.name, blake2b(path.read_bytes()).hexdigest()] for path in files]
    return [type(tokenizer).__name__, settings, contents]
