"""Labelled data from files of every kind, what is refused, and the rows that they become."""

import json

import datasets
import numpy as np
import pytest
import torch

from vaswani_tx import VaswaniTokenizer
from vaswani_tx.training.data import labelled_corpora as classifier_tasks
from vaswani_tx.training.data.labelled import Fields, check_labels, label_names, read_examples, read_rows
from vaswani_tx.training.data.labelled_rows import answer_tokens, question_rows, text_rows, word_rows
from vaswani_tx.training.errors import DataError
from vaswani_tx.training.inference.classification import predict
from vaswani_tx.training.inference.task_specs import TaggingSpec, best_span, task_spec

SENTENCES = ["the cat sat on the mat", "don't go there", "it costs 12 $ today", "Zoë went home", "a b c d e f"]


@pytest.fixture(scope="module")
def tokenizer():
    return VaswaniTokenizer.train(iter(SENTENCES * 3), vocab_size=300, show_progress=False)


def write(folder, name, text):
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return str(path)


def texts(path, task="classification", **fields):
    return [(e.text, e.pair, e.label) for e in read_examples(path, task, Fields(**fields))]


# Files


def test_the_same_rows_from_every_format(tmp_path):
    rows = [{"text": 'say "a, b"', "label": "x"}, {"text": "two", "label": "y"}]
    files = {
        "a.jsonl": "\n".join(map(json.dumps, rows)) + "\n\n",
        "a.json": json.dumps(rows),
        "a.tsv": 'label\ttext\nx\tsay "a, b"\n\ny\ttwo\n',
        "a.csv": 'text,label\r\n"say ""a, b""",x\r\ntwo,y\r\n',
    }
    expected = [('say "a, b"', None, "x"), ("two", None, "y")]
    for name, content in files.items():
        assert texts(write(tmp_path, name, content)) == expected, name
    datasets.Dataset.from_list(rows).to_parquet(tmp_path / "a.parquet")
    assert texts(str(tmp_path / "a.parquet")) == expected


def test_classes_of_a_data_set_become_names(tmp_path):
    features = datasets.Features(text=datasets.Value("string"), label=datasets.ClassLabel(names=["no", "yes"]))
    table = datasets.Dataset.from_dict({"text": ["a", "b"], "label": [1, 0]}, features=features)
    table.to_parquet(tmp_path / "data" / "train.parquet")
    assert texts(str(tmp_path / "data")) == [("a", None, "yes"), ("b", None, "no")]
    with pytest.raises(DataError, match="no data set that loads"):
        read_examples(str(tmp_path / "data"), "classification", Fields(), split="absent")


def test_labels_of_the_tasks(tmp_path):
    path = write(tmp_path, "a.tsv", "text\tother\tlabel\none\tzwei\tb, a\n")
    assert texts(path, "multi_label", pair="other") == [("one", "zwei", ["a", "b"])]
    path = write(tmp_path, "b.jsonl", '{"text": "t", "label": [], "score": [1, 2.5]}\n')
    assert texts(path, "multi_label") == [("t", None, [])]
    assert texts(path, "regression", label="score") == [("t", None, [1.0, 2.5])]
    path = write(tmp_path, "c.jsonl", '{"text": "t", "label": 3}\n')
    assert texts(path) == [("t", None, "3")]


def test_conll_columns(tmp_path):
    text = "-DOCSTART- -X- O\n\n# a comment\nAnn NNP B-PER\nran VBD O\n\n\nno end O"
    examples = read_examples(write(tmp_path, "a.conll", text), "tagging", Fields())
    assert [(e.words, e.tags) for e in examples] == [(["Ann", "ran"], ["B-PER", "O"]), (["no"], ["O"])]
    assert examples[1].where.endswith("a.conll, line 8") and examples[0].where.endswith("line 4")
    path = write(tmp_path, "b.jsonl", '{"tokens": "a b", "tags": ["X", "Y"]}')
    assert read_examples(path, "tagging", Fields())[0].words == ["a", "b"]


def test_squad_nesting(tmp_path):
    answers = {"answers": [{"text": "mat", "answer_start": 11}]}
    paragraph = {"context": "cat on the mat", "qas": [{"id": 7, "question": "where?", **answers}]}
    path = write(tmp_path, "a.json", json.dumps({"version": 1, "data": [{"title": "t", "paragraphs": [paragraph]}]}))
    (example,) = read_examples(path, "question_answering", Fields())
    assert (example.id, example.answers) == ("7", [("mat", 11)])
    flat = {"context": "cat", "question": "who?", "answers": {"text": ["cat"], "answer_start": [0]}}
    path = write(tmp_path, "b.jsonl", json.dumps(flat) + "\n" + json.dumps(flat | {"answers": []}))
    assert [e.answers for e in read_examples(path, "question_answering", Fields())] == [[("cat", 0)], []]


QA = '{"context": "the cat", "question": "who?", "answers": '


@pytest.mark.parametrize(
    ("name", "content", "task", "message"),
    [
        ("a.tsv", "text\tlabel\na\tx\tz\n", "classification", "line 2: 3 columns, but line 1 has 2"),
        ("a.tsv", "text\tlabel\n\tx\n", "classification", "line 2: field 'text' must hold text"),
        ("a.tsv", "text\tlabel\na\t \n", "classification", "line 2: field 'label' must hold the name"),
        ("a.tsv", "text\tlable\na\tx\n", "classification", "line 2: no field 'label'.*Did you mean 'lable'"),
        ("a.tsv", "text\ttext\n", "classification", "line 1: the names of the columns"),
        ("a.tsv", "text\tlabel\n", "classification", "no example"),
        ("a.tsv", "text\tlabel\na\tnan\n", "regression", "line 2: field 'label' must hold a number"),
        ("a.csv", 'text,label\n"a\nb",x\n"c"d,y\n', "classification", "line 4: not valid CSV"),
        ("a.jsonl", '{"text": "a", "label": "x"}\n{"text"\n', "classification", "line 2: not valid JSON"),
        ("a.jsonl", "[1]\n", "classification", "line 1: an object with named fields"),
        ("a.jsonl", '{"text": "a", "label": null}\n', "classification", "field 'label' is empty"),
        ("a.jsonl", '{"text": "a", "label": true}\n', "classification", "line 1: field 'label' must hold the name"),
        ("a.jsonl", '{"text": "a", "label": {"b": 1}}\n', "multi_label", "must hold a list of labels"),
        ("a.conll", "a\tX\nb\n", "tagging", "line 2: a word, a tab and its tag"),
        ("a.jsonl", '{"text": "a\\ud800", "label": "x"}', "classification", "line 1: half of a surrogate pair"),
        ("a.jsonl", '{"tokens": ["a", "\\ud800"], "tags": ["X", "Y"]}', "tagging", "line 1: half of a surrogate pair"),
        ("a.jsonl", '{"tokens": ["a", "b"], "tags": ["X"]}', "tagging", "line 1: 2 words but 1 tags"),
        ("a.jsonl", '{"tokens": ["a", " "], "tags": ["X", "Y"]}', "tagging", "word 2 of field 'tokens'"),
        ("a.jsonl", QA + '{"text": ["cat"], "answer_start": [3]}}', "question_answering", "It begins at 4"),
        ("a.jsonl", QA + '[{"text": "dog", "answer_start": 4}]}', "question_answering", "not occur in the context"),
        ("a.jsonl", QA + '[{"text": "cat"}]}', "question_answering", "needs 'text' and the number"),
        ("a.json", '{"data": [{"paragraphs": [{"context": "x"}]}]}', "question_answering", "no list 'qas'"),
        ("a.json", '{"text": 1}', "classification", "a list of objects"),
        ("a.txt", "a b\n", "classification", "cannot read such a file"),
    ],
)  # fmt: skip
def test_wrong_data_are_refused_with_their_location(tmp_path, name, content, task, message):
    with pytest.raises(DataError, match=message) as error:
        read_examples(write(tmp_path, name, content), task, Fields())
    assert name in str(error.value)


def test_other_unreadable_files(tmp_path):
    write(tmp_path, "train.tsv", "")
    with pytest.raises(DataError, match=r"no such file. Did you mean .*train.tsv"):
        read_examples(str(tmp_path / "trian.tsv"), "classification", Fields())
    (tmp_path / "a.tsv").write_bytes(b"text\tlabel\n\xff\tx\n")
    with pytest.raises(DataError, match=r"line 2: byte 1 .* not valid UTF-8"):
        list(read_rows(str(tmp_path / "a.tsv")))
    (tmp_path / "a.parquet").write_bytes(b"PAR1")
    with pytest.raises(DataError, match="cannot be read as Parquet"):
        list(read_rows(str(tmp_path / "a.parquet")))


def test_label_names_and_their_order(tmp_path):
    rows = "".join(f"t\t{label}\n" for label in ("10", "b", "2", "O"))
    examples = read_examples(write(tmp_path, "a.tsv", "text\tlabel\n" + rows), "classification", Fields())
    assert label_names(examples) == ["2", "10", "O", "b"]
    assert label_names(examples, ["b", "O", "2", "10", "spare"])[-1] == "spare"
    with pytest.raises(DataError, match=r"line 3: label 'b' is not one of `labels`'s 3"):
        label_names(examples, ["2", "10", "O"])
    with pytest.raises(DataError, match=r"a.tsv, line 2: label '10' .* Did you mean '1'"):
        check_labels(examples, ["1", "b", "2", "O"])
    with pytest.raises(DataError, match="'2' only: nothing to learn"):
        label_names(examples[2:3])


# Rows


def test_text_rows_equal_the_tokenizer(tokenizer, tmp_path):
    path = write(tmp_path, "a.tsv", "text\tb\tlabel\nthe cat\tsat on\tx\na b c d e f\tthe mat the mat\ty\n")
    examples = read_examples(path, "classification", Fields(pair="b"))
    rows = text_rows(examples, tokenizer, np.array([0, 1]), 64)
    batch = rows.collate(np.array([1, 0]))
    expected = tokenizer(
        [examples[1].text, examples[0].text], [examples[1].pair, examples[0].pair], padding=True, return_tensors="pt"
    )
    assert batch["input_ids"].equal(expected["input_ids"])
    assert batch["attention_mask"].equal(expected["attention_mask"])
    assert batch["labels"].tolist() == [1, 0] and rows.targets.tolist() == [1, 1]
    short = text_rows(examples, tokenizer, np.zeros((2, 3), dtype=np.float32), 7)
    assert short.cut == 1 and short.lengths.max() == 7 and short.targets.tolist() == [3, 3]
    assert short.ids[-1] == tokenizer.eos_token_id
    with pytest.raises(DataError, match=r"line 3: .* tokens are more than max_length 7"):
        text_rows(examples, tokenizer, np.array([0, 1]), 7, too_long="error")


def words(tmp_path, *sentences):
    lines = [json.dumps({"tokens": s.split(), "tags": [w[0].upper() for w in s.split()]}) for s in sentences]
    return read_examples(write(tmp_path, "w.jsonl", "\n".join(lines)), "tagging", Fields())


def test_first_pieces_have_the_tags(tokenizer, tmp_path):
    (example,) = words(tmp_path, "don't pay 12 $")
    rows = word_rows([example], tokenizer, {"D": 0, "P": 1, "1": 2, "$": 3}, 64)
    # Words given one by one become the tokens of the text, so a pipeline on raw text sees what training saw.
    assert rows.ids.tolist() == tokenizer("don't pay 12 $")["input_ids"]
    pieces = tokenizer.convert_ids_to_tokens(rows.ids.tolist())
    tagged = {piece: label for piece, label in zip(pieces, rows.labels.tolist(), strict=True) if label >= 0}
    assert rows.labels[rows.labels >= 0].tolist() == [0, 1, 2, 3] and rows.targets.tolist() == [4]
    assert all(piece.startswith("Ġ") for piece in tagged) and rows.labels[-1] == -100


def test_long_sentences_are_parted_between_words(tokenizer, tmp_path):
    examples = words(tmp_path, "a b c d e f", "the cat", "a bbbbbbbbbbbbbbbb c")
    classes = {letter: number for number, letter in enumerate("ABCDEFT")}
    rows = word_rows(examples, tokenizer, classes, 5)
    assert rows.lengths.max() <= 5 and rows.cut == 1
    for number, example in enumerate(examples):
        mine = [rows.labels[rows.piece(i)] for i in np.flatnonzero(rows.example_of == number)]
        found = np.concatenate(mine)
        assert found[found >= 0].tolist() == [classes[tag] for tag in example.tags]
    assert all(rows.ids[rows.piece(i)][-1] == tokenizer.eos_token_id for i in range(len(rows)))
    assert rows.targets.sum() == 11


class Echo(TaggingSpec):
    """Reads the numbers of the rows instead of the model's outputs."""

    def read(self, outputs, rows, indices):
        return list(indices)

    def join(self, example, found):
        return {"rows": list(found)}


class Silent(torch.nn.Module):
    device = torch.device("cpu")

    def forward(self, **inputs):
        return None


def test_parts_of_a_sentence_stay_in_order(tokenizer, tmp_path):
    examples = words(tmp_path, "bb aaaaaaaa bb", "a a", "aaaaaaaaa b")
    rows = word_rows(examples, tokenizer, None, 10)
    # Batches are made from the longest row down, which here is not the order of the text.
    assert len(rows) > 3 and np.argmax(rows.lengths) > 0
    predictions, _ = predict(Silent(), Echo("tagging"), rows, batch_tokens=10)
    assert [row for prediction in predictions for row in prediction["rows"]] == list(range(len(rows)))


CONTEXT = "Zoë went home. The cat sat on the mat, it costs 12 $ today. Don't go there. " * 2


def test_windows_cover_the_context_and_find_the_answer(tokenizer, tmp_path):
    start = CONTEXT.rindex("the mat")
    row = {"question": "where?", "context": CONTEXT, "answers": [{"text": "the mat", "answer_start": start}]}
    lines = [row, row | {"answers": []}]
    path = write(tmp_path, "q.jsonl", "\n".join(map(json.dumps, lines)))
    rows = question_rows(read_examples(path, "question_answering", Fields()), tokenizer, 40, 10)
    mine = np.flatnonzero(rows.example_of == 0)
    assert len(mine) > 2 and rows.lengths.max() <= 40
    seen, holds = set(), 0
    for i in mine:
        places = rows.characters[rows.piece(i)]
        seen |= {c for first, last in places[places[:, 0] >= 0] for c in range(first, last)}
        first, last = rows.labels[i]
        if first != rows.nowhere[i]:
            holds += 1
            assert CONTEXT[places[first, 0] : places[last, 1]].strip() == "the mat"
            assert places[first, 0] in (start - 1, start)
        else:
            assert rows.ids[rows.piece(i)][first] == tokenizer.eos_token_id
    assert holds >= 1 and set(range(len(CONTEXT.rstrip()))) <= seen
    assert (rows.labels[rows.example_of == 1] == rows.nowhere[rows.example_of == 1, None]).all()
    with pytest.raises(DataError, match=r"q.jsonl, line 1: a question of"):
        question_rows(rows.examples, tokenizer, 15, 10)


def test_characters_of_several_tokens():
    # Two bytes of one letter, each a token of its own.
    places = np.array([[-1, -1], [0, 1], [1, 2], [1, 2], [2, 4]])
    assert answer_tokens(places, [("ë", 1)], 0) == (2, 3)
    assert answer_tokens(places, [("ëxy", 1)], 0) == (2, 4)
    assert answer_tokens(places, [("xyz", 2)], 0) == (0, 0)
    assert answer_tokens(places, None, 4) == (4, 4)


def test_best_span_stays_inside_and_short():
    characters = np.array([[-1, -1], [0, 2], [2, 5], [5, 9]])
    start, end = np.array([9.0, 0, 3, 2]), np.array([9.0, 5, 0, 1])
    # The end at token 1 is before the start at token 2; token 0 is no part of the context.
    score, probability, first, last = best_span(start, end, characters)
    assert (score, first, last) == (5.0, 0, 2) and 0 < probability < 1
    long = np.zeros(80)
    long[1], far = 5.0, np.zeros(80)
    long[50:] = -20.0  # whatever starts within reach of the far end
    far[79], far[20] = 9.0, 1.0
    characters = np.stack([np.arange(80), np.arange(80) + 1], axis=1)
    assert best_span(long, far, characters)[2:] == (1, 21)


def test_no_answer_only_where_every_window_has_none(tmp_path):
    path = write(tmp_path, "q.jsonl", QA + "[]}")
    (example,) = read_examples(path, "question_answering", Fields())
    windows = [(2.0, 0.5, 0, 3, 9.0), (4.0, 0.6, 3, 7, 3.0)]
    assert task_spec("question_answering", no_answer=True).join(example, windows)["answer"] == "cat"
    windows[1] = (4.0, 0.6, 3, 7, 5.0)
    assert task_spec("question_answering", no_answer=True).join(example, windows)["answer"] == ""
    found = task_spec("question_answering").join(example, windows)
    assert found == {"answer": "cat", "score": 0.6, "start": 4}


# Made data


def test_words_that_lost_capitals_and_marks():
    found = classifier_tasks.punctuation("Oh, I’m in the USA - Rome (Italy)! well-known ?")
    assert found == [
        ("oh", "CAP+COMMA"), ("i'm", "CAP"), ("in", "O"), ("the", "O"), ("usa", "UPPER"), ("rome", "CAP"),
        ("italy", "CAP+EXCLAMATION"), ("well-known", "QUESTION"),
    ]  # fmt: skip


def test_made_files_train_and_do_not_overlap(tmp_path, capsys):
    names = [chr(97 + i % 26) + chr(97 + i // 26) for i in range(60)]
    lines = [f"One {name}, of {name}e and {name}o." for name in names]
    one = write(tmp_path, "a.en", "\n".join(lines))
    two = write(tmp_path, "b.en", "\n".join(line.replace("One", "Two").replace("and", "or") for line in lines))
    options = ["--validation", "5", "--test", "5", "--words", "4", "--output", str(tmp_path / "out")]
    assert classifier_tasks.main(["source", "--text", f"a={one}", f"b={two}", *options]) == 0
    parts = [texts(str(tmp_path / "out" / f"{name}.tsv")) for name in ("train", "validation", "test")]
    assert len({text for part in parts for text, _, _ in part}) == sum(map(len, parts))
    assert all(len({label for _, _, label in part}) == 2 for part in parts)
    output = tmp_path / "out.conll"
    assert classifier_tasks.main(["punctuation", "--text", one, "--output", str(output)]) == 0
    examples = read_examples(str(output), "tagging", Fields())
    assert sum(len(example.words) for example in examples) == 360
    assert classifier_tasks.main(["source", "--text", f"a={one}", *options]) == 2
    assert "at least two texts" in capsys.readouterr().err


def test_words_part_at_ascii_space_and_tab_only(tmp_path, tokenizer):
    odd = ["10\u00a0000", "a\u2028b", "c\x85d", "\u3000", "e\x0bf"]
    for separator in ("\t", " ", "  ", " \t"):
        content = "".join(f"{word}{separator}B-NUM\n" for word in odd)
        (example,) = read_examples(write(tmp_path, "a.conll", content), "tagging", Fields())
        assert (example.words, example.tags) == (odd, ["B-NUM"] * len(odd))
    cell = json.dumps({"tokens": "\t".join(odd) + " \r\n g", "tags": " ".join(["O"] * 6)})
    (example,) = read_examples(write(tmp_path, "a.jsonl", cell), "tagging", Fields())
    assert example.words == [*odd, "g"]
    rows = word_rows([example], tokenizer, {"O": 0}, 60)
    assert (rows.labels >= 0).sum() == 6 and rows.targets.tolist() == [6]
    with pytest.raises(DataError, match="line 1: a word, a tab and its tag are needed here"):
        read_examples(write(tmp_path, "b.conll", "10\u00a0B-NUM\n"), "tagging", Fields())
