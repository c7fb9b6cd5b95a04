"""Model cards (README.md with metadata) from what a run and its evaluations wrote; works offline.

    vaswani-tx card runs/first --evaluation scores.json --language en de --output card.md

Every number of a card comes from a file: `config.json` and the weights of the model, `recipe.yaml`, `metrics.jsonl`,
`finished.json`, `environment.json` and `data.json` of the run, and the JSON files of
`vaswani-tx evaluate`. What no file holds is left out. Folders of the machine that trained are left
out too, names of files are kept.
"""

import json
import os
import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from importlib import metadata
from pathlib import Path, PurePosixPath
from statistics import median
from typing import TYPE_CHECKING, Any

import yaml

from vaswani_tx.hub.card_sources import (
    LICENSES,
    PLACES,
    About,
    CardError,
    Run,
    find_run,
    is_number,
    parameters,
    read_evaluation,
    read_object,
    read_run,
    scores_of,
    test_set,
    without_folder,
)
from vaswani_tx.hub.card_tasks import CardTask, example_of, hub_datasets, task_of

if TYPE_CHECKING:
    from huggingface_hub import EvalResult

PAPER = "https://arxiv.org/abs/1706.03762"
# Sentences for the page's input box, by source language.
WIDGET = {
    "de": "Ein Mann repariert sein Fahrrad vor dem Haus.",
    "en": "A man repairs his bicycle in front of the house.",
    "fr": "Un homme répare son vélo devant la maison.",
}


def make_card(
    folder: str | os.PathLike,
    *,
    run: str | os.PathLike | None = None,
    evaluations: Sequence[str | os.PathLike] = (),
    name: str | None = None,
    load_from: str | None = None,
    code: bool = False,
    about: About | None = None,
    titles: Mapping[str, str] | None = None,
) -> str:
    """Write the text of README.md for a model folder.

    Args:
        folder: the model: config.json, generation_config.json, weights.
        run: the run that trained it.
        evaluations: files that `vaswani-tx evaluate --json` wrote for this model.
        name: the model's name; default: the folder's.
        load_from: what the example passes to `from_pretrained`; default: the name.
        code: the folder carries its code, so the example needs `trust_remote_code=True` and no package.
        about: languages, licences, names.
        titles: titles of the scores by their names in files, such as `card_titles()` of
            `vaswani_tx.training.metrics.registry`; None, or a name that is missing: the name itself.

    Raises:
        CardError: a file is missing or damaged, belongs to another model, or `about` has a wrong value.
    """
    about, titles = about or About(), titles or {}
    about.check()
    folder = Path(folder)
    config = read_object(folder / "config.json", needed=True)
    story = read_run(Path(run)) if run is not None else Run()
    scores = [read_evaluation(Path(path), folder) for path in evaluations]
    name = name or Path(os.path.abspath(folder)).name
    task = task_of(config, story.recipe)
    sections = {
        "How to use": _usage(load_from or name, code, about, config, task),
        "Data": _data(story, about),
        "Recipe": _recipe(story),
        "Results": _results(story, scores, folder.name, titles),
        "Training": _training(story),
        "Limits": _limits(story, scores, config, about, task),
        "Citation": _citation(),
        "Licence": _licence(about, code),
    }
    body = [f"# {_text(name)}", _what(folder, config, about, task)]
    body += [f"## {title}\n\n{text}" for title, text in sections.items() if text]
    metadata = _metadata(name, scores, about, titles, task, hub_datasets(story.recipe))
    return f"---\n{metadata}\n---\n\n" + "\n\n".join(body) + "\n"


def _metadata(
    name: str,
    scores: list[dict[str, Any]],
    about: About,
    titles: Mapping[str, str],
    task: CardTask,
    trained_on: Sequence[str],
) -> str:
    """Return the YAML between the dashes, by huggingface_hub's own writer."""
    from huggingface_hub import ModelCardData

    named = [about.dataset_id] if about.dataset_id else trained_on
    values: dict[str, Any] = {"language": list(about.languages), "datasets": list(named)}
    if about.license is not None:
        values["license"] = about.license.lower()
        if values["license"] not in LICENSES:
            values |= {"license": "other", "license_name": _slug(about.license)}
        if about.license_name is not None:
            values["license_name"] = about.license_name
        values["license_link"] = about.license_link
    widget = about.widget
    if widget is None and task.example is None:
        widget = [WIDGET[code] for code in about.languages[:1] if code in WIDGET]
    values["widget"] = [{"text": _plain(text)} for text in widget or ()]
    results = [result for score in scores for result in _eval_results(score, about, titles, task)]
    if results:
        values |= {"eval_results": results, "model_name": _plain(name)}
        values["metrics"] = sorted({result.metric_type for result in results})
    values = {key: value for key, value in values.items() if value}
    tags = [task.tag, "transformer", "vaswani", "attention-is-all-you-need"]
    card = ModelCardData(library_name="transformers", pipeline_tag=task.tag, tags=tags, **values)
    return card.to_yaml(line_break="\n").strip()


def _eval_results(
    score: dict[str, Any], about: About, titles: Mapping[str, str], task: CardTask
) -> Iterator["EvalResult"]:
    from huggingface_hub import EvalResult

    test = test_set(score)
    stem = PurePosixPath(test[0]).name.partition(".")[0] if test else ""
    called = about.dataset_name or (test[0] if test else "test set")
    search = _decoding({"num_beams": _generation(score).get("num_beams")})
    for key, value, signature in scores_of(score):
        yield EvalResult(
            task_type=task.tag,
            task_name=task.tag.replace("-", " ").capitalize()
            + (f" {'-'.join(about.languages)}" if about.languages else ""),
            dataset_type=about.dataset_id or _slug(called),
            dataset_name=_plain(called),
            dataset_split=_plain(stem) or None,
            metric_type=re.split("[^a-z]", key)[0] or key,  # its name on the Hub: bleu, rouge
            metric_name=titles.get(key, key) + (f", {search}" if search else ""),
            metric_value=round(value, 2),
            metric_args={"signature": _plain(signature)},
        )


def _vocabulary(config: dict[str, Any]) -> str | None:
    source, target = (config.get(name) for name in ("source_vocab_size", "vocab_size"))
    if not isinstance(target, int):
        return None
    return f"{source:,} of the source, {target:,} of the target" if isinstance(source, int) else f"{target:,}"


def _what(folder: Path, config: dict[str, Any], about: About, task: CardTask) -> str:
    layers = " + ".join(str(config[key]) for key in ("encoder_layers", "decoder_layers") if key in config)
    facts = {
        "parameters": f"{count:,}" if (count := parameters(folder)) else None,
        "layers (encoder + decoder)": layers or None,
        "d_model": config.get("d_model"),
        "d_ff": config.get("d_ff"),
        "heads": config.get("num_heads"),
        "vocabulary": _vocabulary(config),
        "normalisation": {"post": "after each sublayer, as in the paper", "pre": "before each sublayer"}.get(
            str(config.get("norm_order"))
        ),
        "positions": config.get("position_embedding"),
        "activation": config.get("activation_function"),
    }
    decoding = read_object(folder / "generation_config.json")
    facts["decoding by default"] = _decoding(decoding) or None
    text = f"{task.kind} as in [Attention Is All You Need]({PAPER}) (Vaswani et al. 2017)"
    if len(about.languages) == 2 and task.tag == "translation":
        text += f", for translation from `{about.languages[0]}` to `{about.languages[1]}`"
    return f"{text}.\n\n" + _table(("", ""), [(key, _text(value)) for key, value in facts.items() if value is not None])


def _usage(load_from: str, code: bool, about: About, config: dict[str, Any], task: CardTask) -> str:
    language = about.languages[0] if about.languages else None
    sentence = next(iter(about.widget or ()), WIDGET.get(language or "", "Replace this by a sentence of yours."))
    if code:
        note = (
            "The code of the model travels with it: `trust_remote_code=True` runs it, so read the `*_vaswani.py` files "
            "first. Where the package `vaswani_tx` is installed, `import vaswani_tx` replaces the flag."
        )
    else:
        note = "The package `vaswani_tx` must be installed: this folder holds no code."
    version = config.get("transformers_version")
    if isinstance(version, str):
        note += f" Saved with transformers {_text(version)}."
    return _fenced("python", example_of(task, load_from, code, _plain(sentence))) + "\n\n" + note


def _data(story: Run, about: About) -> str:
    recipe, rows = story.recipe, []
    called = " ".join(filter(None, (_text(about.dataset_name or ""), _hub_link(about.dataset_id))))
    rows.append(("data set", called))
    rows.append(("its licence", _text(about.dataset_license or "")))
    for title, keys in (
        ("training files", ("train_source", "train_target")),
        ("validation files", ("validation_source", "validation_target")),
    ):
        rows.append((title, ", ".join(_code(without_folder(recipe[key])) for key in keys if recipe.get(key))))
    if recipe.get("corpora"):
        rows.append(("corpora", _code(json.dumps(without_folder(recipe["corpora"]), ensure_ascii=False))))
    rows += [(key, value) for key, value in _flat(story.data)]
    return _table(("", ""), [row for row in rows if row[1]])


def _recipe(story: Run) -> str:
    kept = {key: without_folder(value) for key, value in story.recipe.items() if key not in PLACES}
    if not kept:
        return ""
    text = yaml.safe_dump(kept, sort_keys=False, allow_unicode=True, width=110)
    return "The resolved recipe of the run, without the places of its machine.\n\n" + _fenced(
        "yaml", _visible(text).strip()
    )


def _results(story: Run, scores: list[dict[str, Any]], kind: str, titles: Mapping[str, str]) -> str:
    rows = []
    for score in scores:
        test = " → ".join(map(_code, test_set(score))) or "test set"
        where = f"{test}, {score['sentences']:,} sentences" if is_number(score.get("sentences")) else test
        rows += [(where, *row) for row in _score_rows(score, titles)]
        if is_number(score.get("perplexity")):
            rows.append((where, "perplexity a token", f"{score['perplexity']:.3f}", "", ""))
    for record in story.events.get(kind, [])[-1:]:
        where = f"validation, {record['sentences']:,} sentences" if is_number(record.get("sentences")) else "validation"
        rows += [(where, *row) for row in _score_rows(record, titles)]
    table = _table(("set", "score", "value", "decoding", "signature"), rows)
    return "\n\n".join(filter(None, (table, "\n".join(f"- {line}" for line in map(_speed, scores) if line))))


def _score_rows(score: dict[str, Any], titles: Mapping[str, str]) -> Iterator[tuple[str, str, str, str]]:
    beams = score.get("beam")
    decoding = _decoding(_generation(score)) or (f"beam {beams}" if is_number(beams) else "")
    for key, value, signature in scores_of(score):
        text = f"**{value:.2f}**"
        interval = score.get(f"{key}_interval")
        if isinstance(interval, dict) and all(is_number(interval.get(k)) for k in ("mean", "half_width", "level")):
            level = f"{100 * interval['level']:.0f} %"
            text += f" ({level} interval {interval['mean']:.2f} ± {interval['half_width']:.2f})"
        yield _text(titles.get(key, key)), text, decoding, _code(signature)


def _speed(score: dict[str, Any]) -> str:
    rates = [
        f"{score[key]:,.{digits}f} {unit} a second"
        for key, unit, digits in (("sentences_per_second", "sentences", 1), ("target_tokens_per_second", "tokens", 0))
        if is_number(score.get(key))
    ]
    if not rates:
        return ""
    settings = score.get("settings", {})
    on = f" on {_code(settings['device'])}" if settings.get("device") else ""
    decoding = _decoding(_generation(score))
    return f"Speed{on}{f' ({decoding})' if decoding else ''}: {', '.join(rates)}."


def _training(story: Run) -> str:
    train = story.events.get("train", [])
    last = train[-1] if train else {}
    speeds = [record["tokens_per_second"] for record in train if is_number(record.get("tokens_per_second"))]
    energy = story.finished.get("energy_kwh")
    step = story.finished.get("step", last.get("step"))
    rows = [
        ("updates", f"{step:,}" if is_number(step) else ""),
        ("epochs begun", f"{last['epoch'] + 1:,}" if is_number(last.get("epoch")) else ""),
        ("target tokens", f"{last['target_tokens']:,}" if is_number(last.get("target_tokens")) else ""),
        ("time", _duration(last["seconds"]) if is_number(last.get("seconds")) else ""),
        ("speed (median)", f"{median(speeds):,.0f} target tokens a second" if speeds else ""),
        ("energy", f"{energy:.3g} kWh" if is_number(energy) else ""),
    ]
    for title, describe in (("hardware", _hardware), ("software", _versions), ("revision", _revision)):
        rows += [(title, text) for text in dict.fromkeys(filter(None, map(describe, story.parts)))]
    return _table(("", ""), [row for row in rows if row[1]])


def _hardware(part: dict[str, Any]) -> str:
    found = part.get("hardware") or {}
    words = [f"{_text(gpu['name'])}" for gpu in found.get("gpus") or [] if isinstance(gpu, dict) and gpu.get("name")]
    if found.get("cpu"):
        cores = found.get("usable_cores")
        words.append(_text(found["cpu"]) + (f" ({cores} cores usable)" if is_number(cores) else ""))
    for key, unit in (("processes", "processes"), ("precision", "")):
        if part.get(key) not in (None, 1):
            words.append(f"{_text(part[key])} {unit}".strip())
    return ", ".join(words)


def _versions(part: dict[str, Any]) -> str:
    versions = part.get("versions") or {}
    return ", ".join(f"{_text(name)} {_text(version)}" for name, version in versions.items() if version)


def _revision(part: dict[str, Any]) -> str:
    git = part.get("git") or {}
    return _code(git["revision"]) + (" with changes" if git.get("dirty") else "") if git.get("revision") else ""


def _limits(story: Run, scores: list[dict[str, Any]], config: dict[str, Any], about: About, task: CardTask) -> str:
    lines = ["It knows text like its training data; other domains, spellings and languages come out worse, or wrong."]
    longest = [story.recipe.get(f"max_{side}_length") for side in ("source", "target")]
    if all(map(is_number, longest)):
        lines.append(f"It was trained on at most {longest[0]} source and {longest[1]} target tokens a pair.")
    if config.get("position_embedding") == "learned" and is_number(config.get("max_position_embeddings")):
        lines.append(f"Its positions are learned: input ends at {config['max_position_embeddings']} tokens.")
    if not scores:
        lines.append("No score on a test set is recorded here.")
    lines.append("This card holds no judgement of its output by readers, and no measure of bias.")
    lines.append(task.limit)
    if not about.dataset_name and not about.dataset_id and not story.recipe:
        lines.append("What it was trained on is not recorded here.")
    return "\n".join(f"- {line}" for line in lines)


def _citation() -> str:
    try:
        version = f",\n  version = {{{metadata.version('vaswani-tx')}}}"
    except metadata.PackageNotFoundError:
        version = ""
    return _fenced(
        "bibtex",
        f"""@inproceedings{{vaswani2017attention,
  title = {{Attention Is All You Need}},
  author = {{Ashish Vaswani and Noam Shazeer and Niki Parmar and Jakob Uszkoreit and Llion Jones and Aidan N. Gomez and
            {{\\L}}ukasz Kaiser and Illia Polosukhin}},
  booktitle = {{Advances in Neural Information Processing Systems 30}},
  year = {{2017}},
  url = {{{PAPER}}}
}}

@software{{vaswani_tx,
  title = {{vaswani-tx: the 2017 Transformer as a native Hugging Face transformers model}},
  author = {{{{The vaswani-tx contributors}}}}{version}
}}""",
    )


def _licence(about: About, code: bool) -> str:
    weights = f"Weights: {_text(about.license)}." if about.license else "The licence of the weights is not stated."
    return weights + (" The code in the `*_vaswani.py` files: Apache-2.0." if code else "")


def _generation(score: dict[str, Any]) -> dict[str, Any]:
    settings = score.get("settings", {})
    found = settings.get("generation")
    if not isinstance(found, dict):
        return {}
    # A penalty given to the evaluation wins over the model's own.
    return {**found, "gnmt_alpha": None} if is_number(settings.get("length_penalty")) else found


def _decoding(generation: Mapping[str, Any]) -> str:
    """Describe what in a generation configuration decides a score."""
    beams, alpha, extra = (generation.get(key) for key in ("num_beams", "gnmt_alpha", "max_extra_tokens"))
    words = []
    if is_number(beams):
        words.append("greedy" if beams == 1 else f"beam {beams}")
    if is_number(alpha) and alpha and beams != 1:
        words.append(f"GNMT penalty {alpha}")
    elif is_number(generation.get("length_penalty")) and beams != 1:
        words.append(f"log P / length^{generation['length_penalty']:g}")
    if is_number(extra):
        words.append(f"at most source + {extra} tokens")
    return ", ".join(words)


def _duration(seconds: float) -> str:
    minutes = seconds / 60
    if minutes < 120:
        return f"{minutes:,.1f} minutes"
    return f"{minutes / 60:,.1f} hours"


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Yield the numbers and words of nested objects, their keys joined."""
    for key, value in values.items():
        title = f"{prefix} {key}".strip()
        if isinstance(value, dict):
            yield from _flat(value, title)
        elif is_number(value):
            yield _text(title), f"{value:,}"
        elif isinstance(value, str):
            yield _text(title), _code(without_folder(value))


def _table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    """Return a Markdown table of cells that are Markdown already; an empty text without rows."""
    if not rows:
        return ""
    lines = [head, ("---",) * len(head), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _visible(value: Any) -> str:
    """Return text with blanks for control characters, marks of writing direction included, line ends excepted."""
    hidden = ("Cc", "Cf", "Cs", "Zl", "Zp")
    return "".join(" " if c != "\n" and unicodedata.category(c) in hidden else c for c in str(value))


def _plain(value: Any) -> str:
    """Return one line of text without control characters."""
    return " ".join(_visible(value).split())


def _text(value: Any) -> str:
    """Return foreign text as Markdown that shows it as it is."""
    return re.sub(r"([\\`*_\[\]<>#|~$&!])", r"\\\1", _plain(value))


def _code(value: Any) -> str:
    """Return foreign text between backticks that it cannot close, also within a table."""
    text = _plain(value)
    ticks = "`" * (max(map(len, re.findall(r"`+", text)), default=0) + 1)
    space = " " if len(ticks) > 1 else ""
    return f"{ticks}{space}{text}{space}{ticks}".replace("|", "\\|") if text else ""


def _fenced(language: str, text: str) -> str:
    """Return a block of code with a fence longer than any in the text."""
    fence = "`" * max(3, max(map(len, re.findall(r"`+", text)), default=0) + 1)
    return f"{fence}{language}\n{text}\n{fence}"


def _hub_link(dataset_id: str | None) -> str:
    return f"([{_text(dataset_id)}](https://huggingface.co/datasets/{dataset_id}))" if dataset_id else ""


def _slug(text: str) -> str:
    """Return a name as identifiers on the Hub are written."""
    return re.sub(r"[^a-z0-9.]+", "-", text.lower()).strip("-") or "other"


__all__ = ["About", "CardError", "find_run", "make_card"]
