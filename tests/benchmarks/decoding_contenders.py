"""The contenders of translation: `generate` of transformers, of this project, its fast decoder, CTranslate2."""

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from tests.benchmarks import weights as equal
from tests.benchmarks.contenders import Batch, Unavailable
from tests.benchmarks.training_contenders import marian_model, own_model
from tests.benchmarks.works import END, PAD, SIZES, START, CorpusWork, DecodingWork

# Of `generate`, the same for all: log P / length ranks, a search ends with `beams` complete hypotheses.
RANKING = {"length_penalty": 1.0, "early_stopping": True, "do_sample": False}


def search_of(work: DecodingWork | CorpusWork) -> dict[str, Any]:
    """Return the keywords of `generate` that say what a work's search is."""
    if isinstance(work, CorpusWork):
        length = {"max_new_tokens": work.longest}
    else:
        length = {"max_new_tokens": work.new_tokens, "min_new_tokens": work.new_tokens}
    # Settings of the ranking of beams are refused with a warning where there is one.
    ranking = RANKING if work.beams > 1 else {"do_sample": False}
    return {"num_beams": work.beams, **length, **ranking}


class Marian:
    """transformers' MarianMTModel and its `generate`."""

    def __init__(self, work: DecodingWork, weights: Mapping[str, torch.Tensor]):
        self.work, size = work, SIZES[work.size]
        self.model = marian_model(size, work.vocab_size, 0.0)
        equal.load(self.model, weights, equal.marian_places(weights))
        self.model.eval()

    def translate(self, batch: Batch) -> list[list[int]]:
        """Return the tokens without the start token."""
        with torch.no_grad():
            return self.model.generate(**batch, **search_of(self.work))[:, 1:].tolist()


class Ours(Marian):
    """This project's model and `generate`."""

    further: Mapping[str, Any] = {}

    def __init__(self, work: DecodingWork, weights: Mapping[str, torch.Tensor]):
        self.work = work
        self.model = loaded_model(work, weights)
        self.further = {"gnmt_alpha": 0.0} if work.beams > 1 else {}

    def translate(self, batch: Batch) -> list[list[int]]:
        with torch.no_grad():
            return self.model.generate(**batch, **search_of(self.work), **self.further)[:, 1:].tolist()


def loaded_model(work: DecodingWork, weights: Mapping[str, torch.Tensor]) -> Any:
    """Return our model with the weights of all."""
    model = own_model(SIZES[work.size], work.vocab_size, 0.0)
    equal.load(model, weights, equal.own_places(weights))
    return model.eval()


def fast_decoder() -> Any:
    """Return this project's fast decoder.

    Raises:
        Unavailable: this version has none.
    """
    import vaswani_tx

    found = getattr(vaswani_tx, "fast_generate", None)
    if found is None:
        raise Unavailable("this version has no vaswani_tx.fast_generate")
    return found


class OursFast(Ours):
    """This project's model and its fast decoder, called as `generate` calls a decoder of one's own."""

    def __init__(self, work: DecodingWork, weights: Mapping[str, torch.Tensor]):
        decoder = fast_decoder()
        super().__init__(work, weights)
        self.further = {**self.further, "custom_generate": decoder}


class _Words:
    """A tokenizer as far as the export of a model needs one: a name for each id."""

    pad_token, bos_token, eos_token, unk_token = "<pad>", "<s>", "</s>", "<unk>"

    def __init__(self, size: int):
        self.names = [f"w{index}" for index in range(size)]
        self.names[PAD], self.names[START], self.names[END] = self.pad_token, self.bos_token, self.eos_token
        self.ids = {name: index for index, name in enumerate(self.names)}

    def __len__(self) -> int:
        return len(self.names)

    def convert_ids_to_tokens(self, index: int) -> str:
        return self.names[index]

    def save_pretrained(self, folder: Path) -> None:
        """Write nothing: the export names the words itself."""

    def get_vocab(self) -> dict[str, int]:
        return self.ids


class CTranslate2:
    """CTranslate2 on our export of the model."""

    compute_type = "float32"

    def __init__(self, work: DecodingWork, weights: Mapping[str, torch.Tensor]):
        try:
            import ctranslate2
        except ImportError as error:
            raise Unavailable(f"CTranslate2 is not there ({error}): pip install -e '.[bench]'") from None
        from vaswani_tx.export import ctranslate2 as exporter

        if self.compute_type not in ctranslate2.get_supported_compute_types("cpu"):
            raise Unavailable(f"CTranslate2 has no {self.compute_type} on this processor")
        self.work, self.words = work, _Words(work.vocab_size)
        with tempfile.TemporaryDirectory() as folder:
            exporter.write(loaded_model(work, weights), self.words, Path(folder), quantization=self.compute_type)
            self.translator = ctranslate2.Translator(
                folder, compute_type=self.compute_type, intra_threads=torch.get_num_threads(), inter_threads=1
            )

    def translate(self, batch: Batch) -> list[list[int]]:
        """Return the tokens; sentences become words and back, as CTranslate2 takes them."""
        names, ids, work = self.words.names, self.words.ids, self.work
        sources = [
            [names[index] for index in row[: int(keep)].tolist()]
            for row, keep in zip(batch["input_ids"], batch["attention_mask"].sum(dim=1), strict=True)
        ]
        found = self.translator.translate_batch(
            sources, beam_size=work.beams, max_decoding_length=work.new_tokens,
            min_decoding_length=work.new_tokens, max_batch_size=0,
        )  # fmt: skip
        return [[ids[word] for word in one.hypotheses[0]] for one in found]


class CTranslate2Int8(CTranslate2):
    """CTranslate2 with weights of 8 bits: its tokens may differ."""

    compute_type = "int8"


class OursCorpus:
    """Our model and `generate` on a text."""

    further: Mapping[str, Any] = {}

    def __init__(self, work: CorpusWork):
        self.work = work
        self.model, self.tokenizer = self.load(work.model)
        self.further = {"gnmt_alpha": 0.0, **self.further} if work.beams > 1 else self.further

    def load(self, folder: str) -> tuple[Any, Any]:
        """Return model and tokenizer."""
        from vaswani_tx.training.inference.translation import load_model_and_tokenizer

        return load_model_and_tokenizer(folder)

    def translate_lines(self, lines: Sequence[str]) -> list[str]:
        """Tokenise, sort by length, decode in batches, and write the texts in the lines' order."""
        encoded = self.tokenizer(list(lines))["input_ids"]
        filled = (index for index, line in enumerate(lines) if line.strip())
        order = sorted(filled, key=lambda index: len(encoded[index]), reverse=True)
        found = [""] * len(lines)
        for first in range(0, len(order), self.work.batch):
            chosen = order[first : first + self.work.batch]
            batch = self.tokenizer.pad({"input_ids": [encoded[index] for index in chosen]}, return_tensors="pt")
            batch = {name: batch[name] for name in ("input_ids", "attention_mask")}
            with torch.no_grad():
                sequences = self.model.generate(**batch, **search_of(self.work), **self.further)
            texts = self.tokenizer.batch_decode(sequences, skip_special_tokens=True)
            for index, text in zip(chosen, texts, strict=True):
                found[index] = text
        return found


class MarianCorpus(OursCorpus):
    """MarianMT with the trained model's weights, by our export to it, and its epsilon."""

    def __init__(self, work: CorpusWork):
        super().__init__(work)
        self.further = {}

    def load(self, folder: str) -> tuple[Any, Any]:
        from vaswani_tx.export.marian import to_marian

        ours, tokenizer = super().load(folder)
        model = to_marian(ours)
        for module in model.modules():
            if isinstance(module, torch.nn.LayerNorm):
                module.eps = ours.config.layer_norm_eps
        return model, tokenizer


class OursFastCorpus(OursCorpus):
    """Our model and its fast decoder on a text."""

    def __init__(self, work: CorpusWork):
        self.further = {"custom_generate": fast_decoder()}
        super().__init__(work)


class CTranslate2Corpus(OursCorpus):
    """CTranslate2 on our export, through this project's engine."""

    quantization = "float32"

    def load(self, folder: str) -> tuple[Any, Any]:
        from vaswani_tx.engines import load_engine
        from vaswani_tx.errors import ExportError

        try:
            return load_engine(folder, "ctranslate2", quantization=self.quantization)
        except ExportError as error:
            raise Unavailable(str(error)) from None


class CTranslate2Int8Corpus(CTranslate2Corpus):
    """CTranslate2 with weights of 8 bits: its texts may differ."""

    quantization = "int8"
