"""Key maps that are wrong: the message names file, line and key, says what to do, and nothing is written."""

import json
import re
from pathlib import Path

import pytest
import torch
from torch import nn
from transformers import AutoTokenizer

from vaswani_tx.cli import main
from vaswani_tx.convert import ConversionError, convert
from vaswani_tx.convert.map_file import read_map, ready_maps
from vaswani_tx.convert.mapped import read

GOOD = """\
extends: torch-encoder
family: decoder
names: {encoder: "stack.", embedding: words}
rows:
  out.{weight,bias}: lm_head.{weight,bias}
positions:
  kind: sinusoidal
  layout: interleaved
config:
  num_heads: 2
  scale_embedding: false
tokens: {pad: null, bos: 1, eos: 2}
"""


class Small(nn.Module):
    """A language model on nn.TransformerEncoder."""

    def __init__(self):
        super().__init__()
        layer = nn.TransformerEncoderLayer(8, 2, 9, batch_first=True)
        self.stack = nn.TransformerEncoder(layer, 1, enable_nested_tensor=False)
        self.words, self.out = nn.Embedding(6, 8), nn.Linear(8, 6)


@pytest.fixture(scope="module")
def state() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    return Small().state_dict()


@pytest.fixture
def source(tmp_path, state) -> Path:
    torch.save(state, tmp_path / "model.pt")
    return tmp_path / "model.pt"


def write(folder: Path, text: str, name: str = "map.yaml") -> Path:
    (folder / name).write_text(text, encoding="utf-8")
    return folder / name


def test_good_map(tmp_path, source):
    assert read(source, map=write(tmp_path, GOOD)).original is not None
    assert read(source, map=write(tmp_path, GOOD + "original: null\n")).original is None


OUT = "  out.{weight,bias}: lm_head.{weight,bias}"  # the row of GOOD

WRONG = {
    "unknown section": ("title: x\nrow: {a: b}\n", r"line 2, row: unknown key 'row': did you mean 'rows'\?"),
    "no yaml": (GOOD + "x: [\n", r"line 1[34]: is no YAML"),
    "unquoted name": (GOOD.replace('"stack."', "stack.") + "ignore: {{encoder}x: why}\n", r"line 13.*quotes"),
    "twice": (GOOD + "family: decoder\n", r"line 13: the key 'family' is given twice; the first is in line 2"),
    "list": ("- a\n- b\n", r"line 1: must be a mapping"),
    "empty": ("", r"the map is empty"),
    "family": (
        GOOD.replace("family: decoder", "family: decoders"),
        r"line 2, family: must be .*did you mean 'decoder'\?",
    ),
    "no family": (
        GOOD.replace("family: decoder\n", ""),
        r"says no 'family': add `family:` with one of encoder-decoder",
    ),
    "no head": (GOOD.replace("family: decoder", "family: encoder"), r"says no 'head'.*token-classification"),
    "unknown ready map": (
        GOOD.replace("torch-encoder", "torch-encodr"),
        r"line 1, extends: .*no ready map 'torch-encodr': did you mean",
    ),
    "name": (
        GOOD.replace("embedding: words", "embeding: words"),
        r"torch-encoder\.yaml, line \d+.*\{embedding\} is not in",
    ),
    "field": (GOOD.replace("num_heads: 2", "num_head: 2"), r"line 10, config > num_head: .*did you mean 'num_heads'\?"),
    "missing field": (
        GOOD.replace("  scale_embedding: false\n", ""),
        r"config: `scale_embedding` is missing: true where",
    ),
    "heads": (
        GOOD.replace("num_heads: 2", "num_heads: 3"),
        r"line 10.*3 heads do not divide the 8 rows of 'stack.layers.0",
    ),
    "heads of text": (GOOD.replace("num_heads: 2", "num_heads: two"), r"line 10.*must be a whole number"),
    "contradiction": (
        GOOD.replace("num_heads: 2", "num_heads: 2\n  d_ff: 2048"),
        r"line 11, config > d_ff: 2048 contradicts",
    ),
    "wrong value": (
        GOOD.replace("num_heads: 2", "num_heads: 2\n  norm_order: middle"),
        r"config: these .*norm_order must be",
    ),
    "left over": (
        GOOD.replace("  out.{weight,bias}", "  ot.{weight,bias}"),
        r"rows: no row is for out.weight, out.bias: add",
    ),
    "ignored output": (
        GOOD.replace(OUT, "  x: y") + "ignore: {out.*: not needed}\n",
        r"no row gives `lm_head.weight`, the output projection: add one, or `tie_word_embeddings: true`",
    ),
    "our name": (
        GOOD.replace("lm_head.{weight,bias}", "lm_haed.{weight,bias}", 1).replace(
            "scale_e", "tie_word_embeddings: true\n  scale_e"
        ),
        r"line 5.*'out.weight' would be 'lm_haed.weight', which .* does not have: did you mean 'lm_head.weight'\?",
    ),
    "shape": (
        GOOD.replace(OUT, "  out.weight: {do: transpose, to: lm_head.weight}\n  out.bias: lm_head.bias"),
        r"line 5.*'out.weight' \(transpose\) is 'lm_head.weight' with shape \[8, 6\].*\[6, 8\] \(`do: transpose`\?\)",
    ),
    "no split": (
        GOOD.replace("  out.{", '  out.bias: {split: "a.{q,k,v,x}"}\n  out.{'),
        r"line 5.*shape \[6\] has no rows for 4 equal parts",
    ),
    "step": (GOOD.replace("  out.{", "  words.bias: {do: [turn], to: a}\n  out.{"), r"line 5.*must be 'transpose' or"),
    "slice": (
        GOOD.replace(OUT, "  out.{weight,bias}: {do: {slice: [0, 9]}, to: 'lm_head.{weight,bias}'}"),
        r"line 5.*slice \[0, 9\] is not within 6 rows",
    ),
    "layers": (GOOD.replace("  out.{", "  a.{i}: b\n  out.{"), r"line 5.*\{i\} must be in 'a.\{i\}' and in our names"),
    "positions": (GOOD.replace("  kind: sinusoidal\n", ""), r"positions: the map must say `positions: \{kind"),
    "layout": (GOOD.replace("  layout: interleaved\n", ""), r"positions: say `layout:` interleaved"),
    "learned layout": (
        GOOD.replace("kind: sinusoidal", "kind: learned"),
        r"line 8, positions > layout: is of sinusoids",
    ),
    "no tokens": (GOOD.replace(", eos: 2", ""), r"tokens: say which token is `eos`"),
    "token text": (GOOD.replace("bos: 1", "bos: <s>"), r"line 12, tokens > bos: must be an id.*need a `tokenizer`"),
    "token id": (GOOD.replace("bos: 1", "bos: 99"), r"config: these fields make no model: bos_token_id"),
    "under": (
        GOOD + "weights: {under: model}\n",
        r"line 13, weights > under: .*has no 'model'\. It has the keys stack",
    ),
    "refused": (
        GOOD + 'refuse: {"stack.*.norm1.*": its norm is another.}\n',
        r"line 13.*norm1.weight'?: its norm is another",
    ),
    "original": (
        GOOD.replace("names: {", 'original: {at: "stack.layers."}\nnames: {'),
        r"original > class.*does not take the source's weights",
    ),
    "generation": (GOOD + "generation: {num_beam: 4}\n", r"line 13, generation > num_beam: .*did you mean 'num_beams'"),
    "beams": (GOOD + "generation: {num_beams: 0}\n", r"line 13, generation > num_beams: must be a whole number from 1"),
    "end of generation": (GOOD + "generation: {eos_token_id: 2}\n", r"ids of tokens are said in `tokens:`"),
    "type of a field": (
        GOOD.replace("embedding: false", "embedding: x"),
        r"config: these fields .*expected bool, got str",
    ),
    "vocabulary": (GOOD + "tokenizer: {kind: words}\n", r"line 13, tokenizer: needs `vocabulary:`"),
    "no file": (GOOD + "tokenizer: {kind: words, vocabulary: v.txt}\n", r"vocabulary: there is no file 'v.txt' in"),
}


@pytest.mark.parametrize("case", WRONG, ids=lambda case: case.replace(" ", "-"))
def test_wrong_map(tmp_path, source, case):
    text, message = WRONG[case]
    with pytest.raises(ConversionError, match=f"(?s){message}") as found:
        read(source, map=write(tmp_path, text))
    assert ".yaml" in str(found.value)


def test_table_of_other_sinusoids(tmp_path, state):
    """A stored table decides: another layout is named, and one that holds no sinusoids is kept as learned."""
    angles = torch.arange(20)[:, None] / 10000 ** (torch.arange(4) / 4)
    path = write(tmp_path, GOOD.replace("  layout: interleaved", "  layout: interleaved\n  table: pe"))
    torch.save({**state, "pe": torch.cat((angles.sin(), angles.cos()), 1)[None]}, tmp_path / "halves.pt")
    with pytest.raises(
        ConversionError, match=r"line 9, positions > table: .*It is layout halves, frequencies paper, offset 0"
    ):
        read(tmp_path / "halves.pt", map=path)
    table = torch.stack((angles.sin(), (angles * 0.9).cos()), 2).flatten(1)
    torch.save({**state, "pe": table}, tmp_path / "own.pt")
    with pytest.raises(ConversionError, match="kind: learned"):
        read(tmp_path / "own.pt", map=path)
    kept = GOOD.replace("  kind: sinusoidal\n  layout: interleaved", "  kind: learned\n  table: pe")
    converted = read(tmp_path / "own.pt", map=write(tmp_path, kept))
    assert torch.equal(converted.state["model.positional_encoding.positions.weight"], table)


def test_offset_and_frequencies_are_read_from_the_table(tmp_path, state):
    angles = (torch.arange(20, dtype=torch.float64)[:, None] + 2) / 10000 ** (torch.arange(4) / 3)
    torch.save({**state, "pe": torch.stack((angles.sin(), angles.cos()), 2).flatten(1).float()}, tmp_path / "t2t.pt")
    converted = read(tmp_path / "t2t.pt", map=write(tmp_path, GOOD.replace("layout: interleaved", "table: pe")))
    assert (converted.config.position_frequencies, converted.config.position_offset) == ("tensor2tensor", 2)


def test_pickled_module_is_refused(tmp_path):
    """A whole module is a pickle that could run code: it is refused, with how to save the weights alone."""
    torch.save(Small(), tmp_path / "whole.pt")
    with pytest.raises(ConversionError, match=r"whole\.pt' is refused.*state_dict\(\)"):
        read(tmp_path / "whole.pt", map=write(tmp_path, GOOD))


VOCABULARIES = {
    "list": (json.dumps(["<unk>", "<s>", "</s>", "b", "a"]), "v.json"),
    "mapping": (json.dumps({"a": 4, "b": 3, "<unk>": 0, "</s>": 2, "<s>": 1}), "v.json"),
    "numbers": (json.dumps({"0": "<unk>", "1": "<s>", "2": "</s>", "3": "b", "4": "a"}), "v.json"),
    "torchtext": (json.dumps({"itos": ["<unk>", "<s>", "</s>", "b", "a"], "freqs": {}}), "v.json"),
    "lines": ("<unk>\n<s>\n</s>\nb\na\n", "v.txt"),
}


@pytest.mark.parametrize("case", VOCABULARIES)
def test_vocabulary_files(tmp_path, source, case):
    """Each kind of vocabulary file gives the same tokenizer, read back by AutoTokenizer."""
    text, name = VOCABULARIES[case]
    write(tmp_path, text, name)
    tokens = "tokens: {pad: null, bos: <s>, eos: 2, unk: <unk>}"
    section = f"tokenizer: {{kind: words, lowercase: true, vocabulary: {name}, end: eos}}\n"
    map_file = write(tmp_path, GOOD.replace("tokens: {pad: null, bos: 1, eos: 2}", tokens) + section)
    report = convert(source, tmp_path / "out", map=map_file)
    assert report.check.deciding < 1e-5
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    assert tokenizer("A b\u00a0 c a")["input_ids"] == [4, 3, 0, 4, 2]
    assert tokenizer.decode([4, 3, 2], skip_special_tokens=True) == "a b"


@pytest.mark.parametrize(
    ("content", "name", "message"),
    [
        ('["a", "a"]', "v.json", "'a' has the ids 0 and 1"),
        ('{"a": 0, "b": 2}', "v.json", "the ids must be 0 to 1, each once; 1 is missing"),
        ('{"a": 0.5}', "v.json", "the ids must be whole numbers"),
        ("[", "v.json", "is no JSON"),
        ("3", "v.json", "neither a list"),
        ("a\n\nb\n", "v.txt", "the token of id 1 is"),
        ("a b", "v.pkl", "is a pickle, which is never read.*json.dump"),
        ("\n".join("abcdefgh"), "v.txt", "has 8 tokens, but the embedding has 6 rows"),
    ],
)
def test_wrong_vocabulary(tmp_path, source, content, name, message):
    write(tmp_path, content, name)
    text = GOOD.replace("bos: 1, eos: 2", "bos: a, eos: a, unk: a")
    map_file = write(tmp_path, text + f"tokenizer: {{kind: words, vocabulary: {name}}}\n")
    with pytest.raises(ConversionError, match=f"(?s)line 13, tokenizer > vocabulary.*{message}"):
        read(source, map=map_file)


def test_patterns_find_all_matches(tmp_path, source):
    """`kind: pattern` reads what `re.findall` finds: what is between the matches is left out."""
    write(tmp_path, '["<unk>", "a", "[b]", "-"]', "v.json")
    text = GOOD.replace("bos: 1, eos: 2", "bos: null, eos: null, unk: <unk>")
    section = "tokenizer: {kind: pattern, pattern: '\\[[^\\]]*\\]|\\w|-', vocabulary: v.json}\n"
    tokenizer = read(source, map=write(tmp_path, text + section)).tokenizer
    assert tokenizer("a[b] - q[b")["input_ids"] == [1, 2, 3, 0, 0]
    assert tokenizer.decode([1, 2, 3]) == "a[b]-"


def test_classifier_of_sequences_says_what_it_reads(tmp_path, source):
    """The mean of the tokens is said, not guessed; a classifier of the first token is refused."""
    text = GOOD.replace("family: decoder", "family: encoder\nhead: sequence-classification")
    text = text.replace("lm_head", "classifier").replace("lm_head", "classifier")
    with pytest.raises(ConversionError, match="line 3, head: say what the classifier reads: `pooling: mean`"):
        read(source, map=write(tmp_path, text))
    with pytest.raises(ConversionError, match="pooling: 'first' cannot be converted"):
        read(source, map=write(tmp_path, text + "pooling: first\n"))
    report = convert(source, tmp_path / "out", map=write(tmp_path, text + "pooling: mean\n"))
    assert report.check.deciding < 1e-5 and report.model.startswith("VaswaniForSequenceClassification")


def test_map_of_the_documentation(tmp_path):
    """The examples of the page are maps."""
    page = (Path(__file__).parents[2] / "docs" / "convert_maps.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```yaml\n(.*?)```", page, re.DOTALL)
    maps = [block for block in blocks if block.startswith(("extends:", "title:"))]
    assert [len(read_map(write(tmp_path, text)).rows) > 10 for text in maps] == [True, True]


def test_maps_extend_each_other(tmp_path, source):
    """A map beside another is found, entries of null are taken away, and a circle is an error."""
    write(tmp_path, GOOD + "title: first\n", "first.yaml")
    second = write(
        tmp_path,
        "extends: first.yaml\ntitle: second\nconfig: {dropout: 0.3}\nrows: {never.there: null}\n",
        "second.yaml",
    )
    converted = read(source, map=second)
    assert converted.title == "second" and converted.config.dropout == 0.3
    write(tmp_path, "extends: second.yaml\n", "first.yaml")
    with pytest.raises(ConversionError, match="a map cannot extend itself"):
        read_map(second)


def test_command_line(tmp_path, source, capsys):
    """A wrong map is one line and status 2, a ready map is named, and nothing is left behind."""
    wrong = write(tmp_path, GOOD.replace("family: decoder", "family: decoders"))
    assert main(["convert", str(source), str(tmp_path / "out"), "--map", str(wrong)]) == 2
    message = capsys.readouterr().err
    assert "map.yaml, line 2, family" in message and "Traceback" not in message
    assert main(["convert", str(source), str(tmp_path / "out"), "--map", "no-map"]) == 2
    assert "Ready maps: annotated-transformer" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_ready_maps_are_whole():
    """Every ready map can be read; the two of modules of torch lack names that only a user knows."""
    for name in ready_maps():
        if name.startswith("torch-"):
            with pytest.raises(ConversionError, match="is not in `names`"):
                read_map(name)
        else:
            assert read_map(name).sections["title"].text()
