"""The commands of parsing: data and vocabulary from treebank files, decoding as in the paper, scores, the example."""

import io
import json
import shutil

import pytest
import torch
import yaml
from accelerate.state import AcceleratorState
from transformers import AutoTokenizer

from vaswani_tx import VaswaniConfig, VaswaniForConditionalGeneration, VaswaniTokenizer
from vaswani_tx.training import parsing_demo as demo
from vaswani_tx.training import train_tokenizer
from vaswani_tx.training.config.parsing import ParsingSettings
from vaswani_tx.training.config.recipe import parse as parse_recipe
from vaswani_tx.training.data.whole_words import add_whole_words, train_with_whole_words
from vaswani_tx.training.errors import DataError
from vaswani_tx.training.experiments.english_treebank import generate_trees
from vaswani_tx.training.experiments.sweep_rows import make_config
from vaswani_tx.training.inference import translation
from vaswani_tx.training.inference.translation import Translations
from vaswani_tx.training.parsing import evaluate, parse, prepare
from vaswani_tx.training.parsing.linear import LEAVES, linearise, symbols_of
from vaswani_tx.training.parsing.trees import parse_tree, read_trees, write_trees

GOLD = "(S (NP (DT The) (NN man)) (VP (VBD saw) (NP (DT a) (NN dog)) (PP (IN with) (NP (DT a) (NN hat)))) (. .))"
TRACES = "( (S (NP-SBJ (-NONE- *)) (VP (VB Stop) (PRN (-LRB- -LRB-) (ADVP (RB now)) (-RRB- -RRB-))) (. .)) )"


@pytest.fixture(scope="module")
def treebank(tmp_path_factory):
    folder = tmp_path_factory.mktemp("treebank")
    trees = generate_trees(60, 20)  # every symbol of the validation part is in the training part, not so the test part
    for name, part in (("train", trees[:40]), ("validation", trees[40:50]), ("test", trees[50:])):
        (folder / name).mkdir()
        (folder / name / "a.mrg").write_text(write_trees(part, pretty=True), encoding="utf-8")
    with (folder / "train" / "b.mrg").open("w", encoding="utf-8") as file:
        file.write(f"{TRACES}\n( (S (NP-SBJ (-NONE- *))) )\n")
    return folder


def prepared(treebank, output, *more):
    parts = [word for name in prepare.PARTS for word in (f"--{name}", str(treebank / name))]
    return prepare.main([*parts, "--output", str(output), "--vocab-size", "420", *more])


@pytest.fixture(scope="module")
def data(treebank, tmp_path_factory):
    folder = tmp_path_factory.mktemp("data") / "data"
    assert prepared(treebank, folder) == 0
    return folder


@pytest.fixture(scope="module")
def untrained(data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("model") / "model"
    tokenizer = VaswaniTokenizer.from_pretrained(data / "tokenizer")
    torch.manual_seed(0)
    size = {"d_model": 16, "d_ff": 32, "num_heads": 2, "encoder_layers": 1, "decoder_layers": 1}
    VaswaniForConditionalGeneration(VaswaniConfig(vocab_size=len(tokenizer), **size)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def lines(path):
    return path.read_text(encoding="utf-8").splitlines()


# Vocabulary


def test_symbols_are_one_token_each_and_all_text_comes_back(data, tmp_path):
    tokenizer = AutoTokenizer.from_pretrained(data / "tokenizer")
    symbols = lines(data / "symbols.txt")
    assert tokenizer.init_kwargs["whole_words"] == symbols == sorted(symbols) and {"(NP", ")NP", "XX"} <= set(symbols)
    for line in lines(data / "validation.trees"):
        ids = tokenizer(line).input_ids
        assert len(ids) == len(line.split()) + 1 and tokenizer.decode(ids, skip_special_tokens=True) == line
    for text in ("(NPX XXL (S) a(NP", "(NP  (NP\t(NP ", "the (NP", "</s> (NP <pad>", "çé🙂 )S", " (S"):
        assert tokenizer.decode(tokenizer(text).input_ids, skip_special_tokens=True) == text
    whole = tokenizer("(NP").input_ids[0]
    assert whole not in tokenizer("(NPX").input_ids + tokenizer("a(NP").input_ids, "only whole words are whole"
    tokenizer.save_pretrained(tmp_path)
    assert VaswaniTokenizer.from_pretrained(tmp_path).get_vocab() == tokenizer.get_vocab()


def test_added_words_leave_the_other_ids_alone():
    base = VaswaniTokenizer.train(iter(["the dog sees the dogs"] * 3), 280, show_progress=False)
    more = add_whole_words(base, ["(NP", "dog", "(NP"])
    assert len(more) == len(base) + 1, "a word that is one token already needs no other"
    assert more("the dog sees")["input_ids"] == base("the dog sees")["input_ids"]
    assert len(base("(NP")["input_ids"]) > 2, "the given tokenizer is left as it was"


@pytest.mark.parametrize(
    ("words", "size", "message"),
    [([], 300, "no whole words"), ([""], 300, "empty"), (["a b"], 300, "white space"), (["(S", ")S"], 261, "262")],
)
def test_words_that_cannot_be_whole(words, size, message):
    with pytest.raises(DataError, match=message):
        train_with_whole_words(iter([["a dog"]]), words, size, show_progress=False)


def test_train_tokenizer_takes_whole_words(data, tmp_path, capsys):
    command = ["--source", str(data / "train.words"), "--target", str(data / "train.trees"), "--vocab-size", "420"]
    words = ["--whole-words", str(data / "symbols.txt")]
    assert train_tokenizer.main([*command, *words, "--output", str(tmp_path / "tok")]) == 0
    made = VaswaniTokenizer.from_pretrained(tmp_path / "tok")
    assert made.get_vocab() == VaswaniTokenizer.from_pretrained(data / "tokenizer").get_vocab()
    (tmp_path / "bad").write_text("a b\n")
    assert (
        train_tokenizer.main([*command, "--whole-words", str(tmp_path / "bad"), "--output", str(tmp_path / "no")]) == 2
    )
    assert "white space" in capsys.readouterr().err and not (tmp_path / "no").exists()


# Data


def test_prepare_writes_aligned_parts(treebank, data):
    trees = list(read_trees(data / "train.mrg"))
    assert len(trees) == 41 and str(trees[-1]).startswith("(S (VP (VB Stop) (PRN (-LRB- -LRB-)")
    assert lines(data / "train.words")[-1] == "Stop ( now ) ."
    assert lines(data / "train.trees") == [linearise(tree) for tree in trees]
    assert [len(lines(data / f"{name}.words")) for name in prepare.PARTS] == [41, 10, 10]
    report = json.loads((data / "parsing.json").read_text(encoding="utf-8"))
    assert report["parts"]["train"]["dropped"] == 1 and report["parts"]["train"]["trees"] == 41
    assert report["vocabulary"] == 420 and report["leaves"] == "XX"
    missing = {one for name in prepare.PARTS for one in symbols_of(read_trees(data / f"{name}.mrg"))}
    assert set(report["parts"]["test"]["unknown_symbols"]) <= missing - set(lines(data / "symbols.txt"))


@pytest.mark.parametrize("leaves", LEAVES)
def test_the_tokenizer_tells_what_the_leaves_are(treebank, tmp_path, leaves):
    assert prepared(treebank, tmp_path / "data", "--leaves", leaves) == 0
    tokenizer = VaswaniTokenizer.from_pretrained(tmp_path / "data" / "tokenizer")
    assert parse.learned_leaves(tokenizer) == leaves
    first = next(read_trees(treebank / "test"))
    assert lines(tmp_path / "data" / "test.trees")[0] == linearise(first, leaves)


def test_prepare_refuses_what_it_cannot_use(treebank, data, tmp_path, capsys):
    def fails(output, *more, train=treebank / "train"):
        status = prepare.main(["--train", str(train), "--output", str(output), "--vocab-size", "420", *more])
        return status == 2 and capsys.readouterr().err

    (tmp_path / "bad.mrg").write_text("(S (A a))\n(S (A a)\n")
    assert f"{tmp_path / 'bad.mrg'}, line 2: the bracket" in fails(tmp_path / "out", train=tmp_path / "bad.mrg")
    (tmp_path / "bad.mrg").write_text("(S (-NONE- *))")
    assert "no tree holds a word" in fails(tmp_path / "out", train=tmp_path / "bad.mrg")
    assert "at least" in fails(tmp_path / "out", "--vocab-size", "200")
    assert not (tmp_path / "out").exists() and "is a file" in fails(tmp_path / "bad.mrg")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "note").write_text("keep")
    assert "other files" in fails(tmp_path / "mine", "--overwrite") and (tmp_path / "mine" / "note").exists()
    shutil.copytree(data, tmp_path / "old")
    assert "--overwrite" in fails(tmp_path / "old")
    assert prepared(treebank, tmp_path / "old", "--overwrite", "--leaves", "tags") == 0
    assert "DT" in (tmp_path / "old" / "train.trees").read_text()


# Parsing


def test_parse_decodes_as_the_paper_does(untrained, monkeypatch, capsys):
    seen = {}

    def spy(model, tokenizer, sources, **options):
        seen.update(options, sources=sources)
        return Translations(["(S XX (PRN XX XX XX )PRN )S", "(S XX"], 0, 0, 1.0)

    monkeypatch.setattr(translation, "translate_corpus", spy)
    monkeypatch.setattr("sys.stdin", io.StringIO("Stop ( now )\n\nGo on\n"))
    assert parse.main(["--model", str(untrained)]) == 0
    output = capsys.readouterr()
    assert output.out.split("\n") == [
        "(S (XX Stop) (PRN (XX -LRB-) (XX now) (XX -RRB-)))", "", "(S (XX Go) (XX on))", "",
    ]  # fmt: skip
    assert "1 of 2 outputs malformed" in output.err and "fewer leaf symbols than words: 1" in output.err
    assert (seen["num_beams"], seen["gnmt_alpha"], seen["max_extra_tokens"]) == (21, 0.3, 300)
    assert (seen["sources"], seen["do_sample"]) == (["Stop ( now )", "Go on"], False)
    seen.clear()
    parse.parse_sentences(None, VaswaniTokenizer.from_pretrained(untrained), [["Go"], ["on"]])
    assert {name: seen[name] for name in parse.PAPER_PARSING} == parse.PAPER_PARSING


def test_parse_reads_standard_input_as_it_reads_files(untrained, monkeypatch, capsys):
    seen = []

    def spy(model, tokenizer, sources, **options):
        seen.extend(sources)
        return Translations(["(S XX XX )S"] * len(sources), 0, 0, 1.0)

    def parsed(data):
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(data), "ascii"))
        return parse.main(["--model", str(untrained)])

    monkeypatch.setattr(translation, "translate_corpus", spy)
    assert parsed("\ufeffEs kostet\r\n\n10\u00a0000 \u20ac".encode()) == 0
    assert seen == ["Es kostet", "10\u00a0000 \u20ac"]
    assert capsys.readouterr().out == "(S (XX Es) (XX kostet))\n\n(S (XX 10\u00a0000) (XX \u20ac))\n"
    assert parsed(b"a\n\xff\n") == 2 and "stdin, line 2: byte 1 of the line (0xff)" in capsys.readouterr().err


def test_the_limit_is_the_input_and_what_is_allowed_beyond(untrained):
    options = {"model": str(untrained), "tokenizer": None, "device": "cpu"}
    model, tokenizer = parse.load_parser(type("Options", (), options))
    # A model that never ends by itself.
    with torch.no_grad():
        model.get_input_embeddings().weight[tokenizer.eos_token_id] = -10.0
    words = ["the", "dog", "and", "the", "cat"]
    size = len(tokenizer(" ".join(words)).input_ids)
    made = translation.translate_corpus(
        model, tokenizer, [" ".join(words)], num_beams=2, gnmt_alpha=0.3, max_extra_tokens=7
    )
    assert made.target_tokens == size + 7
    (result,), _ = parse.parse_sentences(model, tokenizer, [words], num_beams=2, max_extra_tokens=7)
    assert result.tree.words() == words


def test_a_real_model_parses_every_sentence(untrained, tmp_path, capsys):
    (tmp_path / "in").write_text("The dog barks .\nYes\n", encoding="utf-8")
    command = ["--model", str(untrained), "--input", str(tmp_path / "in"), "--beam", "3", "--extra-tokens", "5"]
    assert parse.main([*command, "--output", str(tmp_path / "out")]) == 0
    trees = [parse_tree(line) for line in lines(tmp_path / "out")]
    assert [tree.words() for tree in trees] == [["The", "dog", "barks", "."], ["Yes"]]
    assert capsys.readouterr().out == ""


def test_parse_refuses_what_it_cannot_use(untrained, tmp_path, capsys):
    (tmp_path / "in").write_text("\n\n")
    assert parse.main(["--model", str(untrained), "--input", str(tmp_path / "in")]) == 2
    assert "no sentence" in capsys.readouterr().err
    assert parse.main(["--model", str(tmp_path / "gone"), "--input", str(tmp_path / "in")]) == 2
    assert "gone" in capsys.readouterr().err
    for flags in (["--beam", "0"], ["--alpha", "-1"], ["--extra-tokens", "0"]):
        with pytest.raises(SystemExit):
            parse.main(["--model", str(untrained), *flags])


def test_evaluation_puts_words_and_tags_back(untrained, treebank, monkeypatch, tmp_path, capsys):
    gold = [parse_tree(GOLD), *read_trees(treebank / "test")]
    (tmp_path / "gold.mrg").write_text(write_trees(gold), encoding="utf-8")
    low = "(S (NP XX XX )NP (VP XX (NP (NP XX XX )NP (PP XX (NP XX XX )NP )PP )NP )VP XX )S"
    outputs = [low, *(linearise(tree) for tree in gold[1:])]
    monkeypatch.setattr(translation, "translate_corpus", lambda *args, **kwargs: Translations(outputs, 0, 0, 1.0))
    flags = ["--output", str(tmp_path / "out.mrg"), "--json", str(tmp_path / "out.json")]
    assert evaluate.main(["--model", str(untrained), "--trees", str(tmp_path / "gold.mrg"), *flags]) == 0
    parsed = list(read_trees(tmp_path / "out.mrg"))
    assert parsed[1:] == gold[1:] and parsed[0].leaves() == gold[0].leaves() and parsed[0] != gold[0]
    scores = json.loads((tmp_path / "out.json").read_text(encoding="utf-8"))
    assert scores["recall"] == 100 > scores["precision"] and scores["faults"]["malformed"] == 0
    assert scores["complete_match"] == pytest.approx(1000 / 11) and scores["errors"] == 0
    output = capsys.readouterr().out
    assert "tagging" not in output and f"labelled F1         {scores['f1']:.2f}" in output
    assert "right-branching" in output and 0 < scores["right_branching"]["f1"] < 60


def test_predicted_tags_are_scored(untrained, monkeypatch):
    gold = [parse_tree(GOLD)]
    output = linearise(gold[0], "tags").replace("NN )NP )PP", "JJ )NP )PP")
    monkeypatch.setattr(translation, "translate_corpus", lambda *args, **kwargs: Translations([output], 0, 0, 1.0))
    tokenizer = VaswaniTokenizer.from_pretrained(untrained, whole_words=symbols_of(gold, "tags"))
    scores, _ = evaluate.evaluate(None, tokenizer, gold)
    assert scores["f1"] == 100 and scores["tagging_accuracy"] == 87.5 and scores["tags"]
    assert "tagging accuracy    87.50 %" in evaluate.describe(scores)


def test_right_branching_by_hand():
    tree = evaluate.right_branching(parse_tree("(S (NP (A a) (B b)) (VP (C c) (D d)) (. .))"), "VP")
    assert str(tree) == "(S (A a) (VP (B b) (VP (C c) (D d))) (. .))"
    assert str(evaluate.right_branching(parse_tree("(UH Yes)"), "X")) == "(S (UH Yes))"
    assert str(evaluate.right_branching(parse_tree("(S (UH Yes) (. .))"), "X")) == "(S (UH Yes) (. .))"
    # Brackets S, VP (bcd), VP (cd) against S, NP (ab), VP (cd).
    base = evaluate.score_right_branching([parse_tree("(S (NP (A a) (B b)) (VP (C c) (D d)) (. .))")])
    assert base == {"label": "VP", "f1": pytest.approx(200 / 3), "unlabelled_f1": pytest.approx(200 / 3)}


# The example and the recipes


@pytest.mark.usefixtures("fresh_accelerate")
def test_demo_runs_every_stage(tmp_path, monkeypatch, capsys):
    recipe = yaml.safe_load(demo.RECIPE.read_text(encoding="utf-8"))
    recipe |= {"schedule": "constant", "max_steps": 8, "eval_every": 4, "save_every": 4, "max_target_tokens": 300}
    recipe["model"] |= {"d_model": 16, "d_ff": 32, "num_heads": 2, "encoder_layers": 1, "decoder_layers": 1}
    (tmp_path / "small.yaml").write_text(yaml.safe_dump(recipe))
    monkeypatch.setattr(demo, "RECIPE", tmp_path / "small.yaml")
    monkeypatch.setenv("VASWANI_TX_CACHE", str(tmp_path / "cache"))
    AcceleratorState._reset_state(reset_partial_state=True)
    folder = tmp_path / "run"
    flags = ["--trees", "60", "--vocab-size", "420", "--output", str(folder)]
    assert demo.main([*flags, "--beam", "2"]) == 0
    output = capsys.readouterr().out
    scores = json.loads((folder / "scores.json").read_text(encoding="utf-8"))
    assert f"labelled F1 {scores['f1']:.2f}" in output and output.count("the grammar says") >= 1
    gold = list(read_trees(folder / "data" / "test.mrg"))
    parsed = list(read_trees(folder / "test.mrg"))
    assert len(gold) == 6 and [tree.leaves() for tree in parsed] == [tree.leaves() for tree in gold]
    settings = VaswaniForConditionalGeneration.from_pretrained(folder / "model").generation_config
    assert (settings.num_beams, settings.gnmt_alpha, settings.max_extra_tokens) == (21, 0.3, 300)
    other = tmp_path / "other"
    other.mkdir()
    (other / "file").write_text("keep")
    assert demo.main(["--output", str(other)]) == 2
    assert "not empty" in capsys.readouterr().err and (other / "file").exists()
    assert demo.main(["--output", str(tmp_path / "few"), "--trees", "5"]) == 2
    assert "at least 10" in capsys.readouterr().err


def test_the_wsj_recipe_holds_the_papers_values():
    arguments = parse_recipe([str(demo.RECIPE.parent / "wsj_parsing.yaml")], ParsingSettings)
    config = make_config(arguments)
    assert (config.encoder_layers, config.decoder_layers, config.d_model) == (4, 4, 1024)
    assert config.d_k * config.num_heads == config.d_v * config.num_heads == 1024
    assert (arguments.schedule, arguments.lr_factor, arguments.label_smoothing) == ("noam", 1.0, 0.1)
    assert arguments.max_source_tokens * arguments.accumulation_steps == 25_000
    defaults = vars(prepare.parse(["--train", "x", "--output", "y"]))
    assert (defaults["vocab_size"], defaults["leaves"]) == (16000, "XX")
    names = [f"{arguments.data_dir}/{name}" for name in ("train.words", "train.trees", "validation.words")]
    assert [arguments.train_source, arguments.train_target, arguments.validation_source] == [
        name.removeprefix("data/wsj/") for name in names
    ]
    assert arguments.tokenizer == "data/wsj/tokenizer"


@pytest.mark.parametrize("leaves", LEAVES)
def test_sentences_and_trees_can_have_a_vocabulary_each(treebank, tmp_path, leaves):
    assert prepared(treebank, tmp_path / "data", "--leaves", leaves, "--source-vocab-size", "300") == 0
    tokenizer = VaswaniTokenizer.from_pretrained(tmp_path / "data" / "tokenizer")
    symbols = lines(tmp_path / "data" / "symbols.txt")
    assert parse.learned_leaves(tokenizer) == leaves and len(tokenizer.source) == 300
    assert len(tokenizer.target) == (420 if leaves == "words" else 260 + len(symbols))
    for text in lines(tmp_path / "data" / "test.trees"):
        ids = tokenizer(text_target=text)["input_ids"]
        assert tokenizer.decode(ids, skip_special_tokens=True) == text
        kept = [one for one in text.split() if one in symbols]
        assert sum(tokenizer.target.decode([one]).strip() in symbols for one in ids) >= len(kept)
    report = json.loads((tmp_path / "data" / "parsing.json").read_text(encoding="utf-8"))
    assert (report["source_vocabulary"], report["vocabulary"]) == (300, len(tokenizer.target))
