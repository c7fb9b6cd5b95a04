"""The one loader of models and tokenizers, of folders and of the Hub, for every command.

What is missing, damaged, unknown, contradictory or too large becomes one CheckpointError that names the file or field
and says how to fix it. Every JSON file of a folder is read before transformers sees it, no code of a checkpoint runs
unless that is asked for, and nothing is built that the memory of the machine cannot hold.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from transformers import AutoConfig, AutoModelForSeq2SeqLM, AutoTokenizer, GenerationConfig, PreTrainedConfig

from vaswani_tx.errors import CheckpointError, NumberError
from vaswani_tx.failures import shorten
from vaswani_tx.limits import GENERATION, shown
from vaswani_tx.model_size import NoValuesWithoutMemory, check_memory
from vaswani_tx.token_texts_vaswani import source_of, target_of

CONFIGURATION = "model's configuration"
COPY_AGAIN = "copy the folder again from where it is whole"
_SWITCHES = ("do_sample", "use_cache", "return_dict_in_generate", "output_scores", "renormalize_logits")
_TOKENS = (
    "pad_token_id", "bos_token_id", "eos_token_id", "decoder_start_token_id", "forced_bos_token_id",
    "forced_eos_token_id",
)  # fmt: skip


def _is_list_of(*kinds: type) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, list | tuple) and all(isinstance(entry, kinds) for entry in value)


# What the settings must be that are neither numbers nor switches.
_SHAPES: dict[str, Callable[[Any], bool]] = {
    "suppress_tokens": _is_list_of(int),
    "begin_suppress_tokens": _is_list_of(int),
    "bad_words_ids": lambda value: _is_list_of(list)(value) and all(map(_is_list_of(int), value)),
    "force_words_ids": _is_list_of(list),
    "sequence_bias": lambda value: isinstance(value, list | dict),
    "stop_strings": lambda value: isinstance(value, str) or _is_list_of(str)(value),
    "exponential_decay_length_penalty": lambda value: _is_list_of(int, float)(value) and len(value) == 2,
    "early_stopping": lambda value: isinstance(value, bool) or value == "never",
}
# Files that name a folder's content; of other tokenizers, one of them is enough.
_TOKENIZER_FILES = ("tokenizer_config.json", "tokenizer.json", "target_tokenizer.json")


def looks_like_path(name: str) -> bool:
    """Return whether a name can only be meant as a folder: the Hub knows `name` and `owner/name`."""
    parts = name.split("/")
    if name.startswith((".", "/", "~")) or "\\" in name or len(parts) > 2:
        return True
    return len(parts) == 2 and Path(parts[0]).is_dir()


def check_folder(name: str | Path, what: str = "model") -> None:
    """Raise CheckpointError where a name means a folder that does not exist, or one that holds no model or tokenizer.

    Args:
        what: "model" or "tokenizer".
    """
    name = str(name)
    if "\0" in name or len(name) > 4096:
        raise CheckpointError(f"{shown(name)} cannot be the name of a {what}: give a folder, or a name on the Hub.")
    folder = Path(name)
    if folder.is_file():
        raise CheckpointError(f"'{name}' is a file: name the {what}'s folder.")
    if not folder.is_dir():
        if not name or looks_like_path(name):
            raise CheckpointError(f"there is no {what} folder '{name}'.")
        return
    marker = "config.json" if what == "model" else "tokenizer_config.json"
    if not (folder / marker).is_file():
        inside = [part for part in ("averaged", "best") if (folder / part / marker).is_file()]
        hint = f": did you mean '{folder / inside[0]}'?" if inside else ", so it holds no " + what + "."
        raise CheckpointError(f"'{name}' has no {marker}{hint}")


def as_clause(hint: str) -> str:
    """Return a hint, which may be a sentence, as what follows a colon and ends before a full stop."""
    return hint[:1].lower() + hint[1:].removesuffix(".")


def read_object(path: Path, hint: str = COPY_AGAIN) -> dict[str, Any]:
    """Return the JSON object that a file holds; raise CheckpointError, naming the file, where it holds none."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(f"there is no '{path}': {as_clause(hint)}.") from None
    except RecursionError:
        raise CheckpointError(f"'{path}' is nested too deeply to be read: {as_clause(hint)}.") from None
    except (OSError, ValueError) as error:
        raise CheckpointError(f"'{path}' is damaged ({shorten(error, 200)}): {as_clause(hint)}.") from None
    if not isinstance(values, dict):
        raise CheckpointError(f"'{path}' holds no JSON object, but {shown(values)}: {as_clause(hint)}.")
    return values


def read_config(name: str | Path, trust: bool = False, **fields: Any) -> PreTrainedConfig:
    """Return the configuration of a model; `fields` replace those that the file has.

    Raises:
        CheckpointError: there is no such model, or its config.json is damaged or has a wrong field.
    """
    check_folder(name)
    folder = Path(name)
    if folder.is_dir():
        read_object(folder / "config.json")
    found = explained(str(name), CONFIGURATION, trust, AutoConfig.from_pretrained, name)
    explained(str(name), CONFIGURATION, None, _set_fields, found, fields)
    names = found.architectures
    if not isinstance(names, list | None) or not all(isinstance(one, str) for one in names or []):
        raise CheckpointError(f"config.json of '{name}': architectures must be a list of names, not {shown(names)}.")
    return found


def load_tokenizer(name: str | Path, trust: bool = False, tokenizer_class: Any = AutoTokenizer) -> Any:
    """Return the tokenizer of a folder or of the Hub.

    Raises:
        CheckpointError: there is none, or one of its files is damaged or another thing.
    """
    folder = Path(name)
    if folder.is_file():
        raise CheckpointError(f"'{name}' is a file: name the tokenizer's folder.")
    if not folder.is_dir() and looks_like_path(str(name)):
        raise CheckpointError(f"there is no tokenizer folder '{name}'.")
    for file in _TOKENIZER_FILES:
        if (folder / file).exists():
            read_object(folder / file)
    trusted = _trust_of(tokenizer_class, trust)
    found = explained(str(name), "tokenizer", trusted, tokenizer_class.from_pretrained, name)
    length = found.model_max_length
    if isinstance(length, bool) or not isinstance(length, (int, float)) or not length >= 1:
        raise CheckpointError(
            f"tokenizer_config.json of '{name}': model_max_length must be a whole number of at least 1, not "
            f"{shown(length)}: correct it, or {COPY_AGAIN}."
        )
    return found


def load_translator(
    name: str | Path, tokenizer: str | None = None, *, trust: bool = False, hint: str = COPY_AGAIN, **options: Any
) -> tuple[Any, Any]:
    """Return any encoder-decoder that the Auto classes load, in evaluation mode, and its tokenizer.

    Args:
        tokenizer: folder or name of the tokenizer; None: the model's.
        trust, hint, options: as of `load_model`.

    Raises:
        CheckpointError: something is missing, damaged, no encoder-decoder, or does not fit together.
    """
    config = read_config(name, trust)
    if not trust and type(config) not in AutoModelForSeq2SeqLM._model_mapping:
        raise CheckpointError(
            f"'{name}' is a {getattr(config, 'model_type', None) or type(config).__name__} model, which is no "
            "encoder-decoder that writes text: name one that AutoModelForSeq2SeqLM loads."
        )
    words = load_tokenizer(tokenizer or name, trust)
    model = load_model(AutoModelForSeq2SeqLM, name, trust=trust, hint=hint, **options)
    check_vocabulary(model, words, str(name))
    return model.eval(), words


def load_model(
    model_class: Any, name: str | Path, *, trust: bool = False, hint: str = COPY_AGAIN, **options: Any
) -> Any:
    """Return `model_class.from_pretrained` of a folder or of the Hub, of which every weight was found.

    Args:
        model_class: a class of a model, or one of the Auto classes.
        trust: whether code that comes with the model may run.
        hint: how a damaged folder is fixed.
        options: go to `from_pretrained`: `dtype`, fields of the configuration, ...

    Raises:
        CheckpointError: something is missing, damaged, too large, or does not fit together.
    """
    model, report = load_with_report(model_class, name, trust=trust, hint=hint, **options)
    if missing := sorted(report["missing_keys"]):
        # from_pretrained only warns of these and leaves random numbers in their place.
        raise CheckpointError(
            f"the weights of '{name}' lack {len(missing)} tensors of {type(model).__name__}, first '{missing[0]}': the "
            "folder is incomplete, or its config.json belongs to another model."
        )
    return model


def load_with_report(
    model_class: Any, name: str | Path, *, trust: bool = False, hint: str = COPY_AGAIN, **options: Any
) -> tuple[Any, dict[str, Any]]:
    """Return a model and what `from_pretrained` reports, as `load_model`, whose errors it shares but for lost weights.

    With `ignore_mismatched_sizes` weights of other shapes are left as they are initialised, and reported.
    """
    name = str(name)
    given = {key: value for key, value in options.items() if key not in ("dtype", "config", "ignore_mismatched_sizes")}
    config = options.get("config") or read_config(name, trust, **given)
    check_files(name, hint)
    explained(name, "model", None, _check_size, config, model_class, name, options.get("dtype"))
    keep_others = options.pop("ignore_mismatched_sizes", False)
    with NoValuesWithoutMemory():
        model, report = explained(
            name, "model", _trust_of(model_class, trust), model_class.from_pretrained, name, output_loading_info=True,
            ignore_mismatched_sizes=True, **options,
        )  # fmt: skip
    if report["mismatched_keys"] and not keep_others:
        tensor, stored, wanted = sorted(report["mismatched_keys"])[0]
        raise CheckpointError(
            f"the weights of '{name}' do not fit its config.json: {tensor} has the shape {list(stored)} in the file "
            f"but {list(wanted)} by the configuration ({len(report['mismatched_keys'])} such tensors): "
            f"{as_clause(hint)}."
        )
    check_generation(model, name)
    return model, report


def check_vocabulary(model: Any, tokenizer: Any, name: str = "the model") -> None:
    """Raise CheckpointError where a tokenizer makes ids that a model does not know or takes for others."""
    fix = "name the tokenizer that the model was trained with (--tokenizer)"
    separate = getattr(model.config, "source_vocab_size", None) is not None
    target, writes = target_of(tokenizer), _target_embeddings(model)
    sides = [("", "", target, writes)]
    if separate or target is not tokenizer:
        resize = "_source" if separate else ""
        sides = [
            ("'s source", resize, source_of(tokenizer), model.get_input_embeddings().num_embeddings),
            ("'s target", "", target, writes),
        ]
    for side, resize, words, known in sides:
        if (size := len(words)) > known:
            raise CheckpointError(
                f"the tokenizer{side} has {size} tokens but '{name}' has embeddings for {known}: {fix}, or call "
                f"model.resize{resize}_token_embeddings({size}) and train on."
            )
    for field in ("pad_token_id", "eos_token_id"):
        own, models = getattr(target, field), getattr(model.config, field, None)
        if own is not None and isinstance(models, int) and own != models:
            raise CheckpointError(f"{field} is {own} in the tokenizer but {models} in '{name}': {fix}.")


def _target_embeddings(model: Any) -> int:
    """Return how many tokens the embeddings of what a model writes are for: of an encoder-decoder, its decoder's."""
    if getattr(model.config, "is_encoder_decoder", False):
        embeddings = getattr(model.get_decoder(), "embed_tokens", None)
        if isinstance(embeddings, torch.nn.Embedding):
            return embeddings.num_embeddings
    return model.get_input_embeddings().num_embeddings


def check_generation(model: Any, name: str) -> None:
    """Raise CheckpointError where a model's generation settings hold what no search can be made with."""
    settings: GenerationConfig | None = getattr(model, "generation_config", None)
    if settings is None or not model.can_generate():
        return
    where = f"generation_config.json of '{name}'"
    for field, bounds in GENERATION.items():
        if (value := getattr(settings, field, None)) is not None:
            try:
                bounds.check(value)
            except NumberError as error:
                raise CheckpointError(f"{where}: {field} {error}: correct it.") from None
    for field in _SWITCHES:
        if not isinstance(getattr(settings, field, None), bool | None):
            raise CheckpointError(f"{where}: {field} must be true or false, not {shown(getattr(settings, field))}.")
    for field, is_right in _SHAPES.items():
        value = getattr(settings, field, None)
        if value is not None and not is_right(value):
            raise CheckpointError(f"{where}: {field} cannot be {shown(value)}: correct it, or leave it out.")
    known = model.get_input_embeddings().num_embeddings
    if getattr(model.config, "source_vocab_size", None) is not None:
        known = _target_embeddings(model)
    known = max(known, getattr(model.config, "decoder_vocab_size", None) or 0)
    # Without an encoder nothing starts from a token of the settings; GPT-2's own is beyond small vocabularies.
    for field in _TOKENS if getattr(model.config, "is_encoder_decoder", False) else ():
        value = getattr(settings, field, None)
        for token in value if isinstance(value, list) else [value]:
            if token is not None and (isinstance(token, bool) or not isinstance(token, int) or not 0 <= token < known):
                raise CheckpointError(
                    f"{where}: {field} must be an id of the vocabulary, 0 to {known - 1}, not {shown(token)}: correct "
                    "it, also in config.json."
                )


def check_files(name: str | Path, hint: str = COPY_AGAIN) -> None:
    """Raise CheckpointError where a folder has no weights, or a file that is not what its name says."""
    folder = Path(name)
    if not folder.is_dir():
        return
    for file in ("generation_config.json", "model.safetensors.index.json"):
        if (folder / file).exists():
            read_object(folder / file)
    weights = sorted(folder.glob("*.safetensors"))
    if not weights and not any(folder.glob("*.bin")):
        raise CheckpointError(f"'{folder}' has no weights: model.safetensors is missing: {as_clause(hint)}.")
    for path in weights:
        try:
            with safe_open(path, framework="pt"):
                pass
        except (SafetensorError, OSError) as error:
            raise CheckpointError(f"'{path}' is damaged ({shorten(error, 200)}): {as_clause(hint)}.") from error


def explained(name: str, what: str, trust: bool | None, load: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Call a loader; turn what damaged files and absent names make it raise into a CheckpointError of one line.

    Args:
        trust: whether code that comes with the checkpoint may run; None for a loader that runs none.
    """
    try:
        return load(*args, **(kwargs if trust is None else kwargs | {"trust_remote_code": trust}))
    except (CheckpointError, MemoryError, torch.OutOfMemoryError):
        raise
    except (KeyboardInterrupt, SystemExit, GeneratorExit):
        raise
    except BaseException as error:  # a panic of the library tokenizers is no Exception
        if "trust_remote_code" in str(error):
            raise CheckpointError(
                f"the {what} '{name}' brings Python code of its own, which was not run: read that code, and if you "
                "trust it, add --trust-remote-code."
            ) from None
        reason = f" ({type(error).__name__}: {shorten(error)})"
        if Path(name).is_dir() and what == CONFIGURATION:
            cause = "config.json has a wrong field, or names a kind that the installed transformers does not know"
        elif Path(name).is_dir():
            cause = "a file is missing or damaged, or the installed transformers does not know its kind"
        else:
            cause = "there is no such folder, and no model of that name could be had from the Hub"
        raise CheckpointError(f"the {what} '{name}' cannot be loaded: {cause}{reason}") from error


def _set_fields(config: PreTrainedConfig, fields: dict[str, Any]) -> None:
    known = {*type(config).__dataclass_fields__, *config.attribute_map}
    for field, value in fields.items():
        if field in known:
            setattr(config, field, value)


def _trust_of(loading_class: Any, trust: bool) -> bool | None:
    """Return what an Auto class is told of code in a folder; the others run none, and would save the keyword."""
    return trust if loading_class.__name__.startswith("Auto") else None


def _check_size(config: PreTrainedConfig, model_class: Any, name: str, dtype: Any) -> None:
    mapping = getattr(model_class, "_model_mapping", None)
    if mapping is not None:
        if type(config) not in mapping:
            return  # from_pretrained names the classes that it knows
        found = mapping[type(config)]
        model_class = found if isinstance(found, type) else found[0]
    try:
        check_memory(config, model_class, f"'{name}'", dtype if isinstance(dtype, torch.dtype) else None)
    except ValueError as error:
        raise CheckpointError(f"config.json of '{name}': {error}.") from None
