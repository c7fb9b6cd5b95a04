"""Several directions in one model: tags in front of sources, corpora read backwards, both directions at once."""

import json

import numpy as np
import pytest

from tests.helpers.training_runs import flags, records, run
from vaswani_tx import VaswaniForConditionalGeneration, VaswaniTokenizer
from vaswani_tx.cli import main as library_main
from vaswani_tx.pipeline_vaswani import TranslationPipeline
from vaswani_tx.token_texts_vaswani import language_tag
from vaswani_tx.training import train_translation
from vaswani_tx.training.config.translation import TranslationSettings
from vaswani_tx.training.data.corpora import corpora_of, tags_of, training_texts
from vaswani_tx.training.data.translation_data import prepare_training_data
from vaswani_tx.training.errors import SettingsError
from vaswani_tx.training.tasks.validation_sets import load_validation, losses
from vaswani_tx.training.tasks.vocabularies import with_tags

TO, BACK = ">>tgt<<", ">>src<<"
TWO = [
    {"source": "a.src", "target": "a.tgt", "tag": TO},
    {"source": "a.src", "target": "a.tgt", "tag": [BACK, "<BT>"], "reverse": True},
]
SETS = [
    {"source": "v.src", "target": "v.tgt", "tag": TO},
    {"source": "v.src", "target": "v.tgt", "tag": BACK, "reverse": True, "name": "back"},
]


def yaml_of(value):
    return json.dumps(value)


def recipe(folder, **values):
    given = {"data_dir": str(folder), "token_cache": False} | values
    return TranslationSettings(**given)


def tokenizer_of(folder, settings):
    return with_tags(VaswaniTokenizer.from_pretrained(folder / "tokenizer"), settings)


def texts_of(data, tokenizer):
    pairs = data.all_pairs
    return [
        (
            tokenizer.convert_ids_to_tokens(pairs.source_ids(i).tolist()),
            tokenizer.decode(pairs.target_ids(i).tolist(), True),
        )
        for i in range(len(pairs))
    ]


def test_tags_are_the_first_ids_and_a_reversed_corpus_has_its_sides_swapped(reversal):
    settings = recipe(reversal, corpora=TWO)
    tokenizer = tokenizer_of(reversal, settings)
    plain = VaswaniTokenizer.from_pretrained(reversal / "tokenizer")
    assert tags_of(settings) == [TO, BACK, "<BT>"] and len(tokenizer) == len(plain) + 3
    pairs = prepare_training_data(settings, tokenizer).all_pairs
    lines = [(reversal / f"a.{side}").read_text().splitlines() for side in ("src", "tgt")]
    known = {tag: tokenizer.convert_tokens_to_ids(tag) for tag in tags_of(settings)}
    for i, (source, target) in enumerate(zip(*lines, strict=True)):
        assert pairs.source_ids(i).tolist() == [known[TO], *plain(source)["input_ids"]]
        assert pairs.target_ids(i).tolist() == plain(target)["input_ids"]
        j = i + len(lines[0])
        assert pairs.source_ids(j).tolist() == [known[BACK], known["<BT>"], *plain(target)["input_ids"]]
        assert pairs.target_ids(j).tolist() == plain(source)["input_ids"]
        # The tag as plain text, as of MarianMT.
        assert tokenizer(f"{TO} {source}")["input_ids"] == pairs.source_ids(i).tolist()
    assert language_tag(tokenizer, "tgt") == language_tag(tokenizer, TO) == TO and language_tag(tokenizer, "ba") is None


def test_streams_give_the_same_tagged_pairs(reversal):
    settings = recipe(reversal, corpora=TWO, streaming=True, stream_buffer=40)
    tokenizer = tokenizer_of(reversal, settings)
    stream = prepare_training_data(settings, tokenizer).pairs
    whole = prepare_training_data(recipe(reversal, corpora=TWO), tokenizer).all_pairs
    for i, j in enumerate([*range(20), *range(48, 68)]):
        for side in ("source_ids", "target_ids"):
            assert np.array_equal(getattr(stream, side)(i), getattr(whole, side)(j))


def test_filters_see_the_text_without_its_tag(tmp_path, reversal):
    (tmp_path / "c.src").write_text("ba be\nba be\nbi\nbo bi bo bi\nbu\n", encoding="utf-8")
    (tmp_path / "c.tgt").write_text("di bu\ndi bu\nbi\nbo\nbe\n", encoding="utf-8")
    one = {"source": "c.src", "target": "c.tgt"}
    corpora = [{**one, "tag": "<a>"}, {**one, "tag": "<b>"}]
    rules = {"drop_copies": True, "drop_duplicates": True, "min_length": 1, "max_length_ratio": 1.5}
    settings = recipe(tmp_path, corpora=corpora, **rules)
    tokenizer = tokenizer_of(reversal, settings)
    plain = recipe(tmp_path, corpora=[one], **rules)
    counts = prepare_training_data(plain, tokenizer).all_pairs.counts
    tagged = prepare_training_data(settings, tokenizer).all_pairs.counts
    assert (counts.copies, counts.duplicates, counts.ratio, counts.kept) == (1, 1, 1, 2)
    assert {k: 2 * v for k, v in counts.to_dict().items()} == tagged.to_dict()


def test_bidirectional_is_each_corpus_and_its_reverse(reversal, tmp_path):
    settings = recipe(reversal, train_source="a.src", train_target="a.tgt", bidirectional=True)
    by_hand = recipe(reversal, corpora=[{"source": "a.src", "target": "a.tgt"},
                                        {"source": "a.src", "target": "a.tgt", "reverse": True}])  # fmt: skip
    tokenizer = VaswaniTokenizer.from_pretrained(reversal / "tokenizer")
    one, other = (prepare_training_data(each, tokenizer) for each in (settings, by_hand))
    for name in ("source_flat", "source_offsets", "target_flat", "target_offsets"):
        assert np.array_equal(getattr(one.pairs, name), getattr(other.pairs, name))
    half = len(one.pairs) // 2
    assert np.array_equal(one.pairs.source_ids(half), one.pairs.target_ids(0)) and one.pairs.bounds == (0, 48, 96)
    texts = [text for part in training_texts(settings) for text in part]
    assert len(texts) == 96, "the tokenizer is trained on each text once"
    tagged = recipe(reversal, corpora=[{"source": "a.src", "target": "a.tgt", "tag": TO, "reverse_tag": BACK}],
                    bidirectional=True)  # fmt: skip
    assert [(corpus.tag, corpus.reverse) for corpus in corpora_of(tagged)] == [(TO, False), (BACK, True)]
    pair = VaswaniTokenizer.pair(tokenizer, tokenizer)
    with pytest.raises(SettingsError, match="holds two vocabularies, and both sides then hold both languages"):
        with_tags(pair, settings)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"corpora": [{"source": "a.src", "tag": "de"}]}, "corpora, number 1: tag: 'de' cannot be a tag"),
        ({"corpora": [{"source": "a.src", "tag": "</s>"}]}, "'</s>' cannot be a tag"),
        ({"corpora": [{"source": "a.src", "tag": 3}]}, "quote it"),
        ({"corpora": [{"source": "a.src", "reverse": "yes"}]}, "reverse must be true or false, got 'yes'"),
        ({"corpora": [{"source": "a.src", "reverse_tag": "<x>"}]}, "reverse_tag does nothing without bidirectional"),
        ({"bidirectional": True, "source_vocab_size": 300}, "bidirectional makes both sides hold both languages"),
        ({"corpora": [{"source": "a"}, {"source": "a", "reverse": True}], "source_vocab_size": 300}, "leave source_vo"),
        ({"validation_sets": [{"target": "a"}]}, "validation_sets, number 1: source is missing"),
        ({"validation_sets": [{"source": "a", "weight": 1}]}, "validation_sets, number 1: unknown key 'weight'"),
        ({"validation_sets": SETS, "validation_source": "v"}, "validation_sets and validation_source are both set"),
    ],
)
def test_contradictions_are_errors_that_name_the_key(values, message):
    with pytest.raises(SettingsError) as error:
        TranslationSettings(**values)
    assert message in str(error.value)


def test_validation_sets_follow_each_other_with_their_tags(reversal):
    found = load_validation(recipe(reversal, validation_sets=SETS))
    assert found == ([f"{TO} ba be", f"{TO} bi", f"{BACK} ba be", f"{BACK} bi"], ["ba be", "bi"] * 2)
    assert found.parts == [(TO, 0, 2), ("back", 2, 4)]
    one = load_validation(recipe(reversal, validation_source="v.src", validation_target="v.tgt", validation_tag=TO))
    assert one[0] == found[0][:2] and len(one.parts) == 1
    both = losses([{"nll": 1.0, "reference_tokens": 3}, {"nll": 2.0, "reference_tokens": 1}])
    assert both["loss"] == 1.25 and both["perplexity"] == pytest.approx(np.exp(1.25))


@pytest.fixture
def tagged(reversal, tmp_path, fresh_accelerate):
    sets = {"validation_sets": yaml_of(SETS), "corpora": yaml_of(TWO), "train_source": "", "train_target": "null"}
    more = {"token_cache": "false", "final_beam": 1, "max_steps": 3, "eval_every": 3, "average_last": 1}
    return run(reversal, tmp_path / "tagged", **sets, **more)


def test_a_tagged_model_is_used_by_text_by_language_and_from_the_command_line(reversal, tmp_path, tagged, capsys):
    best = tagged / "best"
    tokenizer = VaswaniTokenizer.from_pretrained(best)
    model = VaswaniForConditionalGeneration.from_pretrained(best)
    assert len(tokenizer) == model.config.vocab_size and tokenizer(f"{TO} ba")["input_ids"][0] == len(tokenizer) - 3
    [validation] = records(tagged, "validation")
    assert set(validation["sets"]) == {TO, "back"} and {"loss", "bleu"} <= set(validation["sets"]["back"])
    weights = [own["loss"] for own in validation["sets"].values()]
    assert min(weights) <= validation["loss"] <= max(weights)
    pipe = TranslationPipeline(model=model, tokenizer=tokenizer, device="cpu")
    settings = {"num_beams": 1, "return_scores": True, "max_new_tokens": 8}
    for tag, language in ((TO, "tgt"), (BACK, "src")):
        [plain] = pipe(f"{tag} ba be bi", **settings)
        [named] = pipe("ba be bi", tgt_lang=language, **settings)
        assert plain == named
    assert pipe("ba be bi", **settings)[0]["score"] != plain["score"]
    [aligned] = pipe("ba be bi", tgt_lang="src", return_alignments=True, num_beams=1, max_new_tokens=8)
    assert all(entry["source_token"] not in (TO, BACK) for entry in aligned["alignment"])
    with pytest.raises(ValueError, match="no languages"):
        pipe("ba be bi", tgt_lang="xx")
    (tmp_path / "in").write_text("ba be\nbi\n", encoding="utf-8")
    words = [
        "translate",
        str(best),
        "-i",
        str(tmp_path / "in"),
        "--format",
        "tsv",
        "--beams",
        "1",
        "-q",
        "--device",
        "cpu",
    ]
    assert library_main([*words, "--tgt-lang", "tgt"]) == 0
    by_language = capsys.readouterr().out
    (tmp_path / "in").write_text(f"{TO} ba be\n{TO} bi\n", encoding="utf-8")
    assert library_main(words) == 0
    assert capsys.readouterr().out == by_language and by_language.count("\n") == 2


@pytest.mark.fresh
def test_new_tags_grow_the_model_that_a_run_starts_from(reversal, tmp_path, fresh_accelerate):
    start = run(reversal, tmp_path / "start", max_steps=1, average_last=1, bidirectional="true", token_cache="false")
    [step] = (start / "checkpoints").iterdir()
    corpora = yaml_of([{"source": "a.src", "target": "a.tgt"}, {"source": "a.src", "target": "a.tgt", "tag": "<BT>"}])
    options = {"corpora": corpora, "train_source": "", "train_target": "null", "init_from": step, "average_last": 1,
               "tokenizer": "null", "max_steps": 1, "token_cache": "false", "learning_rate": 1e-12,
               "schedule": "constant", "warmup_steps": 0}  # fmt: skip
    grown = run(reversal, tmp_path / "grown", **options) / "checkpoints" / "step-00000001"
    old, new = (VaswaniForConditionalGeneration.from_pretrained(folder).state_dict() for folder in (step, grown))
    names = [name for name in old if old[name].shape != new[name].shape]
    assert names and all(len(new[name]) == len(old[name]) + 1 for name in names)
    assert all(np.allclose(new[name][: len(old[name])], old[name]) for name in names)
    assert VaswaniTokenizer.from_pretrained(grown)("<BT> ba")["input_ids"][0] == len(old[names[0]])


def test_bad_tags_end_a_run_with_status_2(reversal, tmp_path, capsys):
    corpora = yaml_of([{"source": "a.src", "target": "a.tgt", "tag": "de"}])
    words = flags(reversal, tmp_path / "run", corpora=corpora, train_source="", train_target="null")
    assert train_translation.main(words) == 2
    assert "such as >>de<< or <BT>" in capsys.readouterr().err
