"""Training to summarise: the baseline, ROUGE, long documents cut everywhere, exact resumption, the pipeline."""

import json
from pathlib import Path

import numpy as np
import pytest
from accelerate.state import AcceleratorState
from rouge_score.rouge_scorer import RougeScorer
from safetensors.torch import load_file
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer, pipeline

import vaswani_tx.training.tasks.translation as translation
from tests.helpers import ROOT
from tests.helpers.training_runs import records
from vaswani_tx import VaswaniTokenizer
from vaswani_tx.training import train_summarization
from vaswani_tx.training.config.recipe import parse
from vaswani_tx.training.config.summarization import SummarizationSettings
from vaswani_tx.training.tasks.summarization import lead

pytestmark = pytest.mark.usefixtures("fresh_accelerate")

WORDS = ["boat", "cat", "dog", "house", "river", "tree", "garden", "bird"]
LONGEST = 24  # tokens of a document


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Documents of two to six sentences, one of them much longer, whose second sentence begins with the summary."""
    folder = tmp_path_factory.mktemp("summaries")
    random = np.random.default_rng(0)
    texts = []
    for name, count in (("train", 30), ("val", 6)):
        rows = []
        for number in range(count):
            sentences = [
                " ".join(["The", *random.choice(WORDS, size=3)]) + "."
                for _ in range(40 if number == 2 else random.integers(2, 7))
            ]
            rows.append({"document": " ".join(sentences), "summary": sentences[1].removesuffix(".")})
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        (folder / f"{name}.jsonl").write_text(lines, encoding="utf-8")
        texts += [row["document"] for row in rows]
    VaswaniTokenizer.train(iter(texts), vocab_size=310, show_progress=False).save_pretrained(folder / "tokenizer")
    return folder


def flags(data, output, **changes):
    values = {
        "output_dir": output, "data_dir": data, "train_source": "train.jsonl", "validation_source": "val.jsonl",
        "tokenizer": data / "tokenizer", "preset": "tiny", "max_source_length": LONGEST, "max_target_length": 12,
        "max_source_tokens": 200, "max_target_tokens": 100, "warmup_steps": 4, "log_every": 1, "eval_every": 4,
        "save_every": "null", "average_last": 0, "tracker": "none", "num_threads": 1, "max_steps": 6, "final_beam": 2,
        "model.d_model": 16, "model.d_ff": 32, "model.num_heads": 2, "model.encoder_layers": 1,
        "model.decoder_layers": 1,
    } | changes  # fmt: skip
    return [word for name, value in values.items() for word in (f"--{name}", str(value))]


def run(data, output, expect=0, **changes):
    AcceleratorState._reset_state(reset_partial_state=True)
    assert train_summarization.main(flags(data, output, **changes)) == expect
    return Path(output)


def rows(data, name):
    return [json.loads(line) for line in (data / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()]


@pytest.fixture(scope="module")
def trained(data, tmp_path_factory):
    """A short run, and what it said."""
    with pytest.MonkeyPatch.context() as patch:
        said, tokenized, translated = [], [], []
        tokenize, translate = translation.prepare_training_data, translation.translate
        patch.setattr("vaswani_tx.training.tasks.summarization.print_status", said.append)

        def noting_data(*arguments, **options):
            tokenized.append(tokenize(*arguments, **options))
            return tokenized[-1]

        def noting_translation(*arguments, **options):
            translated.append(options)
            return translate(*arguments, **options)

        patch.setattr(translation, "prepare_training_data", noting_data)
        patch.setattr(translation, "translate", noting_translation)
        folder = run(data, tmp_path_factory.mktemp("runs") / "run")
    return folder, said, tokenized[0], translated


def mean_rouge(candidates, references, name):
    scorer = RougeScorer([name], use_stemmer=True)
    pairs = zip(candidates, references, strict=True)
    return 100 * np.mean([scorer.score(reference, text)[name].fmeasure for text, reference in pairs])


def test_the_first_sentences_are_the_baseline(trained, data):
    _, said, _, _ = trained
    validation = rows(data, "val")
    firsts = [row["document"].split(".")[0] + "." for row in validation]
    assert [lead(row["document"], 1) for row in validation] == firsts
    assert lead("Dogs run. Cats sleep. Birds sing.", 2) == "Dogs run. Cats sleep."
    expected = [mean_rouge(firsts, [row["summary"] for row in validation], name)
                for name in ("rouge1", "rouge2", "rougeL")]  # fmt: skip
    (line,) = said
    assert line.startswith("lead-1 as summaries: validation ")
    assert [f"{score:.2f}" in line for score in expected] == [True] * 3, (line, expected)
    assert expected[0] != pytest.approx(100) and expected[0] > 5


def test_summaries_are_scored_by_rouge(trained, data):
    folder, _, _, _ = trained
    found = records(folder, "validation")
    assert [record["step"] for record in found] == [4, 6]
    for record in (*found, *records(folder, "best")):
        assert {"loss", "perplexity", "rouge1", "rouge2", "rougeL", "rouge1_signature"} <= set(record)
        assert not {"bleu", "chrf"} & set(record)
    note = json.loads((folder / "best" / "validation.json").read_text(encoding="utf-8"))
    assert note["by"] == "rougeL"
    samples = [json.loads(line) for line in (folder / "samples.jsonl").read_text(encoding="utf-8").splitlines()]
    final = samples[-6:]
    assert [sample["lead"] for sample in final] == [lead(row["document"], 1) for row in rows(data, "val")]
    for name in ("rouge1", "rougeL"):
        expected = mean_rouge([s["hypothesis"] for s in final], [s["reference"] for s in final], name)
        assert records(folder, "best")[0][name] == pytest.approx(expected)


def test_long_documents_are_cut_in_training_and_in_validation(trained, data):
    _, _, tokenized, translated = trained
    tokenizer = AutoTokenizer.from_pretrained(data / "tokenizer")
    for name in ("train", "val"):
        assert max(len(tokenizer(row["document"]).input_ids) for row in rows(data, name)) > 2 * LONGEST
    assert len(tokenized.pairs) == 30 and int(tokenized.pairs.source_lengths.max()) == LONGEST
    assert len(translated) == 3 and {options["max_source_length"] for options in translated} == {LONGEST}


def test_its_best_model_works_in_the_pipeline(trained, data):
    best = trained[0] / "best"
    assert type(AutoModelForSeq2SeqLM.from_pretrained(best)).__name__ == "VaswaniForConditionalGeneration"
    assert AutoTokenizer.from_pretrained(best).model_max_length == LONGEST
    summarize = pipeline("summarization", model=str(best))
    long = max((row["document"] for row in rows(data, "val")), key=len)
    (made,) = summarize([long], truncation=True, max_new_tokens=5)
    assert set(made) == {"summary_text"} and isinstance(made["summary_text"], str)


def test_a_resumed_run_is_the_same_to_the_last_bit(trained, data, tmp_path, capsys):
    whole = trained[0]
    run(data, tmp_path / "parts", max_steps=3)
    capsys.readouterr()
    parts = run(data, tmp_path / "parts")
    assert "lead-1" not in capsys.readouterr().err, "the baseline is a new run's"
    last = "checkpoints/step-00000006"
    for name in ("model.safetensors", "training_state/optimizer.safetensors"):
        assert (parts / last / name).read_bytes() == (whole / last / name).read_bytes()
    assert records(parts, "train") == records(whole, "train")
    assert load_file(parts / last / "model.safetensors").keys() > {"model.shared.weight"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"lead_sentences": -1}, "lead_sentences must be at least 0"),
        ({"lead_sentence": 2}, "did you mean '--lead-sentences'"),
        ({"metrics": "rouge3"}, "rouge"),
        ({"best_by": "rouge9"}, "rouge"),
        ({"train_source": "none.jsonl"}, "none.jsonl: there is no such file"),
        ({"source_field": "text"}, "text"),
        ({"too_long": "cut"}, "truncate"),
    ],
)
def test_what_cannot_be_used_is_named(data, tmp_path, capsys, changes, message):
    run(data, tmp_path / "run", expect=2, **changes)
    assert message in capsys.readouterr().err.splitlines()[-1]
    assert not (tmp_path / "run").exists()


def test_the_recipe_is_read_and_every_key_has_a_comment():
    path = ROOT / "training" / "recipes" / "summarization" / "first_sentence.yaml"
    settings = parse([str(path)], SummarizationSettings)
    assert (settings.max_source_length, settings.best_by, settings.too_long) == (128, "rougeL", "truncate")
    keys = [line for line in path.read_text(encoding="utf-8").splitlines() if line and not line.startswith("#")]
    assert all(" # " in line for line in keys)
