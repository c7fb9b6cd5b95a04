"""The standard set of works, whole and quick, and those that curves are drawn of."""

from dataclasses import replace

from tests.benchmarks.works import CorpusWork, DecodingWork, TrainingWork, Work

PEERS = ("marian", "marian-trainer", "ours", "ours-plain", "torch.nn", "x-transformers")
OWN = ("marian", "ours", "ours-plain")
SEARCHERS = ("marian", "ours", "ours-fast", "ctranslate2", "ctranslate2-int8")
FILLS = (1.0, 0.8, 0.65, 0.5, 0.35)
VOCABULARIES = (2000, 8000, 16000, 37000)


def training() -> list[TrainingWork]:
    """Return the works of training."""
    base = {"size": "base", "vocab_size": 37000, "lengths": "wmt"}
    tiny = {"size": "tiny", "vocab_size": 8000, "lengths": "multi30k", "rounds": 5}
    practice = {"practice": 8, "label_smoothing": 0.0, "contenders": ("hf-practice", "ours")}
    return [
        TrainingWork("base-bucketed-4000", **base, tokens=4000, contenders=(*OWN, *PEERS[-2:]), rounds=2),
        TrainingWork("base-bucketed-1500", **base, tokens=1500, contenders=(*OWN, "torch.nn"), rounds=3),
        TrainingWork("base-random-1500", **base, tokens=1500, batching="random", contenders=OWN, rounds=3),
        TrainingWork(
            "base-8000-bucketed-1500", size="base", vocab_size=8000, lengths="multi30k", contenders=OWN, rounds=3
        ),
        TrainingWork("base-practice", **base, tokens=1500, **practice, rounds=2),
        TrainingWork("tiny-bucketed-4000", **tiny, tokens=4000, contenders=PEERS),
        TrainingWork("tiny-bucketed-1500", **tiny, tokens=1500, batches=2, contenders=OWN),
        TrainingWork("tiny-random-4000", **tiny, tokens=4000, batching="random", contenders=OWN),
        TrainingWork(
            "tiny-37000-bucketed-4000", **{**tiny, "vocab_size": 37000, "rounds": 3}, tokens=4000, contenders=OWN
        ),
        TrainingWork("tiny-practice", **{**tiny, "lengths": "wmt"}, tokens=4000, **practice),
    ]


def curves() -> list[TrainingWork]:
    """Return the works of the two curves: padding, and the vocabulary."""
    fills = [
        TrainingWork(
            f"curve-fill-{share:.2f}", size="base", vocab_size=8000, lengths=f"fill:{share}", tokens=1024,
            contenders=OWN, rounds=2,
        )
        for share in FILLS
    ]  # fmt: skip
    vocabularies = [
        TrainingWork(f"curve-vocabulary-{size}", size="tiny", vocab_size=size, tokens=4000, contenders=OWN, rounds=1)
        for size in VOCABULARIES
    ]
    return [*fills, *vocabularies]


def decoding() -> list[DecodingWork]:
    """Return the four settings of translation at base size."""
    return [
        DecodingWork(
            f"base-batch-{batch}-beam-{beams}", batch=batch, sentences=max(batch, 4), beams=beams,
            contenders=SEARCHERS, rounds=3,
        )
        for batch in (1, 32)
        for beams in (1, 4)
    ]  # fmt: skip


def corpus(model: str, source: str, lines: int) -> list[CorpusWork]:
    """Return the works of a text: as the paper decodes, and greedily."""
    return [
        CorpusWork(f"corpus-beam-{beams}", model, source, beams=beams, lines=lines, contenders=SEARCHERS)
        for beams in (4, 1)
    ]


def quick(works: list[Work]) -> list[Work]:
    """Return the works that `--quick` runs, fewer and shorter: whether all works, not how fast it is."""
    chosen: list[Work] = []
    for work in works:
        if isinstance(work, TrainingWork):
            if work.size == "base" and work.name not in ("base-bucketed-1500", "base-practice"):
                continue
            if work.name in ("tiny-bucketed-1500", "curve-vocabulary-2000", "curve-vocabulary-16000"):
                continue
            tokens = min(work.tokens, 300) if work.size == "base" else work.tokens
            chosen.append(replace(work, rounds=2, batches=1, tokens=tokens))
        elif isinstance(work, DecodingWork):
            if work.batch == 1 or work.beams == 4:
                sentences = min(work.sentences, 8)
                chosen.append(replace(work, rounds=1, new_tokens=10, sentences=sentences, batch=min(work.batch, 8)))
        else:
            chosen.append(replace(work, rounds=1, lines=min(work.lines, 64)))
    return chosen
