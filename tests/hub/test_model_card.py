"""A card holds what files say and nothing else, shows foreign text as text, and carries metadata that the Hub reads."""

import functools
import json
import math
import re

import pytest
import torch
import yaml
from huggingface_hub import ModelCard, ModelCardData

from tests.helpers import ROOT
from vaswani_tx import VaswaniConfig, VaswaniForConditionalGeneration, VaswaniGenerationConfig
from vaswani_tx.hub.model_card import About, CardError, find_run
from vaswani_tx.hub.model_card import make_card as untitled_card
from vaswani_tx.hub.saving import save_with_code
from vaswani_tx.training import make_card as command
from vaswani_tx.training.metrics.registry import card_titles

make_card = functools.partial(untitled_card, titles=card_titles())
# What the Hub's description of a card's metadata knows.
KEYS = {
    "language", "license", "license_name", "license_link", "library_name", "pipeline_tag", "tags", "datasets",
    "metrics", "base_model", "widget", "model-index",
}  # fmt: skip
BLEU = "nrefs:1|case:mixed|eff:no|tok:13a|smooth:exp|version:2.6.0"
CHRF = "nrefs:1|case:mixed|eff:yes|nc:6|nw:0|space:no|version:2.6.0"
SLASH = "/"  # keeps the made-up places of a machine from being places of one


def score(model, **changes):
    settings = {
        "model": str(model), "source": f"{SLASH}secret/data/test2016.en", "target": [f"{SLASH}secret/data/test2016.de"],
        "device": "cpu", "generation": {"num_beams": 4, "gnmt_alpha": 0.6, "max_extra_tokens": 50},
    }  # fmt: skip
    values = {
        "bleu": 37.9303, "bleu_signature": BLEU, "chrf": 61.7240, "chrf_signature": CHRF, "sentences": 1000,
        "bleu_interval": {"mean": 37.91, "half_width": 1.13, "level": 0.95, "samples": 1000, "seed": 12345},
        "sentences_per_second": 48.157, "target_tokens_per_second": 639.1, "perplexity": 5.78467, "settings": settings,
    }  # fmt: skip
    return values | changes


@pytest.fixture
def run(tmp_path):
    """A run folder with every file that a card reads."""
    folder = tmp_path / "my-run"
    config = VaswaniConfig(vocab_size=20, d_model=8, d_ff=12, num_heads=2, encoder_layers=1, decoder_layers=2)
    torch.manual_seed(0)
    model = VaswaniForConditionalGeneration(config)
    model.generation_config = VaswaniGenerationConfig.from_model_config(config)
    model.save_pretrained(folder / "averaged")
    recipe = {
        "output_dir": f"{SLASH}secret/runs/my-run", "data_dir": f"{SLASH}secret/data", "train_source": "train.en",
        "train_target": f"{SLASH}secret/data/train.de", "validation_source": "val.en", "tokenizer": "~/secret/words",
        "init_from": "C:\\secret\\base", "corpora": [{"source": f"{SLASH}secret/more.en", "weight": 2}],
        "max_source_length": 128, "max_target_length": 96, "label_smoothing": 0.1, "seed": 7, "overwrite": False,
    }  # fmt: skip
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    train = {"event": "train", "epoch": 0, "loss": 9.0}
    records = [
        train | {"step": 50, "target_tokens": 90_000, "tokens_per_second": 3000.0, "seconds": 30.5},
        train | {"step": 100, "target_tokens": 180_321, "tokens_per_second": 5000.0, "seconds": 90.0},
        {"event": "averaged", "bleu": 38.915, "bleu_signature": BLEU, "beam": 5, "sentences": 250},
        {"event": "best", "bleu": 11.11, "bleu_signature": BLEU, "beam": 5, "sentences": 250},
    ]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    (folder / "finished.json").write_text(json.dumps({"step": 101, "reason": "max_steps", "max_steps": 101}))
    part = {
        "command": [f"{SLASH}secret/bin/python", "--token", "hunter2"],
        "versions": {"torch": "2.13.0", "datasets": None},
        "git": {"revision": "abc123", "dirty": True},
        "hardware": {"cpu": "Some CPU", "usable_cores": 2, "gpus": [{"name": "Some GPU", "memory_gib": 80}]},
        "processes": 2,
        "precision": "bf16",
    }
    (folder / "environment.json").write_text(json.dumps({"parts": [part, part]}))
    (folder / "data.json").write_text(json.dumps({"train": {"pairs": 29_000, "dropped": 12}, "name": "x"}))
    (tmp_path / "scores.json").write_text(json.dumps(score(folder / "averaged")))
    return folder


def metadata_of(text, tag="translation"):
    """The metadata, checked: between dashes, plain YAML, only known keys, and what huggingface_hub reads back."""
    found = re.match(r"---\n(.*?)\n---\n\n# ", text, flags=re.DOTALL)
    values = yaml.safe_load(found[1])
    assert set(values) <= KEYS
    assert values["library_name"] == "transformers" and values["pipeline_tag"] == tag
    card = ModelCard(text)
    assert isinstance(card.data, ModelCardData) and ModelCard(str(card)).data.to_dict() == card.data.to_dict()
    return values, card


def sections(text):
    found = re.split(r"^## (.*)$", text, flags=re.MULTILINE)
    return dict(zip(found[1::2], found[2::2], strict=True))


def test_every_file_of_a_run_shows_in_the_card(run, tmp_path):
    about = About(["en", "de"], "cc-by-4.0", "Multi30k", "them/multi30k", "for research", ["A dog."])
    options = {"run": run, "evaluations": [tmp_path / "scores.json"], "name": "my-model", "about": about}
    text = make_card(run / "averaged", **options)
    assert text == make_card(run / "averaged", **options)
    values, card = metadata_of(text)
    assert values["language"] == ["en", "de"] and values["license"] == "cc-by-4.0"
    assert values["datasets"] == ["them/multi30k"] and values["metrics"] == ["bleu", "chrf"]
    assert values["widget"] == [{"text": "A dog."}]
    bleu, chrf = card.data.eval_results
    assert (bleu.metric_type, bleu.metric_value, chrf.metric_value) == ("bleu", 37.93, 61.72)
    assert bleu.metric_args == {"signature": BLEU} and bleu.metric_name == "BLEU, beam 4"
    assert (bleu.dataset_type, bleu.dataset_name, bleu.dataset_split) == ("them/multi30k", "Multi30k", "test2016")
    assert values["model-index"][0]["name"] == "my-model"
    part = sections(text)
    assert list(part) == [
        "How to use", "Data", "Recipe", "Results", "Training", "Limits", "Citation", "Licence",
    ]  # fmt: skip
    assert "from `en` to `de`" in text and "| layers (encoder + decoder) | 1 + 2 |" in text
    count = sum(p.numel() for p in VaswaniForConditionalGeneration.from_pretrained(run / "averaged").parameters())
    assert f"| parameters | {count:,} |" in text
    for words in (
        "Multi30k",
        "for research",
        "`train.en`, `train.de`",
        "`more.en`",
        "train pairs | 29,000",
        "dropped | 12",
    ):
        assert words.replace("`more.en`", "more.en") in part["Data"]
    assert "label_smoothing: 0.1" in part["Recipe"] and "init_from: base" in part["Recipe"]
    assert "output_dir" not in part["Recipe"] and "overwrite" not in part["Recipe"]
    assert "**37.93** (95 % interval 37.91 ± 1.13) | beam 4, GNMT penalty 0.6" in part["Results"]
    assert BLEU.replace("|", "\\|") in part["Results"] and "perplexity a token | 5.785" in part["Results"]
    assert "validation, 250 sentences | BLEU | **38.91**" in part["Results"] and "11.11" not in text
    assert "48.2 sentences a second, 639 tokens a second" in part["Results"]
    for words in ("updates | 101", "target tokens | 180,321", "1.5 minutes", "(median) | 4,000", "torch 2.13.0"):
        assert words in part["Training"]
    assert part["Training"].count("Some GPU, Some CPU (2 cores usable), 2 processes, bf16") == 1
    assert "`abc123` with changes" in part["Training"] and "energy" not in text
    assert "at most 128 source and 96 target tokens" in part["Limits"]
    assert "vaswani2017attention" in part["Citation"] and "@software{vaswani_tx" in part["Citation"]
    assert "cc-by-4.0" in part["Licence"]


def test_no_path_of_the_machine_and_no_command_line_travels(run, tmp_path):
    text = make_card(run / "averaged", run=run, evaluations=[tmp_path / "scores.json"])
    assert "secret" not in text and "hunter2" not in text and str(tmp_path) not in text


def test_a_missing_file_is_a_missing_line_never_a_made_up_number(run):
    bare = make_card(run / "averaged")
    values, card = metadata_of(bare)
    assert not {"model-index", "metrics", "license", "language", "datasets", "widget"} & set(values)
    assert card.data.eval_results is None
    assert set(sections(bare)) == {"How to use", "Limits", "Citation", "Licence"}
    assert "licence of the weights is not stated" in bare and "No score on a test set" in bare
    for name in ("metrics.jsonl", "finished.json", "environment.json", "data.json", "recipe.yaml"):
        (run / name).unlink()
        text = make_card(run / "averaged", run=run)
        metadata_of(text)
    assert sections(text) == sections(bare)
    (run / "averaged" / "model.safetensors").unlink()
    assert "| parameters |" not in make_card(run / "averaged")


def test_numbers_that_are_none_are_left_out(run, tmp_path):
    records = [
        {"event": "train", "step": 5, "epoch": None, "seconds": math.nan, "target_tokens": "many"},
        {"event": "averaged", "bleu": math.nan, "bleu_signature": BLEU, "chrf": True, "chrf_signature": CHRF},
    ]
    (run / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    (run / "finished.json").write_text(json.dumps({"energy_kwh": None}))
    path = tmp_path / "scores.json"
    path.write_text(json.dumps(score(run / "averaged", bleu=math.inf, perplexity=None, sentences_per_second="fast")))
    text = make_card(run / "averaged", run=run, evaluations=[path])
    assert "chrF | **61.72**" in text and "BLEU |" not in text and "fast" not in text and "many" not in text
    assert "**1.00**" not in text
    for word in ("nan", "inf", "None", "True"):
        assert not re.search(rf"\b{word}\b", text.replace("tokens=True", "")), word
    (run / "finished.json").write_text(json.dumps({"energy_kwh": 0.12345}))
    assert "| energy | 0.123 kWh |" in make_card(run / "averaged", run=run)


def test_scores_have_the_titles_of_the_registry_or_else_their_names(run, tmp_path):
    path = tmp_path / "scores.json"
    scores = {"rougeL": 30.125, "rougeL_signature": "nrefs:1|case:lc", "ter": 50.0, "ter_signature": "nrefs:1"}
    path.write_text(json.dumps(score(run / "averaged", **scores, own_score=1.5, own_score_signature="nrefs:1")))
    text = make_card(run / "averaged", evaluations=[path])
    assert metadata_of(text)[0]["metrics"] == ["bleu", "chrf", "own", "rouge", "ter"]
    results = sections(text)["Results"]
    for words in (
        "| ROUGE-L | **30.12**",
        "| TER (lower is better) | **50.00**",
        "| own\\_score | **1.50**",
        "| BLEU |",
    ):
        assert words in results, words
    bare = untitled_card(run / "averaged", evaluations=[path])
    assert "| rougeL | **30.12**" in bare and "name: rougeL, beam 4" in bare


NASTY = "a|b `c` <script>alert(1)</script> [x](javascript:y) *d*\n---\n# e: \u202e{f} ``` \x00"


def test_a_length_penalty_given_to_the_evaluation_is_the_one_that_is_shown(run, tmp_path):
    given = score(run / "averaged")
    given["settings"] |= {"length_penalty": 1.0}
    given["settings"]["generation"] |= {"length_penalty": 1.0}  # beside the model's own gnmt_alpha
    (tmp_path / "scores.json").write_text(json.dumps(given))
    results = sections(make_card(run / "averaged", evaluations=[tmp_path / "scores.json"]))["Results"]
    first = next(line for line in results.splitlines() if "37.93" in line)
    assert "beam 4, log P / length^1, at most" in first and "GNMT" not in first


def test_foreign_text_stays_text(run, tmp_path):
    nasty = score(run / "averaged")
    nasty["bleu_signature"] = NASTY
    nasty["settings"]["source"] = NASTY
    nasty["settings"]["device"] = NASTY
    (tmp_path / "scores.json").write_text(json.dumps(nasty))
    (run / "recipe.yaml").write_text(
        yaml.safe_dump({"train_source": NASTY, "label_smoothing": "```\nout of the block"})
    )
    (run / "data.json").write_text(json.dumps({NASTY: {NASTY: NASTY, "n": 3}}))
    environment = {"parts": [{"hardware": {"cpu": NASTY}, "versions": {NASTY: NASTY}, "git": {"revision": NASTY}}, 3]}
    (run / "environment.json").write_text(json.dumps(environment))
    about = About(["en"], NASTY, NASTY, None, NASTY, [NASTY])
    text = make_card(
        run / "averaged", run=run, evaluations=[tmp_path / "scores.json"], name=NASTY, load_from=NASTY, about=about
    )
    values, _ = metadata_of(text)
    assert values["license"] == "other" and re.fullmatch(r"[a-z0-9.-]+", values["license_name"])
    assert values["model-index"][0]["results"][0]["metrics"][0]["args"]["signature"].startswith("a|b `c` <script>")
    assert "\u202e" not in text and "\x00" not in text
    body = text.split("\n---\n", 1)[1]
    # A block of code ends only at a fence as long as its own.
    assert [len(fence) for fence in re.findall(r"^(`{3,})", body, flags=re.MULTILINE)] == [4, 4, 4, 4, 3, 3]
    blocks = re.compile(r"^(`{3,})\w+\n.*?\n\1$", flags=re.MULTILINE | re.DOTALL)
    prose = re.sub(r"(?<!\\)(`+)(?!`).*?(?<!`)\1(?!`)", "", blocks.sub("", body))
    assert not re.search(r"(?<!\\)<script|(?<!\\)\[x", prose)
    headings = [line for line in prose.splitlines() if line.startswith("#") or line == "---"]
    assert len(headings) == 9 and headings[0].startswith("# a\\|b \\`c\\` \\<script\\>")
    for table in re.findall(r"(?:^\|.*\n)+", prose, flags=re.MULTILINE):
        assert len({len(re.findall(r"(?<!\\)\|", row)) for row in table.splitlines()}) == 1


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (
            lambda run, scores: (run / "metrics.jsonl").write_text('{"event": "train"}\n{"ev'),
            r"metrics.jsonl', line 2,",
        ),
        (lambda run, scores: (run / "metrics.jsonl").write_bytes(b"\xff"), r"metrics.jsonl' cannot be read"),
        (lambda run, scores: (run / "recipe.yaml").write_text("a: [b"), r"recipe.yaml' is no YAML"),
        (lambda run, scores: (run / "recipe.yaml").write_text("- a"), r"recipe.yaml' holds no keys"),
        (lambda run, scores: (run / "finished.json").write_text("[1]"), r"finished.json' holds no JSON object"),
        (lambda run, scores: (run / "averaged" / "config.json").unlink(), r"There is no '.*config.json'"),
        (lambda run, scores: (run / "averaged" / "model.safetensors").write_bytes(b"1"), r"safetensors' is damaged"),
        (lambda run, scores: scores.unlink(), r"There is no '.*scores.json'"),
        (lambda run, scores: scores.write_text(json.dumps(score("elsewhere/best"))), r"holds the scores of 'elsewhere"),
        (lambda run, scores: scores.write_text('{"bleu": 3}'), r"no score with a signature"),
    ],
)
def test_damage_is_named(run, tmp_path, harm, message):
    harm(run, tmp_path / "scores.json")
    with pytest.raises(CardError, match=message):
        make_card(run / "averaged", run=run, evaluations=[tmp_path / "scores.json"])


def test_wrong_facts_are_named(run):
    with pytest.raises(CardError, match="'German' is no language code"):
        make_card(run / "averaged", about=About(languages=["German"]))
    with pytest.raises(CardError, match="is no data set's name"):
        make_card(run / "averaged", about=About(dataset_id="https://a/b/c"))
    with pytest.raises(CardError, match="no run folder"):
        make_card(run / "averaged", run=run / "nowhere")


@pytest.mark.parametrize(
    ("facts", "message"),
    [
        ({"license": "other"}, "'other'.*give --license-name"),
        ({"license": "Other", "license_link": "LICENSE"}, "give --license-name"),
        ({"license": "other", "license_name": "My Licence"}, "'My Licence' is no name of a licence"),
        ({"license": "other", "license_name": "mine", "license_link": "in the folder"}, "is no link"),
        ({"license": "mit", "license_name": "mine"}, "'mit': leave them out"),
        ({"license_link": "LICENSE"}, "the license is None"),
        ({"languages": ["jp"]}, "'jp' is no language code"),
        ({"languages": ["EN"]}, "'EN' is no language code"),
    ],
)
def test_what_the_hub_would_refuse_is_named(run, facts, message):
    with pytest.raises(CardError, match=message):
        make_card(run / "averaged", about=About(**facts))


def test_a_licence_that_the_hub_does_not_list_has_a_name_and_a_link(run, tmp_path):
    facts = {"license": "other", "license_name": "mine-1.0", "license_link": "https://example.org/licence"}
    values, _ = metadata_of(make_card(run / "averaged", about=About(**facts, languages=["multilingual", "deu"])))
    assert {key: values[key] for key in facts} == facts and values["language"] == ["multilingual", "deu"]
    values, _ = metadata_of(make_card(run / "averaged", about=About(license="My Own", license_link="LICENSE")))
    assert (values["license"], values["license_name"], values["license_link"]) == ("other", "my-own", "LICENSE")
    words = [str(run), "--output", str(tmp_path / "card.md"), "--license", "other", "--license-name", "mine"]
    assert command.main(words) == 0
    values, _ = metadata_of((tmp_path / "card.md").read_text())
    assert values["license_name"] == "mine" and set(values) <= KEYS
    assert command.main(words[:-2]) == 2


@pytest.mark.parametrize(
    ("recipe", "expected"),
    [
        ({"train_source": "them/books", "train_target": None}, ["them/books"]),
        ({"train_file": "them/books", "dataset": "them/images"}, ["them/books", "them/images"]),
        ({"corpora": [{"source": "them/books"}, {"source": "a/b.en", "target": "a/b.de"}]}, ["them/books"]),
        ({"train_source": "data/train.en", "train_target": "data/train.de"}, None),
        ({"train_source": "data/train", "train_target": "data/target"}, None),
        ({"dataset": "digits"}, None),
    ],
)
def test_data_sets_of_the_hub_are_named(run, recipe, expected):
    (run / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    values, _ = metadata_of(make_card(run / "averaged", run=run))
    assert values.get("datasets") == expected
    values, _ = metadata_of(make_card(run / "averaged", run=run, about=About(dataset_id="them/known")))
    assert values["datasets"] == ["them/known"]


@pytest.mark.parametrize(
    ("architecture", "tag", "word"),
    [
        ("VaswaniForConditionalGeneration", "translation", "An encoder-decoder"),
        ("VaswaniForMaskedLM", "fill-mask", "The encoder"),
        ("VaswaniForSequenceClassification", "text-classification", "The encoder"),
        ("VaswaniForTokenClassification", "token-classification", "The encoder"),
        ("VaswaniForQuestionAnswering", "question-answering", "The encoder"),
        ("VaswaniForCausalLM", "text-generation", "The decoder"),
        ("VaswaniForImageClassification", "image-classification", "patches of an image"),
        ("VaswaniEncoderModel", "feature-extraction", "The encoder"),
    ],
)
def test_a_card_names_the_task_of_its_model(run, architecture, tag, word):
    config = json.loads((run / "averaged" / "config.json").read_text())
    (run / "averaged" / "config.json").write_text(json.dumps({**config, "architectures": [architecture]}))
    text = make_card(run / "averaged", code=True)
    values, _ = metadata_of(text, tag)
    assert tag in values["tags"] and word in text
    assert ("AutoModelForSeq2SeqLM" in text) == ("translates" in text) == (tag == "translation")
    if tag != "translation":
        assert f'pipeline("{tag}", model=name, trust_remote_code=True)' in text and "widget" not in values
    (run / "recipe.yaml").write_text("lead_sentences: 1\n")
    metadata_of(make_card(run / "averaged", run=run), "summarization" if tag == "translation" else tag)


def test_the_run_of_a_model_folder_is_found(run, tmp_path):
    (run / "checkpoints" / "step-00000050").mkdir(parents=True)
    for inner in ("averaged", "checkpoints/step-00000050", "."):
        assert find_run(run / inner) == run
    assert find_run(tmp_path) is None


def test_the_example_runs(run, tmp_path, monkeypatch):
    from vaswani_tx import VaswaniTokenizer

    tokenizer = VaswaniTokenizer.train(iter(["a man repairs his bicycle"] * 3), vocab_size=270, show_progress=False)
    torch.manual_seed(0)
    config = VaswaniConfig(
        vocab_size=len(tokenizer), d_model=8, d_ff=8, num_heads=1, encoder_layers=1, decoder_layers=1
    )
    folder = save_with_code(VaswaniForConditionalGeneration(config), tmp_path / "shared", tokenizer)
    monkeypatch.chdir(tmp_path)
    for coded in (True, False):
        text = make_card(folder, code=coded, about=About(languages=["en", "de"]))
        code = re.search(r"```python\n(.*?)\n```", text, flags=re.DOTALL)[1]
        assert ("trust_remote_code" in code) == coded and ("import vaswani_tx" in code) != coded
        printed = []
        exec(compile(code, "card", "exec"), {"print": printed.append})
        assert len(printed) == 1 and isinstance(printed[0][0], str)


def test_the_command_writes_a_card(run, tmp_path, capsys):
    target = tmp_path / "cards" / "mine.md"
    words = [str(run), "--evaluation", str(tmp_path / "scores.json"), "--output", str(target), "--language", "en", "de"]
    assert command.main(words + ["--license", "mit", "--dataset-name", "Multi30k"]) == 0
    assert capsys.readouterr().out == f"wrote {target}\n"
    text = target.read_text(encoding="utf-8")
    values, _ = metadata_of(text)
    assert values["model-index"][0]["name"] == "my-run" and values["license"] == "mit"
    assert values["widget"] == [{"text": "A man repairs his bicycle in front of the house."}]
    (tmp_path / "scores.json").write_text("{")
    assert command.main(words) == 2
    assert "scores.json' is damaged" in capsys.readouterr().err and target.read_text(encoding="utf-8") == text
    assert command.main([str(tmp_path), "--output", str(target)]) == 2
    assert "holds neither averaged/ nor best/" in capsys.readouterr().err
    assert command.main([str(run), "--output", str(tmp_path)]) == 2
    assert "is a folder: name a file" in capsys.readouterr().err


@pytest.mark.parametrize("path", sorted((ROOT / "model_cards").glob("*.md")), ids=lambda path: path.stem)
def test_the_cards_that_the_project_shows_are_valid_and_name_no_path(path):
    text = path.read_text(encoding="utf-8")
    values, _ = metadata_of(text)
    results = values["model-index"][0]["results"]
    assert results and all(metric["value"] > 0 for result in results for metric in result["metrics"])
    places = "|".join(("tmp", "home", "work", "root"))
    assert not re.search(rf"(^|[\s`'\"]){SLASH}({places}){SLASH}", text)
